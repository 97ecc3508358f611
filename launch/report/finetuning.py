"""The page of a fine-tuning workdir: configs, logs, scores and outcomes of its seeds enter, what the template places leaves."""

import statistics
from pathlib import Path
from typing import Any

from launch.redaction import redact
from launch.report.charts import COLOURS, make_chart, make_curve, spreads
from launch.report.run_log import Log, number, read_log, series
from launch.report.words import describe_model, duration, figure, group_config, percent, plain, read_optional, score, status_of, when, where

KINDS = {
    "classification": "Classification", "multilabel": "Several labels a text", "regression": "Regression", "tokens": "Labels of words", "span": "Question answering",
    "choice": "Multiple choice", "ranking": "Ranking", "embedding": "Sentence embeddings",
}
LABELS_SHOWN = 12


def finetuning_page(workdir: Path) -> dict[str, Any]:
    """Any file may be missing or unreadable, as of a run that goes on; the page then says so."""
    config, config_problem = read_optional(workdir / "config.json", dict)
    environment, environment_problem = read_optional(workdir / "environment.json", dict)
    data, task, model = (read_optional(workdir / name, dict)[0] or {} for name in ("data.json", "task.json", "model.json"))
    config = config or {}
    scores = scores_of_all(workdir, config)
    section = config.get("task") if isinstance(config.get("task"), dict) else {}
    seeds = seed_names(workdir, config)
    logs = {seed: read_seed_log(workdir / "seeds" / seed) for seed in seeds}
    records = {seed: record for seed in seeds if (record := read_optional(workdir / "seeds" / seed / "scores.json", dict)[0])}
    shown = str(scores["best_seed"]) if "best_seed" in scores else next(iter(records), None)
    outcome, outcome_problem = read_optional(workdir / "seeds" / shown / "outcome.json", dict) if shown is not None else (None, "No seed has been scored yet.")
    outcome, sets, metric = outcome or {}, data.get("sets") or {}, str(section.get("metric") or "")
    baseline = outcome.get("baseline") or {}
    stretches = sorted(stretch for log in logs.values() for stretch in log.stretches)
    kind = str(task.get("kind", ""))
    return {
        "title": f"{KINDS.get(kind, kind or 'Fine-tuning')}: {Path(str(section.get('train', ''))).name or workdir.name}",
        "status": status_of_seeds(logs, records, scores, max(len(config.get("seeds") or []), len(logs))),
        "when": when(stretches),
        "where": [describe_model({"model": model}), *where(environment or {})],
        "origin": next((redact(str(event["detail"])) for log in logs.values() for event in log.events if event.get("event") == "started" and event.get("detail")), ""),
        "warnings": _warnings(logs),
        "cards": _cards(config, sets, metric, scores, records, baseline, logs),
        "charts": _charts(logs, records, metric, (baseline.get("scores") or {}).get(metric)),
        "resumes": sorted({event["step"] for log in logs.values() for event in log.events if event.get("event") == "resumed"}),
        "table": score_table(records, scores),
        "labels": _labels(sets),
        "classes": _classes(outcome),
        "matrix": _matrix(outcome.get("matrix")),
        "confused": outcome.get("confused") or [],
        "mistakes": [_mistake(one) for one in outcome.get("mistakes") or []],
        "wrong": outcome.get("wrong"),
        "shown_seed": shown,
        "examples": (sets.get("eval") or {}).get("examples"),
        "outcome_problem": outcome_problem,
        "config": group_config(config),
        "config_problem": config_problem,
        "environment": {key: plain(value) for key, value in (environment or {}).items()},
        "environment_problem": environment_problem,
        "lines": f"the logs of {len(logs)} {'seed' if len(logs) == 1 else 'seeds'}",
    }


def seed_names(workdir: Path, config: dict[str, Any]) -> list[str]:
    """Of the seeds that have begun, in the order of the config."""
    begun = {path.parent.name for path in workdir.glob("seeds/*/metrics.jsonl")}
    order = configured_seeds(config)
    return sorted(begun, key=lambda name: (order.index(name) if name in order else len(order), name))


def configured_seeds(config: dict[str, Any]) -> list[str]:
    return [plain(seed).removesuffix(".0") for seed in config.get("seeds") or []]


