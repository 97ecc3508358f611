"""Makes the reference curves that the report page draws behind a run's own (launch/report/reference_curves.json).

    python benchmarks/reference_curves.py --workdir=runs/reference [--seeds 0 1 2] [--curve quickstart] [--tolerance 0.02]

Prepares the embedded corpus as `make quickstart` does, trains each of CURVES with several seeds, one after the other, and writes mean, least and
greatest loss of every logged step. Runs that are finished are not done again, and one that was killed goes on. Prints the spread between seeds.
About three minutes for each seed of the quickstart on two quiet cores. To see by how much another text shifts the curve, run it in an
environment with other packages and another --output.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from launch import config as configs
from launch.quickstart import HOLDOUT, VOCAB_SIZE
from launch.report.reference_curves import REGISTRY, SPLITS
from launch.report.run_log import Log, read_log, series

CURVES: dict[str, tuple[str, ...]] = {  # shipped config -> overrides
    "quickstart": (),
    "bert_tiny": (
        "config.steps=400",
        "config.schedule.warmup_steps=40",
        "config.batch_size=32",
        "config.model.vocab_size=0",
        "config.compute.dtype=float32",
        "config.log_every=20",
        "config.eval.every=200",
        "config.eval.sequences=512",
        "config.eval.batch_size=32",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--curve", choices=CURVES, action="append", help="default: all; the others stay as they are in the output")
    parser.add_argument("--tolerance", type=float, default=0.02, help="share of the loss by which a band is wider than the seeds' spread")
    parser.add_argument("--output", type=Path, default=REGISTRY)
    arguments = parser.parse_args()
    tokenizer, store = arguments.workdir / "tokenizer", arguments.workdir / "store"
    if not tokenizer.exists():
        bert_jax("tokenizer", "--input=embedded", "--kind=wordpiece", f"--vocab-size={VOCAB_SIZE}", f"--output={tokenizer}")
    bert_jax("prepare", "--input=embedded", f"--tokenizer={tokenizer}", f"--output={store}", f"--holdout={HOLDOUT}")
    entries = {entry["config"]: entry for entry in (json.loads(arguments.output.read_text()) if arguments.output.exists() else [])}
    for curve in arguments.curve or CURVES:
        logs = [train(curve, seed, store, arguments.workdir / curve / f"seed_{seed}") for seed in arguments.seeds]
        entries[curve] = make_entry(curve, arguments.seeds, arguments.tolerance, logs)
    order = [entries[curve] for curve in CURVES if curve in entries]
    configs.write_json(arguments.output, order)


def bert_jax(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "launch.cli", *words], check=True)


def train(curve: str, seed: int, store: Path, run: Path) -> Log:
    log = run / "metrics.jsonl"
    if not (log.exists() and any(event["event"] == "finished" for event in read_log(log.open()).events)):
        overrides = [f"--{override}" for override in CURVES[curve]]
        bert_jax("pretrain", f"--config={curve}", f"--workdir={run}", f"--config.data.path={store}", f"--config.seed={seed}", *overrides)
    return read_log(log.open())


def make_entry(curve: str, seeds: list[int], tolerance: float, logs: list[Log]) -> dict:
    settings = configs.load(curve, list(CURVES[curve]))
    settings["model"]["vocab_size"] = VOCAB_SIZE
    entry = {
        "config": curve,
        "overrides": list(CURVES[curve]),
        "vocab_size": VOCAB_SIZE,
        "seeds": seeds,
        "tolerance": tolerance,
        "settings": settings,
    }
    for split in SPLITS:
        steps = series(getattr(logs[0], split), "loss")[0]
        losses = np.stack([series(getattr(log, split), "loss")[1] for log in logs])  # [seeds, N]
        columns = {"mean": losses.mean(axis=0), "min": losses.min(axis=0), "max": losses.max(axis=0)}
        entry[split] = {"step": steps.tolist()} | {name: [round(value, 4) for value in column.tolist()] for name, column in columns.items()}
        spread = (columns["max"] - columns["min"]) / columns["mean"]
        between = f"{spread.mean():.1%} on average, {spread.max():.1%} at most"
        print(f"{curve}, {split}: {len(steps)} steps, last mean {columns['mean'][-1]:.3f}; from least to greatest {between}")
    return entry


if __name__ == "__main__":
    main()
