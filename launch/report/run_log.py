"""A run's log: the lines of metrics.jsonl enter, one record per step and their finite series leave.

What was logged and later recomputed (a killed run resumes from a checkpoint older than its last line) counts once.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from bert_jax.training.run_log import record_of


@dataclasses.dataclass
class Log:
    """metrics.jsonl, sorted by kind. `train`, `eval` and `downstream` hold one record per step, by ascending step."""

    train: list[dict] = dataclasses.field(default_factory=list)
    eval: list[dict] = dataclasses.field(default_factory=list)
    downstream: list[dict] = dataclasses.field(default_factory=list)
    events: list[dict] = dataclasses.field(default_factory=list)
    stretches: list[list[float]] = dataclasses.field(default_factory=list)  # [first, last] unix seconds of each uninterrupted stretch
    unreadable: int = 0  # lines that are not a record, the last line aside


def read_log(lines: Iterable[str]) -> Log:
    """Reads the lines of metrics.jsonl. A last line that was cut short is no record; other unreadable lines are counted."""
    log, last_unreadable = Log(), False
    kept: dict[str, dict[int, dict]] = {"train": {}, "eval": {}, "downstream": {}}
    for line in lines:
        if not line.strip():
            continue
        record = record_of(line)
        last_unreadable = record is None
        if record is None:
            log.unreadable += 1
            continue
        step, restarted = record["step"], record.get("event") in ("started", "resumed")
        if record["split"] in kept:
            kept[record["split"]][step] = record
        elif record["split"] == "event":
            log.events.append(record)
            if restarted:  # what lies past this step is about to be computed again
                kept = {split: {known: one for known, one in records.items() if known <= step} for split, records in kept.items()}
        time = number(record, "time")
        if time is not None:
            if restarted or not log.stretches:
                log.stretches.append([time, time])
            log.stretches[-1][1] = max(time, log.stretches[-1][1])
    log.unreadable -= last_unreadable
    log.train, log.eval, log.downstream = ([records[step] for step in sorted(records)] for records in kept.values())
    return log


def number(record: dict, name: str) -> float | None:
    """The finite number under `name`, else None (absent, NaN, infinite, or no number at all)."""
    value = record.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)  # the comparison is False for NaN and infinities
    return None


def series(records: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [N] int64 and values [N] float64 of the records where `name` is finite."""
    pairs = [(record["step"], value) for record in records if (value := number(record, name)) is not None]
    return np.array([step for step, _ in pairs], np.int64), np.array([value for _, value in pairs], np.float64)


def last(records: list[dict], name: str) -> float | None:
    """The last finite value under `name`."""
    values = series(records, name)[1]
    return float(values[-1]) if len(values) else None