def scores_of_all(workdir: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Of scores.json; {} if it is of other seeds than the config's: others were asked for since, whose runs are not over."""
    scores = read_optional(workdir / "scores.json", dict)[0] or {}
    wanted = configured_seeds(config)
    return scores if not wanted or {str(record["seed"]) for record in scores.get("seeds") or []} == set(wanted) else {}


def read_seed_log(place: Path) -> Log:
    with (place / "metrics.jsonl").open(encoding="utf-8", errors="replace") as lines:
        return read_log(lines)


def status_of_seeds(logs: dict[str, Log], records: dict[str, dict], scores: dict, count: int) -> dict[str, str]:
    if scores:
        return {"word": "finished", "detail": ""}
    latest = max(logs.values(), key=lambda log: log.stretches[-1][1] if log.stretches else 0, default=Log())
    return {"word": "stopped" if status_of(latest)["word"] == "stopped" else "unfinished", "detail": f"{len(records)} of {count} seeds scored"}


def score_table(records: dict[str, dict], scores: dict) -> dict[str, Any]:
    """A row for each seed that is scored, and below mean and standard deviation."""
    first = next(iter(records.values()), {})
    columns = [(split, name) for split in ("eval", "test") for name in first.get(split) or {}]
    rows = [
        {"name": seed, "step": f"{record['step']:,}", "cells": [score(number(record.get(split) or {}, name)) for split, name in columns], "best": seed == str(scores.get("best_seed"))}
        for seed, record in records.items()
    ]
    spread = [(scores.get(split) or {}).get(name) or {} for split, name in columns]
    return {
        "columns": [name if split == "eval" else f"{split}: {name}" for split, name in columns], "rows": rows,
        "mean": [score(number(one, "mean")) for one in spread] if scores else [], "std": [score(number(one, "std")) for one in spread] if scores else [],
    }


def _warnings(logs: dict[str, Log]) -> list[str]:
    warnings = []
    for seed, log in logs.items():
        steps = [record["step"] for record in log.train if "loss" in record and number(record, "loss") is None]
        if steps:
            warnings.append(f"Seed {seed}: the loss is not finite on {len(steps):,} training lines, first at step {steps[0]:,}.")
        if log.unreadable:
            warnings.append(f"Seed {seed}: {log.unreadable:,} unreadable lines of metrics.jsonl left out.")
    return warnings if logs else ["No training step has been logged yet."]


def _cards(config: dict, sets: dict, metric: str, scores: dict, records: dict, baseline: dict, logs: dict[str, Log]) -> list[dict[str, str | None]]:
    train, evaluation, test = (sets.get(name) or {} for name in ("train", "eval", "test"))
    values = [number(record.get("eval") or {}, metric) for record in records.values()]
    spread, best = (scores.get("eval") or {}).get(metric) or {}, records.get(str(scores.get("best_seed")), {})
    always = number(baseline.get("scores") or {}, metric)
    seconds = [sum(end - begin for begin, end in log.stretches) for log in logs.values()]
    speeds = [speed for log in logs.values() for speed in series(log.train, "sequences_per_second")[1].tolist()]
    words, steps = metric.replace("_", " "), [record["step"] for record in records.values()]
    tested = (scores.get("test") or {}).get(metric)
    mean = number(spread, "mean") if spread else statistics.fmean(values) if values and None not in values else None
    cards = [
        (words.capitalize() or "Score", score(mean) if values else None, f"± {score(number(spread, 'std'))} over {len(values)} seeds" if len(values) > 1 and spread else "of one seed"),
        ("Best seed", score(number(best.get("eval") or {}, metric)) if best else None, f"seed {best['seed']}, step {best['step']:,}" if best else "not all seeds are scored"),
        ("Always the commonest answer", None if always is None else score(always), f"{baseline['answer']}, {words}" if always is not None else "there is none for this task"),
        ("Training examples", f"{train['examples']:,}" if "examples" in train else None, _about(train)),
        ("Evaluation examples", f"{evaluation['examples']:,}" if "examples" in evaluation else None, f"{test['examples']:,} more for the test" if test else "no test set"),
        ("Steps", plain(config["steps"]) if "steps" in config else None, f"of {config.get('batch_size', '?')} rows" + (f"; best at {_range(steps)}" if steps else "")),
        ("Training time", duration(sum(seconds)) if seconds else None, f"{duration(statistics.fmean(seconds))} a seed" if len(seconds) > 1 else "evaluations included"),
        ("Median rows per second", figure(statistics.median(speeds)) if speeds else None, ""),
    ]
    if tested:
        cards[1] = ("Test " + words, score(number(tested, "mean")), f"± {score(number(tested, 'std'))}, once with each seed's best checkpoint")
    return [{"label": label, "value": value, "note": note} for label, value, note in cards]


def _about(facts: dict) -> str:
    parts = [f"{facts['mean_length']:.0f} tokens on average"] if "mean_length" in facts else []
    parts += [f"{facts['cut']:,} were cut"] if facts.get("cut") else []
    parts += [f"{facts['rows']:,} rows"] if facts.get("rows") != facts.get("examples") else []
    return ", ".join(parts)


def _range(steps: list[int]) -> str:
    return f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,} to {max(steps):,}"


