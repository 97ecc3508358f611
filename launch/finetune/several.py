"""Several fine-tuning configs one after another, each in a directory of its own: the grid of a sweep, the tasks of GLUE.

    WORKDIR/NAME/...       each as `finetune` leaves it; those that are there already are not run again
    WORKDIR/table.json, report.html     of all
"""

import itertools
import logging
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bert_jax.processes import is_first
from bert_jax.training.checkpoint_files import better
from launch.config import ConfigError, load, write_json
from launch.finetune.fields import FINETUNING
from launch.finetune.finetune import finetune
from launch.finetune.seeds import GLUE, names_of, score_of, summary
from launch.oversight import Oversight
from launch.report.report import write_report

Line = tuple[str, ...]
log = logging.getLogger("bert_jax")


def sweep(path: str, overrides: list[str], grid: list[str], init: Path, workdir: Path, oversight: Oversight, *, accept_changes: bool) -> int:
    """Every combination of the grid's values, "FIELD=VALUE,VALUE" each; the best by the mean over seeds is named last."""
    axes = [[f"{field.removeprefix('config.')}={value}" for value in values.split(",")] for field, separator, values in (axis.partition("=") for axis in grid) if separator]
    if len(axes) < len(grid):
        raise ConfigError(f"--sweep={grid[0]}: write FIELD=VALUE,VALUE, such as schedule.peak=2e-5,3e-5,5e-5")
    cases = {",".join(settings).replace("/", "_"): load(path, [*overrides, *(f"config.{setting}" for setting in settings)], FINETUNING) for settings in itertools.product(*axes)}
    return run_all(cases, init, workdir, oversight, sweep_table, accept_changes=accept_changes)


def glue(tasks: tuple[str, ...], overrides: list[str], init: Path, workdir: Path, oversight: Oversight, *, accept_changes: bool) -> int:
    """The tasks of GLUE (Wang et al. 2018, arXiv 1804.07461), on its development sets, which have labels."""
    unknown = [task for task in tasks if task not in GLUE]
    if unknown:
        raise ConfigError(f"--tasks names {unknown[0]}; known: {', '.join(GLUE)}")
    cases = {task: load(f"configs/finetune/{task}.py", overrides, FINETUNING) for task in tasks}
    return run_all(cases, init, workdir, oversight, glue_table, accept_changes=accept_changes)


def run_all(cases: dict[str, Any], init: Path, workdir: Path, oversight: Oversight, table: Callable[[dict[str, Any]], list[Line]], *, accept_changes: bool) -> int:
    for name, config in cases.items():
        if status := finetune(config, init, workdir / name, oversight, accept_changes=accept_changes):
            return status
    found = {name: summary(workdir / name) for name in cases}
    if is_first():
        write_json(workdir / "table.json", {name: {split: scores[split] for split in ("eval", "test") if split in scores} for name, scores in found.items()})
        lines = table(found)
        widths = [max(map(len, column)) for column in zip(*lines)]
        print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines))
        log.info("report: %s", write_report(workdir))
    return 0


def sweep_table(found: dict[str, Any]) -> list[Line]:
    scores = {name: one["eval"][one["metric"]] for name, one in found.items()}
    metric = next(iter(found.values()))["metric"]
    best = max(scores, key=lambda name: better(metric, scores[name]["mean"]))
    lines = [(name, f"{score['mean']:.4f} ± {score['std']:.4f}", "best" if name == best else "") for name, score in scores.items()]
    return [("setting", metric, ""), *lines]


def glue_table(found: dict[str, Any]) -> list[Line]:
    lines = [("task", "score", "")]
    for task, one in found.items():
        scores = {name: one["eval"][name] for name in names_of(task, one)}
        lines.append((task, f"{100 * score_of(task, one):.1f}", ", ".join(f"{name} {100 * score['mean']:.1f} ± {100 * score['std']:.1f}" for name, score in scores.items())))
    defined = [score for task, one in found.items() if math.isfinite(score := score_of(task, one))]
    average = f"{100 * statistics.fmean(defined):.1f}" if defined else "nan"
    return [*lines, ("average", average, f"of {len(defined)} {'tasks' if len(defined) == len(found) else f'of {len(found)} tasks'}")]
