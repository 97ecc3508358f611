"""What the report pages have in common: files of a workdir that may be missing, and figures, times and configs in words."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launch.redaction import redact
from launch.report.run_log import Log


def read_optional(path: Path, shape: Callable[[Any], Any]) -> tuple[Any, str | None]:
    """Returns (content, None), or (None, what the page says instead)."""
    try:
        return shape(json.loads(path.read_text(encoding="utf-8"))), None
    except FileNotFoundError:
        return None, f"{path.name} is not in the run\u2019s directory."
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, f"{path.name} could not be read ({type(error).__name__}: {str(error)[:200]})."


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


def status_of(log: Log) -> dict[str, str]:
    ending = log.events[-1] if log.events else {}
    event = ending.get("event")
    if event in ("finished", "stopped"):
        return {"word": event, "detail": str(ending.get("detail") or "")}
    return {"word": "unfinished", "detail": "still running, or killed" if event else "the log holds no events"}


def when(stretches: list[list[float]]) -> str:
    """The day and hours of [first, last] unix seconds of stretches, in the order of time."""
    if not stretches:
        return ""
    first, final = (
        datetime.datetime.fromtimestamp(min(max(seconds, 0), 2**35), datetime.UTC)
        for seconds in (stretches[0][0], stretches[-1][1])
    )
    ending = f"{final:%H:%M}" if first.date() == final.date() else f"{final.day} {final:%b %Y, %H:%M}"
    return f"{first.day} {first:%b %Y, %H:%M} – {ending} UTC"


def where(environment: dict) -> list[str]:
    kind, count = environment.get("device_kind"), environment.get("num_devices")
    return [str(part) for part in (f"{count} × {kind}" if kind and count else kind, environment.get("hostname")) if part]


def percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}\u202f%"


def figure(value: float | None) -> str | None:
    """Three significant digits, with thousands separated and no exponent within sight of a loss or a rate."""
    if value is None:
        return None
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


def duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds // 60) % 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {int(seconds) % 60:02d} s" if minutes else f"{seconds:.0f} s"


def group_config(config: dict) -> list[tuple[str, list[tuple[str, str]]]]:
    """(group, [(dotted name, value)]): the top level's own values first, then each of its sections."""

    def flatten(prefix: str, value: Any) -> list[tuple[str, str]]:
        if isinstance(value, dict) and value:
            return [row for name, inner in value.items() for row in flatten(f"{prefix}.{name}" if prefix else str(name), inner)]
        return [(prefix, plain(value))]

    sections = {str(name): value for name, value in config.items() if isinstance(value, dict) and value}
    own = [(str(name), plain(value)) for name, value in config.items() if str(name) not in sections]
    return ([("general", own)] if own else []) + [(name, flatten("", value)) for name, value in sections.items()]


def plain(value: Any) -> str:
    return redact(value) if isinstance(value, str) else "none" if value is None else redact(json.dumps(value, ensure_ascii=False))


def score(value: float | None, spread: float | None = None) -> str:
    """As the terminal has scores: 0.8903, with the standard deviation if there is one; a dash for none, and for one that is not defined."""
    shown = "–" if value is None or value != value else f"{value:.4f}"
    return shown if spread is None or shown == "–" else f"{shown} ± {spread:.4f}"
