"""Results of benchmarks/comparison.py as files and as markdown tables. Standard library only, so that tables are printed anywhere at once.

A result is one JSON file per arm and seed: settings, held-out metrics, training losses, seconds.
"""

import json
import math
import os
import statistics
from pathlib import Path

from comparison_arms import ARMS, TABLES, VIEWS, Table

METRICS = {  # name -> heading, factor, digits
    "mlm_accuracy": ("masked accuracy, %", 100.0, 2),
    "mlm_loss": ("masked loss", 1.0, 3),
    "nsp_accuracy": ("NSP accuracy, %", 100.0, 1),
}
BASELINES = {"mlm_accuracy": "unigram_accuracy", "mlm_loss": "unigram_loss", "nsp_accuracy": "nsp_majority"}
CLOCKS = {
    "wall_median_step": ("median step, ms", 1e3, 0),
    "wall_total": ("all steps, s", 1.0, 0),
    "cpu_total": ("all steps, s of CPU", 1.0, 0),
}


def result_path(directory: Path, arm: str, seed: int) -> Path:
    return directory / f"{arm}-seed{seed}.json"


def write_result(directory: Path, result: dict) -> None:
    write_whole(result_path(directory, result["arm"], result["seed"]), result)


def write_whole(path: Path, result: dict) -> None:
    """As JSON; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_results(directory: Path) -> dict[str, dict[int, dict]]:
    """Arm -> seed -> result, of the arms that are known. ValueError if seeds of an arm were made with different settings."""
    results: dict[str, dict[int, dict]] = {name: {} for name in ARMS}
    for path in sorted(directory.glob("*-seed*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["arm"] in results:
            results[result["arm"]][result["seed"]] = result
    for name, seeds in results.items():
        for seed, result in seeds.items():
            first = min(seeds)
            if changed := differences(result["settings"], seeds[first]["settings"]):
                files = f"{result_path(directory, name, seed)} and {result_path(directory, name, first).name}"
                raise ValueError(f"{files} differ in {', '.join(changed)}; keep results of different settings in different directories")
    return {name: dict(sorted(seeds.items())) for name, seeds in results.items()}


def differences(one: dict, other: dict) -> list[str]:
    """The settings in which two results differ."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def mean_and_spread(values: list[float], digits: int) -> str:
    """`12.34 ± 0.05`: mean and sample standard deviation; of one value no spread can be told."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def cell(values: list[float], digits: int) -> str:
    """Mean, spread, and each value in brackets."""
    return f"{mean_and_spread(values, digits)} ({', '.join(f'{value:.{digits}f}' for value in values)})" if values else ""


def render(directory: Path) -> str:
    """All tables for which there is a result."""
    results = read_results(directory)
    parts = [text for table in TABLES.values() if (text := render_table(table, results))]
    return "\n\n".join(parts) if parts else f"no results in {directory} yet"


def render_table(table: Table, results: dict[str, dict[int, dict]]) -> str:
    """Markdown, or "" without results: a row per arm and view with each seed, then second arm - first arm over the seeds that both have."""
    arms = {name: results[name] for name in table.arms if results[name]}
    if not arms:
        return ""
    first = next(iter(next(iter(arms.values())).values()))
    measured = {metric for seeds in arms.values() for result in seeds.values() for view in result["held_out"].values() for metric in view}
    columns = {name: column for name, column in METRICS.items() if name in measured}
    several = len(table.views) > 1
    lines = [f"### {table.title}", "", describe(first, table.views), ""]
    lines += header([*["measured on"] * several, "arm", "seeds", *(column[0] for column in columns.values())])
    for view in table.views:
        scores = {name: {seed: result["held_out"][view] for seed, result in seeds.items()} for name, seeds in arms.items()}
        baseline = first["baselines"][view]
        floor = {metric: baseline[BASELINES[metric]] for metric in columns if baseline[BASELINES[metric]] is not None}
        floors = [f"{scale * floor[metric]:.{digits}f}" if metric in floor else "" for metric, (_, scale, digits) in columns.items()]
        rows = [*score_rows(scores, columns), ["by frequency alone", "", *floors]]
        lines += [line([*[VIEWS[view]] * several, *row]) for row in rows]
    lines += ["", *size_table(arms)]
    lines += ["", *time_table(arms)] if table.timed else []
    return "\n".join(lines)


def header(names: list[str]) -> list[str]:
    return [line(names), "|---" * len(names) + "|"]


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def score_rows(scores: dict[str, dict[int, dict]], columns: dict[str, tuple]) -> list[list[str]]:
    """Cells of a row for each arm, and of their difference, from arm -> seed -> metrics."""
    rows = [(ARMS[name].label, seeds) for name, seeds in scores.items()]
    if len(scores) == 2:
        one, two = scores.values()
        difference = {
            seed: {metric: two[seed][metric] - one[seed][metric] for metric in columns if metric in one[seed] and metric in two[seed]}
            for seed in one
            if seed in two
        }
        rows += [("second - first, seed by seed", difference)] if difference else []

    def score_cell(seeds: dict[int, dict], metric: str) -> str:
        _, scale, digits = columns[metric]
        return cell([scale * score[metric] for score in seeds.values() if metric in score], digits)

    return [[label, str(len(seeds)), *(score_cell(seeds, metric) for metric in columns)] for label, seeds in rows]


def describe(result: dict, views: tuple[str, ...]) -> str:
    """What the arms of a table have in common."""
    predictions = ", ".join(f"{result['baselines'][view]['predictions']:,}" for view in views)
    settings = result["settings"]
    model = settings["model"]
    return (
        f"{model['num_layers']} layers of {model['hidden_size']}, vocabulary {model['vocab_size']:,}, length {settings['length']}, "
        f"{settings['steps']:,} updates of about {settings['target_tokens']:,} real tokens, AdamW, peak rate {settings['peak']:g} after "
        f"{settings['warmup_steps']:,} updates, then linear to 0; held-out predictions: {predictions}."
    )


def size_table(arms: dict[str, dict[int, dict]]) -> list[str]:
    """Rows, real tokens, passes, and the price of an update of each arm."""
    lines = header(["arm", "rows per update", "real tokens per update", "passes over its text", "median step, ms of CPU"])
    for name, seeds in arms.items():
        settings = next(iter(seeds.values()))["settings"]
        step = cell([1e3 * result["seconds"]["cpu_median_step"] for result in seeds.values()], 0)
        lines += [line([ARMS[name].label, str(settings["rows"]), f"{settings['real_tokens']:,.0f}", f"{settings['epochs']:.2f}", step])]
    return lines


def time_table(arms: dict[str, dict[int, dict]]) -> list[str]:
    """Seconds of the timed steps by wall and by CPU clock, and how many times longer the second arm took, seed by seed."""
    seconds = {name: {seed: result["seconds"] for seed, result in seeds.items()} for name, seeds in arms.items()}
    lines = header(["arm", *(name for name, _, _ in CLOCKS.values())])
    for name, seeds in seconds.items():
        cells = [cell([scale * spent[clock] for spent in seeds.values()], digits) for clock, (_, scale, digits) in CLOCKS.items()]
        lines += [line([ARMS[name].label, *cells])]
    if len(seconds) == 2:
        one, two = seconds.values()
        ratios = [cell([two[seed][clock] / one[seed][clock] for seed in one if seed in two], 2) for clock in CLOCKS]
        lines += [line(["second / first", *ratios])]
    spent = next(iter(next(iter(seconds.values())).values()))
    about = f"{spent['steps']:,} steps of each, in turns of {spent['turn']}, on {spent['device']}"
    return [*lines, "", f"Timed: {about}; the first {spent['excluded']} steps, with the compilation, are left out."]


def is_finite(result: dict) -> bool:
    return all(math.isfinite(value) for view in result["held_out"].values() for value in view.values())
