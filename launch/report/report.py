"""The report page of a run: metrics.jsonl and its neighbours enter, one self-contained report.html leaves.

The page loads nothing: style, script and data are inside it, and its content security policy forbids everything else. Only metrics.jsonl
must exist.
"""

import datetime
import json
import math
import os
import re
import secrets
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from launch.redaction import redact
from launch.report.charts import make_charts, smooth
from launch.report.reference_curves import compare
from launch.report.run_log import Log, last, number, read_log, series
from launch.report.sources import source_rows

SAMPLES = 16
TABLE_ROWS = 20
SOURCES_SHOWN = 24
MASK = re.compile(r"\[MASK\]|<mask>")


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html and returns its path.

    Raises FileNotFoundError if WORKDIR/metrics.jsonl is missing. The other files may be missing or unreadable; the page then says so.
    """
    workdir = Path(workdir)
    metrics = workdir / "metrics.jsonl"
    if not metrics.is_file():
        raise FileNotFoundError(f"{metrics} does not exist: there is no run to report; `bert-jax pretrain --workdir={workdir}` writes it")
    with metrics.open(encoding="utf-8", errors="replace") as lines:
        log = read_log(lines)
    config, config_problem = _read_optional(workdir / "config.json", dict)
    environment, environment_problem = _read_optional(workdir / "environment.json", dict)
    samples, samples_problem = _read_optional(workdir / "samples.json", group_samples)
    compared = compare(config or {}, log)
    page = {
        "title": describe_model(config or {}),
        "status": _status(log),
        "when": _when(log),
        "where": _where(environment or {}),
        "warnings": _warnings(log),
        "cards": _cards(log),
        "charts": make_charts(log, compared and compared.reference.bands["train"]),
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
        "environment": {key: _plain(value) for key, value in (environment or {}).items()},
        "environment_problem": environment_problem,
        "lines": f"{len(log.train):,} training lines and {len(log.eval):,} evaluations",
        "nonce": secrets.token_urlsafe(18),
    }
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(__file__).parents[1]]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    report, temporary = workdir / "report.html", workdir / f".report.html.{os.getpid()}"
    temporary.write_text(templates.get_template("report.html.j2").render(page), encoding="utf-8", errors="replace")
    os.replace(temporary, report)
    return report


# ---- reading ----


def _read_optional(path: Path, shape: Callable[[Any], Any]) -> tuple[Any, str | None]:
    """Returns (content, None), or (None, what the page says instead)."""
    try:
        return shape(json.loads(path.read_text(encoding="utf-8"))), None
    except FileNotFoundError:
        return None, f"{path.name} is not in the run\u2019s directory."
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, f"{path.name} could not be read ({type(error).__name__}: {str(error)[:200]})."


# ---- words ----


def describe_model(config: dict) -> str:
    """The model's family and size in words, from whatever of them the config holds: "BERT, 4 layers × 256, vocabulary 8,000"."""

    def find(*names: str) -> int | str | None:
        """The first of `names` in the model's section at any depth, else anywhere in the config."""
        queue = [config.get("model"), config]
        while queue:
            section = queue.pop(0)
            if isinstance(section, dict):
                for name in names:
                    if type(section.get(name)) in (int, str):
                        return section[name]
                queue[:0] = section.values()
        return None

    family = find("family")
    layers, width, vocabulary = find("num_layers"), find("hidden_size", "width"), find("vocab_size")
    known = {"bert": "BERT", "roberta": "RoBERTa", "albert": "ALBERT", "electra": "ELECTRA", "distilbert": "DistilBERT"}
    words = [known.get(str(family).lower(), str(family)) if family else "BERT"]
    if layers and width:
        words.append(f"{layers} layers × {width}")
    if vocabulary:
        words.append(f"vocabulary {vocabulary:,}" if isinstance(vocabulary, int) else f"vocabulary {vocabulary}")
    return ", ".join(words)


def _resumes(log: Log) -> list[dict]:
    return [event for event in log.events if event.get("event") == "resumed"]


def _status(log: Log) -> dict[str, str]:
    ending = log.events[-1] if log.events else {}
    event = ending.get("event")
    if event in ("finished", "stopped"):
        return {"word": event, "detail": str(ending.get("detail") or "")}
    return {"word": "unfinished", "detail": "still running, or killed" if event else "the log holds no events"}


def _when(log: Log) -> str:
    if not log.stretches:
        return ""
    first, final = (
        datetime.datetime.fromtimestamp(min(max(seconds, 0), 2**35), datetime.UTC)
        for seconds in (log.stretches[0][0], log.stretches[-1][1])
    )
    ending = f"{final:%H:%M}" if first.date() == final.date() else f"{final.day} {final:%b %Y, %H:%M}"
    return f"{first.day} {first:%b %Y, %H:%M} – {ending} UTC"


def _where(environment: dict) -> list[str]:
    kind, count = environment.get("device_kind"), environment.get("num_devices")
    return [str(part) for part in (f"{count} × {kind}" if kind and count else kind, environment.get("hostname")) if part]


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


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}\u202f%"


