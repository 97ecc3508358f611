"""The page of a pretraining run: metrics.jsonl and its neighbours enter, what the template places leaves."""

import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from launch.report.charts import COLOURS, make_chart, make_charts, make_curve, smooth
from launch.report.reference_curves import compare
from launch.report.run_log import Log, last, number, read_log, series
from launch.report.sources import source_rows
from launch.report.words import describe_model, duration, figure, group_config, percent, plain, read_optional, score, status_of, when, where

SAMPLES = 16
TABLE_ROWS = 20
SOURCES_SHOWN = 24
SCORE = "/score"  # how the names of downstream scores end
MASK = re.compile(r"\[MASK\]|<mask>")


def pretraining_page(workdir: Path) -> dict[str, Any]:
    """Only metrics.jsonl must exist. The other files may be missing or unreadable; the page then says so."""
    with (workdir / "metrics.jsonl").open(encoding="utf-8", errors="replace") as lines:
        log = read_log(lines)
    config, config_problem = read_optional(workdir / "config.json", dict)
    environment, environment_problem = read_optional(workdir / "environment.json", dict)
    samples, samples_problem = read_optional(workdir / "samples.json", group_samples)
    compared = compare(config or {}, log)
    return {
        "title": describe_model(config or {}),
        "status": status_of(log),
        "when": when(log.stretches),
        "where": where(environment or {}),
        "warnings": _warnings(log),
        "cards": _cards(log),
        "charts": make_charts(log, compared and compared.reference.bands["train"]) + downstream_charts(log),
        "downstream": downstream_table(log),
        "compared": compared,
        "sources": _sources(config or {}, log),
        "sources_left_out": max(0, len(source_rows({}, log)) - SOURCES_SHOWN),
        "resumes": [event["step"] for event in _resumes(log)],
        "evaluations": _evaluation_rows(log.eval),
        "samples": (samples or [])[:SAMPLES],
        "samples_left_out": max(0, len(samples or []) - SAMPLES),
        "samples_problem": samples_problem,
        "config": group_config(config or {}),
        "config_problem": config_problem,
        "environment": {key: plain(value) for key, value in (environment or {}).items()},
        "environment_problem": environment_problem,
        "lines": f"{len(log.train):,} training lines and {len(log.eval):,} evaluations",
    }


def _resumes(log: Log) -> list[dict]:
    return [event for event in log.events if event.get("event") == "resumed"]


def _warnings(log: Log) -> list[str]:
    warnings = []
    for records, word in ((log.train, "training"), (log.eval, "evaluation")):
        steps = [record["step"] for record in records if "loss" in record and number(record, "loss") is None]
        if steps:
            lines = "line" if len(steps) == 1 else "lines"
            warnings.append(f"The loss is not finite on {len(steps):,} {word} {lines}, first at step {steps[0]:,}.")
    if log.unreadable:
        warnings.append(f"{log.unreadable:,} unreadable {'line' if log.unreadable == 1 else 'lines'} of metrics.jsonl left out.")
    if not log.train:
        warnings.append("No training step has been logged yet.")
    return warnings


def _cards(log: Log) -> list[dict[str, str | None]]:
    """Eight headline figures: label, value (None shows a dash) and the comparison that gives it meaning."""

    def median(name: str) -> float | None:
        values = series(log.train, name)[1]
        return statistics.median(values.tolist()) if len(values) else None

    def first(records: list[dict], name: str) -> str:
        steps, values = series(records, name)
        return f"from {figure(values[0])} at step {steps[0]:,}" if len(steps) else ""

    losses = series(log.train, "loss")[1]
    unigram = percent(last(log.eval, "unigram_accuracy"))
    tokens, wait, mfu = figure(median("tokens_per_second")), percent(median("input_wait")), percent(median("mfu"))
    resumes = [event["step"] for event in _resumes(log)]
    none = "no evaluation was logged"
    speed = [f"{tokens} tokens/s" if tokens else None, f"MFU {mfu}" if mfu else None, f"input wait {wait}" if wait else None]
    speed = [part.replace(" ", "\u00a0") for part in speed if part]
    cards = [
        ("Steps", f"{log.train[-1]['step']:,}" if log.train else None, f"{len(log.eval):,} held-out evaluations" if log.eval else none),
        ("Training loss", figure(smooth(losses, [len(losses) - 1])[0]) if len(losses) else None, first(log.train, "loss")),
        ("Held-out masked accuracy", percent(last(log.eval, "mlm_accuracy")), f"most frequent token {unigram}" if unigram else none),
        ("Held-out perplexity", figure(last(log.eval, "perplexity")), first(log.eval, "perplexity") or none),
        ("Held-out loss", figure(last(log.eval, "loss")), first(log.eval, "loss") or none),
        ("Median sequences per second", figure(median("sequences_per_second")), " · ".join(speed)),
        (
            "Training time",
            duration(sum(end - begin for begin, end in log.stretches)) if log.stretches else None,
            f"in {len(log.stretches)} stretches, {percent(goodput(log))} of the time since the start" if len(log.stretches) > 1 else "in one stretch",
        ),
        ("Resumes", str(len(resumes)), f"{'last ' * (len(resumes) > 1)}at step {resumes[-1]:,}" if resumes else "never interrupted"),
    ]
    for name, label in (("nsp_accuracy", "Next-sentence accuracy"), ("sop_accuracy", "Sentence-order accuracy")):
        if any(name in record for record in [*log.train[:1], *log.eval[:1]]):
            majority = percent(last(log.eval, name.replace("accuracy", "majority")))
            cards[4] = (label, percent(last(log.eval, name)), f"held-out; always the commoner label: {majority}" if majority else "held-out")
    return [{"label": label, "value": value, "note": note} for label, value, note in cards]


