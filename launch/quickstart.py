"""`make quickstart`: the whole road on one CPU, by the commands that a user would type, with one kill -9 and resume on the way."""

import argparse
import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.run_log import read_records
from launch.config import write_json

MARKER = "quickstart.json"  # only a directory that holds it is ever removed
VOCAB_SIZE = 4_000
HOLDOUT = 0.05
EXAMPLES = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="embedded", help="text files: a path, glob or directory (default: the English that comes with Python)")
    parser.add_argument("--workdir", default="runs/quickstart", type=Path)
    parser.add_argument("--steps", type=int, help="train this many steps instead of the config's")
    arguments = parser.parse_args()
    try:
        quickstart(arguments.corpus, arguments.workdir, arguments.steps)
    except (Stopped, ValueError, OSError) as error:
        print(f"\nquickstart: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nquickstart: interrupted", file=sys.stderr)
        return 130
    return 0


class Stopped(Exception):
    """A command of the road failed; it has said why."""


def quickstart(corpus: str, workdir: Path, steps: int | None) -> None:
    began = time.monotonic()
    fresh_directory(workdir)
    tokenizer, store, run, model = (workdir / name for name in ("tokenizer", "store", "run", "model"))
    title("1/6  Train a WordPiece tokenizer")
    bert_jax("tokenizer", f"--input={corpus}", "--kind=wordpiece", f"--vocab-size={VOCAB_SIZE}", f"--output={tokenizer}")
    title("2/6  Turn the text into a token store")
    bert_jax("prepare", f"--input={corpus}", f"--tokenizer={tokenizer}", f"--output={store}", f"--holdout={HOLDOUT}")
    bert_jax("inspect", str(store), "--length=64", "--rows=1")
    title("3/6  Pretrain: masked words and next sentences")
    pretrain = ["pretrain", "--config=configs/quickstart.py", f"--workdir={run}", f"--config.data.path={store}"]
    pretrain += [f"--config.steps={steps}"] if steps else []
    killed_at = run_and_kill(pretrain, run)
    if killed_at is not None:
        print(f"\n>>> kill -9: the process is gone. Its last whole checkpoint is of step {killed_at}; the same command again:\n", flush=True)
        bert_jax(*pretrain)
    title("4/6  Evaluate on held-out text")
    if (store / "eval").exists():
        bert_jax("evaluate", f"--workdir={run}")
    else:
        print("the corpus is so small that no document was held out")
    title("5/6  Export to PyTorch format")
    verifiable = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    bert_jax("export", f"--workdir={run}", f"--output={model}", *(["--verify"] if verifiable else []))
    title("6/6  Fill in masks with the exported model")
    examples = json.loads((run / "samples.json").read_text())[:EXAMPLES] if (run / "samples.json").exists() else []
    bert_jax("fill-mask", f"--model={model}", "--top=3", examples[0]["text"] if examples else "The [MASK] of the day.")
    summary(run, model, examples, killed_at, time.monotonic() - began)


def fresh_directory(workdir: Path) -> None:
    """An empty workdir; an earlier quickstart's is removed, anything else is left alone."""
    if workdir.exists() and any(workdir.iterdir()):
        if not (workdir / MARKER).exists():
            raise ValueError(f"{workdir} holds something else than an earlier quickstart; name another one: make quickstart WORKDIR=...")
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / MARKER, {"made_by": "make quickstart"})


def title(text: str) -> None:
    print(f"\n\033[1m── {text}\033[0m" if sys.stdout.isatty() else f"\n── {text}", flush=True)


def command(arguments: list[str] | tuple[str, ...]) -> list[str]:
    print(f"$ bert-jax {shlex.join(arguments)}", flush=True)
    return [sys.executable, "-m", "launch.cli", *arguments]


def bert_jax(*arguments: str) -> None:
    if subprocess.run(command(arguments)).returncode:
        raise Stopped(f"`bert-jax {arguments[0]}` failed; its message is above")


def run_and_kill(arguments: list[str], run: Path) -> int | None:
    """Runs pretraining and kills it hard some time after its second checkpoint; returns the newest whole step, or None if it finished before."""
    process = subprocess.Popen(command(arguments))
    checkpoints = Checkpoints(run / "checkpoints")
    try:
        while process.poll() is None:
            if len(checkpoints.steps()) >= 2:
                time.sleep(3)  # so that work past the checkpoint is lost and done again
                process.kill()
                process.wait()
                return checkpoints.steps()[-1]
            time.sleep(0.2)
    finally:
        process.kill()
    if process.returncode:
        raise Stopped("`bert-jax pretrain` failed; its message is above")
    return None


def summary(run: Path, model: Path, examples: list[dict], killed_at: int | None, seconds: float) -> None:
    records = read_records(run / "metrics.jsonl")
    training = [record for record in records if record["split"] == "train"]
    held_out = [record for record in records if record["split"] == "eval"]
    newest = Checkpoints(run / "checkpoints").steps()[-1]
    title(f"Done in {seconds / 60:.1f} minutes")
    print(f"  training loss          {training[0]['loss']:.2f} at step {training[0]['step']:,} -> {training[-1]['loss']:.2f} at step {training[-1]['step']:,}")
    if held_out:
        last = held_out[-1]
        print(f"  held-out accuracy      {last['mlm_accuracy']:.1%} of masked words   (always the most frequent one: {last['unigram_accuracy']:.1%})")
        print(f"  held-out perplexity    {last['perplexity']:.1f}     next-sentence accuracy {last['nsp_accuracy']:.1%} (commoner label: {last['nsp_majority']:.1%})")
    if killed_at is not None:
        print(f"  resumed                from step {killed_at:,}, after kill -9")
    print("\n  held-out sentences, their masked word and the top predictions:")
    for example in examples:
        guesses = "  ".join(f"{item['token']} {item['probability']:.0%}" for item in example["predictions"][0][:3])
        print(f"    {example['text']}\n      {example['answer'][0]}:  {guesses}")
    print(f"\n  checkpoint             {run / 'checkpoints' / f'step_{newest:08d}'}")
    print(f"  exported model         {model}")
    print(f"  report page            {run / 'report.html'}")
    print(f"\n  try:  .venv/bin/bert-jax fill-mask --model={model} 'Return the [MASK] of the list.'")


if __name__ == "__main__":
    sys.exit(main())