def _charts(logs: dict[str, Log], records: dict[str, dict], metric: str, baseline: float | None) -> list[dict]:
    def curves(split: str, name: str, **more) -> list[dict | None]:
        marks = {seed: record["step"] for seed, record in records.items()} if split == "eval" else {}
        return [make_curve(f"seed {seed}", f"s{place % COLOURS}", getattr(log, split), name, mark=marks.get(seed), **more) for place, (seed, log) in enumerate(logs.items())]

    logarithmic = {name: any(spreads(series(log.train, name)[1]) for log in logs.values()) for name in ("loss", "grad_norm")}
    longest = max(logs.values(), key=lambda log: len(log.train), default=Log())
    level = ("always the commonest", baseline) if baseline is not None else None
    wanted = [
        make_chart(f"Evaluation: {metric.replace('_', ' ')}", "number", curves("eval", metric), level=level),
        make_chart("Training loss", "number", curves("train", "loss", noisy=True, logarithmic=logarithmic["loss"]), logarithmic=logarithmic["loss"]),
        make_chart("Learning rate", "number", [make_curve("all seeds", "train", longest.train, "learning_rate")], zero=True),
        make_chart("Gradient norm", "number", curves("train", "grad_norm", noisy=True, logarithmic=logarithmic["grad_norm"]), logarithmic=logarithmic["grad_norm"], zero=True),
    ]
    return [chart for chart in wanted if chart]


def _labels(sets: dict) -> list[dict[str, str]]:
    """How often each label occurs, the commonest of the training data first."""
    counts = {name: (sets.get(name) or {}).get("labels") or {} for name in ("train", "eval")}
    totals = {name: max(sum(found.values()), 1) for name, found in counts.items()}
    order = sorted(counts["train"], key=lambda label: -counts["train"][label])
    most = max(counts["train"].values(), default=1) or 1
    return [
        {"name": label, "width": f"{100 * counts['train'][label] / most:.1f}", "share": percent(counts["train"][label] / totals["train"]),
         "count": f"{counts['train'][label]:,}", "eval": percent(counts["eval"].get(label, 0) / totals["eval"])}
        for label in order[:LABELS_SHOWN]
    ] + ([{"name": f"{len(order) - LABELS_SHOWN} more", "width": "0", "share": "", "count": "", "eval": ""}] if len(order) > LABELS_SHOWN else [])


def _classes(outcome: dict) -> list[dict[str, str]]:
    return [
        {"name": row["name"], "count": f"{row['count']:,}", "width": f"{100 * row['f1']:.1f}", **{name: percent(row[name]) for name in ("precision", "recall", "f1")}}
        for row in outcome.get("classes") or []
    ]


def _matrix(matrix: dict | None) -> dict[str, Any] | None:
    """A row for each class of the data, a column for each answer; shade: its share of the row."""
    if not matrix:
        return None
    rows = [
        {"name": name, "cells": [{"count": f"{count:,}", "shade": f"{100 * count / max(sum(counts), 1):.0f}", "right": place == at} for at, count in enumerate(counts)]}
        for place, (name, counts) in enumerate(zip(matrix["labels"], matrix["counts"]))
    ]
    return {"labels": matrix["labels"], "rows": rows}


def _mistake(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"sure": percent(one["sure"]) if one["unit"] == "probability" else f"{one['unit']} {figure(one['sure'])}"}