def goodput(log: Log) -> float:
    """The time in stretches of training over the time from the first to the last, restarts included."""
    return sum(end - begin for begin, end in log.stretches) / max(log.stretches[-1][1] - log.stretches[0][0], 1e-9)


def tasks_of(log: Log) -> list[str]:
    """Downstream tasks, in the order in which they were tried."""
    return list(dict.fromkeys(name.removesuffix(SCORE) for record in log.downstream for name in record if name.endswith(SCORE)))


def downstream_charts(log: Log) -> list[dict]:
    """The scores of the run's trials over its steps: of each task, and their average, if there are several."""
    tasks = tasks_of(log)
    curves = [make_curve(task, f"s{place % COLOURS}", log.downstream, task + SCORE) for place, task in enumerate(tasks)]
    if len(tasks) > 1:
        curves.append(make_curve("average", "average", log.downstream, "average"))
    chart = make_chart("Downstream scores", "number", curves)
    return [chart] if chart else []


def downstream_table(log: Log) -> dict[str, Any] | None:
    """A row for each trial, a column for each task: mean ± standard deviation over seeds."""
    tasks = tasks_of(log)
    rows = [
        (f"{record['step']:,}", [score(number(record, task + SCORE), number(record, f"{task}/std")) for task in tasks], score(number(record, "average")))
        for record in log.downstream
    ]
    return {"tasks": tasks, "rows": rows} if tasks else None


def _sources(config: dict, log: Log) -> list[dict[str, str]]:
    """The largest sources of a mixture, in words."""
    rows = sorted(source_rows(config, log), key=lambda row: -row["seen"])
    return [
        {"name": row["name"], "sequences": f"{row['sequences']:,}", "seen": percent(row["seen"]), "wanted": percent(row["wanted"]), "width": f"{100 * row['seen']:.1f}"}
        for row in rows[:SOURCES_SHOWN]
    ]


def _evaluation_rows(records: list[dict]) -> list[list[str]]:
    kept = [records[index] for index in np.unique(np.linspace(0, len(records) - 1, min(len(records), TABLE_ROWS)).astype(int))]
    pairs = "sop_accuracy" if any("sop_accuracy" in record for record in records) else "nsp_accuracy"
    columns = (("loss", figure), ("mlm_accuracy", percent), ("perplexity", figure), (pairs, percent))
    return [[f"{record['step']:,}", *(form(number(record, name)) or "–" for name, form in columns)] for record in kept]


def group_samples(entries: list[dict]) -> list[dict]:
    """One entry per text, at its last step: the pieces around its masks, and per mask the predictions and how the first of them changed."""
    by_text: dict[str, list[dict]] = {}
    for entry in entries:
        by_text.setdefault(str(entry["text"]), []).append(entry)
    samples = []
    for text, history in by_text.items():
        history.sort(key=lambda entry: entry["step"])
        newest, masks = history[-1], []
        for index, predictions in enumerate(newest["predictions"]):
            answer = newest["answer"][index] if newest.get("answer") else None
            bars = [(str(one["token"]), float(one["probability"])) for one in predictions[:5]]
            bars = [
                {"token": token, "width": f"{100 * min(max(share, 0), 1):.1f}", "share": percent(share), "right": token == answer}
                for token, share in bars
                if math.isfinite(share)
            ]
            path = [(entry["step"], str(entry["predictions"][index][0]["token"])) for entry in history if entry["predictions"][index]]
            path = [path[at] for at in np.unique(np.linspace(0, len(path) - 1, min(len(path), 6)).astype(int))]
            path = [{"step": f"{step:,}", "token": token, "right": token == answer} for step, token in path]
            missed = answer if answer is not None and not any(bar["right"] for bar in bars) else None
            masks.append({"bars": bars, "path": path if len(path) > 1 else [], "missed": missed})
        samples.append({"pieces": MASK.split(text[:2000]), "masks": masks, "step": f"{newest['step']:,}"})
    return samples
