"""The page of a directory of fine-tuned workdirs, a sweep's or GLUE's: configs and scores of each enter, what the template places leaves."""

import math
import statistics
from pathlib import Path
from typing import Any

from bert_jax.training.checkpoint_files import better
from launch.finetune.seeds import GLUE, score_of, spread_of
from launch.report.finetuning import read_seed_log, scores_of_all
from launch.report.run_log import number
from launch.report.words import describe_model, duration, group_config, plain, read_optional, score, when, where

Case = dict[str, Any]


def several_page(workdir: Path) -> dict[str, Any]:
    """Cases whose seeds are not all scored yet are told of, without scores; those whose score is not defined (nan) count in no best, average or scale."""
    cases = sorted((read_case(path.parent) for path in sorted(workdir.glob("*/task.json"))), key=lambda case: min(case["stretches"], default=[math.inf]))  # as they began
    done = [case for case in cases if case["scores"]]
    defined = [case for case in done if math.isfinite(case["mean"])]
    grid = all("=" in case["name"] for case in cases)
    glue = all(case["name"] in GLUE for case in cases)
    environment, environment_problem = read_optional(workdir / cases[0]["name"] / "environment.json", dict)
    stretches = sorted(stretch for case in cases for stretch in case["stretches"])
    metric = done[0]["scores"]["metric"] if done else ""
    best = max(defined, key=lambda case: better(metric, case["mean"]), default=None) if grid else None
    return {
        "title": f"Sweep of {len(cases)} settings" if grid else "GLUE, development sets" if glue else f"{len(cases)} downstream tasks",
        "sort": "sweep" if grid else "fine-tuning",
        "status": {"word": "finished" if len(done) == len(cases) else "unfinished", "detail": "" if len(done) == len(cases) else f"{len(done)} of {len(cases)} are scored"},
        "when": when(stretches),
        "where": [describe_model({"model": cases[0]["model"]}), *where(environment or {})],
        "warnings": [f"{in_words(case)}: the score of a seed is not defined, and so the mean is not." for case in done if case not in defined],
        "cards": _cards(cases, done, defined, best, metric),
        "charts": [],
        "resumes": [],
        "metric": metric.replace("_", " ") if grid else "score",
        "scale": [score(end) for end in ends_of(done, grid)] if done else [],
        "rows": [_row(case, case is best, ends_of(done, grid)) for case in cases],
        "grid": _grid(cases) if grid else None,
        "config": common_config([case["config"] for case in cases]),
        "config_problem": "The settings have no field in common.",
        "environment": {key: plain(value) for key, value in (environment or {}).items()},
        "environment_problem": environment_problem,
        "lines": f"the scores of {len(done)} {'workdir' if len(done) == 1 else 'workdirs'}",
    }


def read_case(workdir: Path) -> Case:
    """mean, std: of the case's score, over its seeds; None before all are scored, nan if the score of one is not defined. seeds: the scores that are."""
    config, model = (read_optional(workdir / name, dict)[0] or {} for name in ("config.json", "model.json"))
    scores = scores_of_all(workdir, config)
    stretches = [stretch for log in map(read_seed_log, (path.parent for path in workdir.glob("seeds/*/metrics.jsonl"))) for stretch in log.stretches]
    name = workdir.name
    return {
        "name": name, "config": config, "scores": scores, "model": model, "stretches": stretches, "seconds": sum(end - begin for begin, end in stretches),
        "mean": score_of(name, scores) if scores else None, "std": spread_of(name, scores) if scores else None,
        "seeds": [value for record in scores.get("seeds") or [] if (value := number(record["eval"], scores["metric"])) is not None],
    }


def ends_of(done: list[Case], grid: bool) -> tuple[float, float]:
    """Of the scale that scores are drawn on: of a grid's own, from the least to the greatest."""
    values = [value for case in done for value in (*case["seeds"], case["mean"] - case["std"], case["mean"] + case["std"]) if math.isfinite(value)]
    if not grid or not values:
        return min([0.0, *values]), max([1.0, *values])
    return min(values), max(values)


