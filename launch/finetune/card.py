"""What the card of a fine-tuned model says of its training: scores over the seeds and of the seed that leaves, and the config."""

from pathlib import Path
from typing import Any

from launch.config import read_json, read_run_config
from launch.finetune import seeds
from launch.finetune.fields import FINETUNING

FILES = ("train", "eval", "test")  # of the config's `task` section


def card_facts(workdir: Path, step: int) -> dict[str, Any]:
    record = read_json(seeds.best_place(workdir) / seeds.NAME)
    facts: dict[str, Any] = {"seed": record["seed"], "step": step}
    config = read_run_config(workdir, FINETUNING)
    task = config["task"] | {name: Path(config["task"][name]).name for name in FILES}  # where a machine keeps its data is nobody's business
    return facts | {"scores": scores_of(workdir, record, step, config["seeds"]), "config": config | {"task": task}}


def scores_of(workdir: Path, record: dict[str, Any], step: int, wanted: list[float]) -> dict[str, str]:
    """Of the model that leaves, if it is the best of its run, and mean and standard deviation of all the wanted seeds, if they are over."""
    scores = {}
    held = seeds.summary(workdir) if seeds.has_summary(workdir, wanted) else {}
    for split in ("eval", "test"):
        for name, value in record.get(split, {}).items():
            told = [f"{value:.4f}"] if step == record["step"] else []
            if held:
                spread = held[split][name]
                told.append(f"{len(held['seeds'])} seeds: {spread['mean']:.4f} ± {spread['std']:.4f}")
            if told:
                scores[f"{name}, {split}"] = "; ".join(told)
    return scores
