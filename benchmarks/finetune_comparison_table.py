"""Results of benchmarks/finetune_comparison.py as files and as markdown tables. Standard library only, so that tables are printed anywhere at once."""

import json
import statistics
from pathlib import Path

from comparison_table import cell, differences, header, line, mean_and_spread, write_whole
from finetune_comparison_tasks import ARMS, EXPORT, STEPS, TASKS, Task

MEBIBYTE = 2**20
Seeds = dict[int, dict]


def result_path(directory: Path, task: str, arm: str, seed: int) -> Path:
    return directory / f"finetune-{task}-{arm}-seed{seed}.json"


def write_result(directory: Path, result: dict) -> None:
    write_whole(result_path(directory, result["task"], result["arm"], result["seed"]), result)


def read_results(directory: Path) -> dict[str, dict[str, Seeds]]:
    """Task -> arm -> seed -> result. ValueError if results of a task were made with different settings."""
    results: dict[str, dict[str, Seeds]] = {task: {arm: {} for arm in (*ARMS, EXPORT, STEPS)} for task in TASKS}
    first: dict[str, tuple[Path, dict]] = {}
    for path in sorted(directory.glob("finetune-*-seed*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["task"] in results:
            before, settings = first.setdefault(result["task"], (path, result["settings"]))
            if changed := differences(result["settings"], settings):
                raise ValueError(f"{path} and {before.name} differ in {', '.join(changed)}; keep results of different settings in different directories")
            results[result["task"]][result["arm"]][result["seed"]] = result
    return {task: {arm: dict(sorted(seeds.items())) for arm, seeds in arms.items()} for task, arms in results.items()}


def render(directory: Path) -> str:
    """All tables for which there is a result."""
    results = {task: arms for task, arms in read_results(directory).items() if any(arms[arm] for arm in ARMS)}
    if not results:
        return f"no results in {directory} yet"
    parts = [score_table(results), settings_table(results), steps_table(results), export_table(results), time_table(results)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def score_table(results: dict[str, dict[str, Seeds]]) -> list[str]:
    """A row for each metric of each task: mean, spread and seeds of both arms in percent, and the difference of the means."""
    lines = header(["task", "score, %", *ARMS.values(), "second - first", "no model"])
    for name, arms in results.items():
        for metric in TASKS[name].metrics:
            scores = {arm: {seed: 100 * result["scores"][metric] for seed, result in arms[arm].items()} for arm in ARMS}
            gaps = [gap_of(*(list(scores[arm].values()) for arm in ARMS))] if all(scores.values()) else [""]
            floor = next(result["baseline"].get(metric) for arm in ARMS for result in arms[arm].values())
            cells = [cell(list(of_seeds.values()), 1) for of_seeds in scores.values()]
            lines += [line([TASKS[name].title, metric, *cells, *gaps, "" if floor is None else f"{100 * floor:.1f}"])]
    return lines


def gap_of(one: list[float], other: list[float]) -> str:
    """Difference of the means ± its standard error, from the spreads of both (Welch 1947)."""
    gap = statistics.fmean(other) - statistics.fmean(one)
    if min(len(one), len(other)) < 2:
        return f"{gap:+.1f}"
    return f"{gap:+.1f} ± {sum(statistics.variance(values) / len(values) for values in (one, other)) ** 0.5:.1f}"


def settings_table(results: dict[str, dict[str, Seeds]]) -> list[str]:
    lines = header(["task", "set", "rows to train on", "their tokens", "scored examples", "length", "batch", "updates", "peak rate"])
    for name, arms in results.items():
        held = next((result for result in arms["transformers"].values()), None)
        if held is not None:
            task = settings_as_task(held["settings"])
            rows = [f"{held[field]:,}" for field in ("training_rows", "training_tokens", "evaluation_examples")]
            lines += [line([task.title, f"`{name}`", *rows, str(task.length), str(task.batch_size), f"{task.steps:,}", f"{task.peak:g}"])]
    return lines


def settings_as_task(settings: dict) -> Task:
    """What a result was made with, whatever the task's settings are by now."""
    return Task(**{field: settings[field] for field in Task.__dataclass_fields__})


def time_table(results: dict[str, dict[str, Seeds]]) -> list[str]:
    """CPU seconds of a run, those of its updates, those of compiling, and peak memory: mean and spread over the seeds."""
    columns = {"run, s of CPU": "cpu", "updates, s of CPU": "train_cpu", "peak memory, MiB": "peak_memory"}
    lines = header(["task", *(f"{label}: {heading}" for heading in columns for label in ARMS.values()), "bert_jax: compiling, s of CPU"])
    for name, arms in results.items():
        spent = {arm: [result["seconds"] for result in seeds.values()] for arm, seeds in arms.items() if arm in ARMS}
        cells = []
        for field in columns.values():
            scale = MEBIBYTE if field == "peak_memory" else 1
            cells += [mean_and_spread([seconds[field] / scale for seconds in spent[arm]], 0) if spent[arm] else "" for arm in ARMS]
        compiling = [seconds["compile_wall"] * seconds["cpu"] / seconds["wall"] for seconds in spent["bert_jax"]]  # the share of a core that it had
        lines += [line([TASKS[name].title, *cells, mean_and_spread(compiling, 0) if compiling else ""])]
    return lines


def steps_table(results: dict[str, dict[str, Seeds]]) -> list[str]:
    found = {name: result["steps"] for name, arms in results.items() for result in arms[STEPS].values()}
    if not found:
        return []
    lines = header(["task", "updates without dropout", "loss of the first", "of the last", "largest difference"])
    for name, held in found.items():
        first, last = (f"{held['bert_jax'][place]:.4f}" for place in (0, -1))
        lines += [line([TASKS[name].title, str(held["updates"]), first, last, f"{held['largest']:.1e}"])]
    return lines


def export_table(results: dict[str, dict[str, Seeds]]) -> list[str]:
    found = {name: result["export"] for name, arms in results.items() for result in arms[EXPORT].values()}
    if not found:
        return []
    lines = header(["task", "compared", "the same", "largest difference", "of"])
    for name, held in found.items():
        largest = "" if held["largest"] is None else f"{held['largest']:.1e}"
        lines += [line([TASKS[name].title, f"{held['compared']:,} {held['answers']}", f"{100 * held['agreement']:.2f} %", largest, held["of"]])]
    return lines