def _row(case: Case, best: bool, ends: tuple[float, float]) -> dict[str, Any]:
    low, high = ends

    def at(value: float) -> str:
        return f"{100 * min(max((value - low) / ((high - low) or 1), 0), 1):.2f}"

    row = {"name": in_words(case), "best": best, "score": None, "mean": None, "time": duration(case["seconds"])}
    if case["mean"] is None:
        return row
    metrics = ", ".join(f"{name.replace('_', ' ')} {score(number(spread, 'mean'))}" for name, spread in case["scores"]["eval"].items())
    row |= {"score": score(case["mean"], case["std"]), "seeds": [at(value) for value in case["seeds"]], "metrics": metrics}
    if not math.isfinite(case["mean"]):
        return row
    begin, end = (at(case["mean"] + sign * case["std"]) for sign in (-1, 1))
    return row | {"mean": at(case["mean"]), "begin": begin, "width": f"{float(end) - float(begin):.2f}"}


def _cards(cases: list[Case], done: list[Case], defined: list[Case], best: Case | None, metric: str) -> list[dict[str, str | None]]:
    means, seeds = [case["mean"] for case in defined], [len(case["scores"]["seeds"]) for case in done]
    seconds = sum(case["seconds"] for case in cases)
    worst = min(defined, key=lambda case: better(metric, case["mean"]), default=None) if best else None
    if best:
        cards = [
            (f"Best {metric.replace('_', ' ')}", score(best["mean"]), f"± {score(best['std'])}: {in_words(best)}"),
            ("Worst", score(worst["mean"]), f"± {score(worst['std'])}: {in_words(worst)}"),
        ]
    else:
        cards = [
            ("Average", score(statistics.fmean(means)) if means else None, f"of {len(means)} {'tasks' if len(defined) == len(done) else f'of {len(done)} tasks'}"),
            ("Spread over seeds", score(statistics.fmean(case["std"] for case in defined)) if defined else None, "standard deviation, on average over the tasks"),
        ]
    cards.append(("Seeds", f"{min(seeds)}" if seeds and min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}" if seeds else None, "of each"))
    cards.append(("Training time", duration(seconds), "of all together, evaluations included"))
    return [{"label": label, "value": value, "note": note} for label, value, note in cards]


def in_words(case: Case) -> str:
    return case["name"].replace(",", ", ")


def settings_in(name: str) -> dict[str, str]:
    """Of a sweep's case, by their fields."""
    return dict(setting.partition("=")[::2] for setting in name.split(","))


def _grid(cases: list[Case]) -> dict[str, Any] | None:
    """Of two fields with several values: a table of the scores, shaded from the least to the greatest. None of any other sweep."""
    settings = [settings_in(case["name"]) for case in cases]
    values = {field: list(dict.fromkeys(one[field] for one in settings if field in one)) for field in settings[0]}
    fields = [field for field, found in values.items() if len(found) > 1]
    if len(fields) != 2:
        return None
    means = [case["mean"] for case in cases if case["mean"] is not None and math.isfinite(case["mean"])]
    found = {tuple(one.get(field) for field in fields): case["mean"] for one, case in zip(settings, cases)}

    def cell(mean: float | None) -> dict[str, str]:
        shade = 0.0 if mean not in means or max(means) == min(means) else (mean - min(means)) / (max(means) - min(means))
        return {"score": score(mean), "shade": f"{100 * shade:.0f}"}

    down, across = fields
    return {"down": down, "across": across, "columns": values[across], "rows": [(value, [cell(found.get((value, other))) for other in values[across]]) for value in values[down]]}


def common_config(configs: list[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What all of them state alike."""
    first, *others = [dict(group_config(config)) for config in configs]
    shared = [(group, [row for row in rows if all(row in other.get(group, []) for other in others)]) for group, rows in first.items()]
    return [(group, rows) for group, rows in shared if rows]
