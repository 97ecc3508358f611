"""bert_jax beside transformers' Trainer and torch in fine-tuning: seven public sets, several seeds, the same start, tokens, settings and scores.

    bert-jax export --workdir=runs/base --output=base
    python benchmarks/finetune_comparison.py --data sets --init base --work runs/finetune_comparison
    python benchmarks/finetune_comparison.py --table              # what is there so far, as markdown; needs neither jax nor torch

`--data` is a folder with the sets (docs/results.md: where they come from), `--init` a BERT in Hugging Face layout. Each run is a process of its own on one
core: `bert-jax finetune`, or `Trainer` (for sentence vectors sentence-transformers' trainer). They take turns, seed by seed and task by task. Both sides
have the settings of finetune_comparison_tasks.py; a head's first weights, the order of the rows and dropout are each side's own, by the seed. The last
checkpoint counts. Each writes its predictions, and the same code scores them.

Then, for each task, bert_jax's model of seed 0 is exported (`bert-jax export --verify`), and transformers' predictions with it are compared with those of
`bert-jax predict`, example by example; and from that model, head included, both sides make the same few updates without dropout, whose losses are compared.

A run's result is a file in --results at once: the same command continues after an interruption, and does nothing when all is there. A result made with
other settings, data or another start is never mixed in; the command stops and says what differs. Nothing is downloaded.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import finetune_comparison_table
from finetune_comparison_data import prepare
from finetune_comparison_table import differences, result_path, write_result
from finetune_comparison_tasks import ARMS, EXPORT, STEPS, TASKS, Task, overrides, settings_of

HERE = Path(__file__).parent
LIBRARIES = ("jax", "torch", "transformers", "sentence-transformers")
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with the sets, each in a folder of its own name")
    parser.add_argument("--init", type=Path, metavar="DIR", help="the pretrained BERT, as `bert-jax export` or transformers writes it")
    parser.add_argument("--work", type=Path, metavar="DIR", help="the sets as both sides read them, runs, predictions")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="a JSON file per task, arm and seed (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="only these")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ... (default: %(default)s); more add to what is there")
    parser.add_argument("--core", type=int, help="the one core that all runs use (default: the first that this process may use)")
    parser.add_argument("--table", action="store_true", help="print the tables of what is in --results, and do nothing else")
    arguments = parser.parse_args()
    if not arguments.table:
        missing = [f"--{name}" for name in ("data", "init", "work") if not getattr(arguments, name)]
        if missing:
            parser.error(f"{', '.join(missing)} must be given, or --table to print what is in {arguments.results}")
        run(arguments)
    print(finetune_comparison_table.render(arguments.results))
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Trains what has no result yet."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0)) if arguments.core is None else arguments.core])
    arguments.init, arguments.work = arguments.init.absolute(), arguments.work.absolute()
    weights = hashlib.sha256((arguments.init / "model.safetensors").read_bytes()).hexdigest()[:16]
    settings = {
        name: settings_of(TASKS[name]) | {"data": prepare(TASKS[name], arguments.data, arguments.work / "data"), "init": weights}
        for name in arguments.tasks
    }
    for seed in range(arguments.seeds):
        for name in arguments.tasks:
            task = TASKS[name]
            for arm in list(ARMS)[:: 1 if seed % 2 == 0 else -1]:
                if not done(arguments.results, name, arm, seed, settings[name]):
                    one_run(task, arm, seed, settings[name], arguments)
            if seed == 0 and not done(arguments.results, name, EXPORT, seed, settings[name]):
                compare_export(task, seed, settings[name], arguments)
            if seed == 0 and not done(arguments.results, name, STEPS, seed, settings[name]):
                compare_steps(task, seed, settings[name], arguments)


def done(directory: Path, task: str, arm: str, seed: int, settings: dict) -> bool:
    """Whether there is this result. SystemExit if there is one of other settings."""
    path = result_path(directory, task, arm, seed)
    if not path.is_file():
        return False
    if changed := differences(json.loads(path.read_text(encoding="utf-8"))["settings"], settings):
        raise SystemExit(f"{path} was made with another {', '.join(changed)}; give another --results, or remove it to make it anew")
    return True


def one_run(task: Task, arm: str, seed: int, settings: dict, arguments: argparse.Namespace) -> None:
    """Trains, scores, and writes the result."""
    from finetune_comparison_score import answers_of_ours, answers_of_torch, baseline, check_same_tokens, read_part, score

    data, place = arguments.work / "data" / task.name, place_of(arguments, task, arm, seed)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    used = in_a_process(command_of(task, arm, seed, arguments.init, data, place), place / "log.txt")
    part = read_part(task, data, "eval", arguments.init)
    result = {"task": task.name, "arm": arm, "seed": seed, "settings": settings, "evaluation_examples": len(part.examples)}
    if arm == "bert_jax":
        answers = answers_of_ours(task, place / "vectors" if task.kind == "embedding" else place / "run" / "seeds" / str(seed) / "predictions-eval.jsonl")
    else:
        train = read_part(task, data, "train", arguments.init)
        result |= {"training_tokens": check_same_tokens(train, place / "train_ids.npz"), "training_rows": len(train.features)}
        check_same_tokens(part, place / "eval_ids.npz")
        check_same_labels(train, place)
        answers = answers_of_torch(task, part, place)
    result |= {
        "scores": score(task, part, answers, data), "baseline": baseline(task, part, data),
        "seconds": used | json.loads((place / "seconds.json").read_text(encoding="utf-8")),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }  # fmt: skip
    write_result(arguments.results, result)
    shown = "  ".join(f"{name} {result['scores'][name]:.4f}" for name in task.metrics)
    print(f"{task.name}, {arm}, seed {seed}: {shown}  ({used['cpu']:.0f} s of CPU)", flush=True)


def check_same_labels(part, place: Path) -> None:
    """Of what both sides learn from: SystemExit if it differs."""
    import numpy as np

    path = place / "train_labels.npz"
    if not path.is_file():
        return
    theirs, features = np.load(path)["values"], part.features
    ours = features.labels if features.start_positions is None else np.stack([features.start_positions, features.end_positions], 1)
    if not np.array_equal(ours.reshape(-1), theirs.reshape(-1)):
        raise SystemExit(f"{path} holds other labels than bert_jax reads")


def place_of(arguments: argparse.Namespace, task: Task, arm: str, seed: int) -> Path:
    return arguments.work / "runs" / f"{task.name}-{arm}-seed{seed}"


def command_of(task: Task, arm: str, seed: int, init: Path, data: Path, place: Path) -> list[str]:
    if arm == "transformers":
        return [str(HERE / "finetune_comparison_torch.py"), "train", task.name, str(init), str(data), str(place), "--seed", str(seed)]
    words = [str(HERE / "finetune_comparison_ours.py"), str(place / "seconds.json"), "finetune"]
    words += [*overrides(task, str(data / "train.jsonl"), str(data / "eval.jsonl"), seed), f"--init={init}", f"--workdir={place / 'run'}"]
    return [*words, *(word for name in ("queries", "corpus") for word in embed(data, place, name))] if task.kind == "embedding" else words


def embed(data: Path, place: Path, name: str) -> list[str]:
    (place / "vectors").mkdir(exist_ok=True)
    return ["--then", "embed", f"--model={place / 'run'}", f"--input={data / name}.txt", f"--output={place / 'vectors' / name}.npy"]


def compare_export(task: Task, seed: int, settings: dict, arguments: argparse.Namespace) -> None:
    """Exports bert_jax's run and compares both sides' predictions with it."""
    from finetune_comparison_score import check_same_tokens, difference, read_part

    data, ours = arguments.work / "data" / task.name, place_of(arguments, task, "bert_jax", seed)
    theirs = place_of(arguments, task, EXPORT, seed)
    shutil.rmtree(theirs, ignore_errors=True)
    theirs.mkdir(parents=True)
    bert_jax = ["-m", "launch.cli"]
    in_a_process([*bert_jax, "export", f"--workdir={ours / 'run'}", f"--output={theirs / 'model'}", "--verify"], theirs / "export.txt")
    predictions = ours / "vectors"
    if task.kind != "embedding":
        predictions = theirs / "predictions.jsonl"
        words = ["predict", f"--model={ours / 'run'}", f"--input={data / 'eval.jsonl'}", f"--output={predictions}"]
        in_a_process([*bert_jax, *words], theirs / "predict.txt")
    script = str(HERE / "finetune_comparison_torch.py")
    in_a_process([script, "predict", task.name, str(theirs / "model"), str(data), str(theirs)], theirs / "log.txt")
    part = read_part(task, data, "eval", arguments.init)
    if task.kind != "embedding":
        check_same_tokens(part, theirs / "eval_ids.npz")
    found = difference(task, part, predictions, theirs)
    write_result(arguments.results, {"task": task.name, "arm": EXPORT, "seed": seed, "settings": settings, "export": found})
    print(f"{task.name}, exported: {found['agreement']:.2%} of {found['compared']} {found['answers']} agree", flush=True)


def compare_steps(task: Task, seed: int, settings: dict, arguments: argparse.Namespace) -> None:
    """Both sides' losses, update by update, from the model that `compare_export` exported."""
    place = place_of(arguments, task, EXPORT, seed)
    words = [task.name, str(place / "model"), str(arguments.work / "data" / task.name), str(place / "steps.json")]
    in_a_process([str(HERE / "finetune_comparison_steps.py"), *words], place / "steps.txt")
    found = json.loads((place / "steps.json").read_text(encoding="utf-8"))
    write_result(arguments.results, {"task": task.name, "arm": STEPS, "seed": seed, "settings": settings, "steps": found})
    print(f"{task.name}, {found['updates']} updates without dropout: losses differ by {found['largest']:.1e} at most", flush=True)


def in_a_process(words: list[str], log: Path) -> dict[str, float]:
    """Runs Python with these words; seconds by the clock and of CPU, and the largest resident memory in bytes. SystemExit with its last words if it fails."""
    began = time.perf_counter()
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=subprocess.STDOUT, cwd=HERE.parent, env=os.environ | ENVIRONMENT)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        raise SystemExit("\n".join([*last, f"{' '.join(words[:3])} ended with status {process.returncode}; all it said is in {log}"]))
    return {"wall": time.perf_counter() - began, "cpu": usage.ru_utime + usage.ru_stime, "peak_memory": usage.ru_maxrss * 1024}


if __name__ == "__main__":
    sys.exit(main())
