"""A command of bert-jax in a process of its own, for benchmarks/finetune_comparison.py: its exit status, and how long it trained and compiled.

    python benchmarks/finetune_comparison_ours.py SECONDS.json finetune --config=... --init=... --workdir=...

Several commands are parted by `--then`. SECONDS.json: train_wall, train_cpu (all updates, one evaluation, one checkpoint, and what is compiled for
them) and compile_wall (of the whole process, by the clock).
"""

import importlib.abc
import json
import sys
import time
from pathlib import Path


class WithoutTorch(importlib.abc.MetaPathFinder):
    """As where bert_jax is installed without it; else tensorboardX would load it."""

    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("torch is left out here")


sys.meta_path.insert(0, WithoutTorch())

import jax

from launch import cli
from launch.finetune import finetune


def main() -> int:
    seconds = {"train_wall": 0.0, "train_cpu": 0.0, "compile_wall": 0.0}

    def compiled(event: str, duration: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            seconds["compile_wall"] += duration

    jax.monitoring.register_event_duration_secs_listener(compiled)
    fit = finetune.fit

    def timed(*arguments, **keywords):
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return fit(*arguments, **keywords)
        finally:
            seconds["train_wall"] += time.perf_counter() - wall
            seconds["train_cpu"] += time.process_time() - cpu

    finetune.fit = timed
    for command in commands(sys.argv[2:]):
        if status := cli.main(command):
            return status
    Path(sys.argv[1]).write_text(json.dumps(seconds), encoding="utf-8")
    return 0


def commands(words: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for word in words:
        if word == "--then":
            found.append([])
        else:
            found[-1].append(word)
    return found


if __name__ == "__main__":
    sys.exit(main())
