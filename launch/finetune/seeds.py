"""What the runs of several seeds have in common: mean and spread of their scores, and which is the best."""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bert_jax.training.checkpoint_files import better
from data_pipeline.tasks.metrics import METRICS_OF
from launch.config import ConfigError, read_json, read_run_config, write_json
from launch.finetune.fields import FINETUNING

NAME = "scores.json"
GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")  # without WNLI, as Devlin et al. 2018, section 4.1


def write_summary(workdir: Path, metric: str, seeds: tuple[int, ...]) -> None:
    """WORKDIR/scores.json from those of the seeds, which are all there."""
    records = [read_json(workdir / "seeds" / str(seed) / NAME) for seed in seeds]
    best = max(records, key=lambda record: better(metric, record["eval"][metric]))
    splits = {name: {score: spread([record[name][score] for record in records]) for score in records[0][name]} for name in ("eval", "test") if name in records[0]}
    write_json(workdir / NAME, {"metric": metric, "best_seed": best["seed"], "seeds": records, **splits})


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation (of a sample; 0 for a single value); nan where a seed has no score, as a correlation with a constant."""
    if not all(map(math.isfinite, values)):  # which `statistics.stdev` fails on
        return {"mean": math.nan, "std": math.nan}
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def has_summary(workdir: Path, seeds: Iterable[float]) -> bool:
    """Whether WORKDIR/scores.json is of these seeds; others may have been asked for since it was written."""
    return (workdir / NAME).is_file() and {record["seed"] for record in summary(workdir)["seeds"]} == set(seeds)


def summary(workdir: Path) -> dict[str, Any]:
    path = workdir / NAME
    if not path.is_file():
        raise ConfigError(f"{workdir} has no {NAME}: its runs are not over yet; `bert-jax finetune` with the same arguments continues them")
    return read_json(path)


def names_of(task: str, one: dict[str, Any]) -> tuple[str, ...]:
    """The metrics of which a task's score is the mean: GLUE's own, of any other task the one that its checkpoints are chosen by."""
    published = METRICS_OF.get(task, ())
    return published if published and all(name in one["eval"] for name in published) else (one["metric"],)


def score_of(task: str, one: dict[str, Any]) -> float:
    """one: a `summary`."""
    return statistics.fmean(one["eval"][name]["mean"] for name in names_of(task, one))


def spread_of(task: str, one: dict[str, Any]) -> float:
    """The standard deviation over seeds of `score_of`."""
    values = [statistics.fmean(record["eval"][name] for name in names_of(task, one)) for record in one["seeds"]]
    return spread(values)["std"]


def best_place(workdir: Path) -> Path:
    """The directory of the best of the config's seeds, of those whose runs are over."""
    config = read_run_config(workdir, FINETUNING)
    places = [workdir / "seeds" / str(int(seed)) for seed in config["seeds"]]
    records = {place: read_json(place / NAME) for place in places if (place / NAME).is_file()}
    if not records:
        raise ConfigError(f"no run of {workdir} is over yet; `bert-jax finetune` with the same arguments continues them")
    metric = config["task"]["metric"]
    return max(records, key=lambda place: better(metric, records[place]["eval"][metric]))


def best_step(place: Path) -> int:
    """Of a seed whose run is over."""
    return read_json(place / NAME)["step"]


def table(found: dict[str, Any]) -> str:
    """A line for each seed, and one for their mean and spread."""
    splits = [name for name in ("eval", "test") if name in found]
    columns = [(split, score) for split in splits for score in found[split]]
    heads = ["seed", "step", *(f"{split} {score}" for split, score in columns)]
    rows = [[str(record["seed"]), str(record["step"]), *(f"{record[split][score]:.4f}" for split, score in columns)] for record in found["seeds"]]
    rows.append(["mean", "", *(f"{found[split][score]['mean']:.4f}" for split, score in columns)])
    rows.append(["std", "", *(f"{found[split][score]['std']:.4f}" for split, score in columns)])
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in [heads, *rows])