def _figure(value: float | None) -> str | None:
    """Three significant digits, with thousands separated and no exponent within sight of a loss or a rate."""
    if value is None:
        return None
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds // 60) % 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {int(seconds) % 60:02d} s" if minutes else f"{seconds:.0f} s"


def _cards(log: Log) -> list[dict[str, str | None]]:
    """Eight headline figures: label, value (None shows a dash) and the comparison that gives it meaning."""

    def median(name: str) -> float | None:
        values = series(log.train, name)[1]
        return statistics.median(values.tolist()) if len(values) else None

    def first(records: list[dict], name: str) -> str:
        steps, values = series(records, name)
        return f"from {_figure(values[0])} at step {steps[0]:,}" if len(steps) else ""

    losses = series(log.train, "loss")[1]
    unigram = _percent(last(log.eval, "unigram_accuracy"))
    tokens, wait, mfu = _figure(median("tokens_per_second")), _percent(median("input_wait")), _percent(median("mfu"))
    resumes = [event["step"] for event in _resumes(log)]
    none = "no evaluation was logged"
    speed = [f"{tokens} tokens/s" if tokens else None, f"MFU {mfu}" if mfu else None, f"input wait {wait}" if wait else None]
    speed = [part.replace(" ", "\u00a0") for part in speed if part]
    cards = [
        ("Steps", f"{log.train[-1]['step']:,}" if log.train else None, f"{len(log.eval):,} held-out evaluations" if log.eval else none),
        ("Training loss", _figure(smooth(losses, [len(losses) - 1])[0]) if len(losses) else None, first(log.train, "loss")),
        ("Held-out masked accuracy", _percent(last(log.eval, "mlm_accuracy")), f"most frequent token {unigram}" if unigram else none),
        ("Held-out perplexity", _figure(last(log.eval, "perplexity")), first(log.eval, "perplexity") or none),
        ("Held-out loss", _figure(last(log.eval, "loss")), first(log.eval, "loss") or none),
        ("Median sequences per second", _figure(median("sequences_per_second")), " · ".join(speed)),
        (
            "Training time",
            _duration(sum(end - begin for begin, end in log.stretches)) if log.stretches else None,
            f"in {len(log.stretches)} stretches, {_percent(goodput(log))} of the time since the start" if len(log.stretches) > 1 else "in one stretch",
        ),
        ("Resumes", str(len(resumes)), f"{'last ' * (len(resumes) > 1)}at step {resumes[-1]:,}" if resumes else "never interrupted"),
    ]
    for name, label in (("nsp_accuracy", "Next-sentence accuracy"), ("sop_accuracy", "Sentence-order accuracy")):
        if any(name in record for record in [*log.train[:1], *log.eval[:1]]):
            majority = _percent(last(log.eval, name.replace("accuracy", "majority")))
            cards[4] = (label, _percent(last(log.eval, name)), f"held-out; always the commoner label: {majority}" if majority else "held-out")
    return [{"label": label, "value": value, "note": note} for label, value, note in cards]


def goodput(log: Log) -> float:
    """The time in stretches of training over the time from the first to the last, restarts included."""
    return sum(end - begin for begin, end in log.stretches) / max(log.stretches[-1][1] - log.stretches[0][0], 1e-9)


def _sources(config: dict, log: Log) -> list[dict[str, str]]:
    """The largest sources of a mixture, in words."""
    rows = sorted(source_rows(config, log), key=lambda row: -row["seen"])
    return [
        {"name": row["name"], "sequences": f"{row['sequences']:,}", "seen": _percent(row["seen"]), "wanted": _percent(row["wanted"]), "width": f"{100 * row['seen']:.1f}"}
        for row in rows[:SOURCES_SHOWN]
    ]


def _evaluation_rows(records: list[dict]) -> list[list[str]]:
    kept = [records[index] for index in np.unique(np.linspace(0, len(records) - 1, min(len(records), TABLE_ROWS)).astype(int))]
    pairs = "sop_accuracy" if any("sop_accuracy" in record for record in records) else "nsp_accuracy"
    columns = (("loss", _figure), ("mlm_accuracy", _percent), ("perplexity", _figure), (pairs, _percent))
    return [[f"{record['step']:,}", *(form(number(record, name)) or "–" for name, form in columns)] for record in kept]


# ---- samples and config ----


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
                {"token": token, "width": f"{100 * min(max(share, 0), 1):.1f}", "share": _percent(share), "right": token == answer}
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


def group_config(config: dict) -> list[tuple[str, list[tuple[str, str]]]]:
    """(group, [(dotted name, value)]): the top level's own values first, then each of its sections."""

    def flatten(prefix: str, value: Any) -> list[tuple[str, str]]:
        if isinstance(value, dict) and value:
            return [row for name, inner in value.items() for row in flatten(f"{prefix}.{name}" if prefix else str(name), inner)]
        return [(prefix, _plain(value))]

    sections = {str(name): value for name, value in config.items() if isinstance(value, dict) and value}
    own = [(str(name), _plain(value)) for name, value in config.items() if str(name) not in sections]
    return ([("general", own)] if own else []) + [(name, flatten("", value)) for name, value in sections.items()]


def _plain(value: Any) -> str:
    return redact(value) if isinstance(value, str) else "none" if value is None else redact(json.dumps(value, ensure_ascii=False))
