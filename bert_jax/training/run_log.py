"""The log of a run: metrics, events and texts enter; lines of metrics.jsonl, TensorBoard's tags and those of further trackers leave.

Those lines are read here too."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

SPEED = ("sequences_per_second", "tokens_per_second", "input_wait", "mfu")
NORMS = ("grad_norm", "param_norm", "update_ratio", "trust_ratio")


class Tracker(Protocol):
    """Shows a run elsewhere. Scalars of several steps come in any order; text is Markdown."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def text(self, step: int, tag: str, markdown: str) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """WORKDIR/tensorboard. What an earlier start logged past `start_step` is hidden: it will be logged again.

    Written in the caller's thread: tensorboardX's own ends with a disk that is full, silently, and whoever logs then waits for it for ever."""

    def __init__(self, workdir: Path, start_step: int):
        (workdir / "tensorboard").mkdir(parents=True, exist_ok=True)
        self.events = EventsWriter(str(workdir / "tensorboard" / "events"), f".{os.getpid()}")
        if start_step:
            self._add(Event(step=start_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])))

    def text(self, step: int, tag: str, markdown: str) -> None:
        self._add(Event(step=step, summary=summary.text(tag, markdown)))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self.events.write_event(event)
        self.events.flush()

    def close(self) -> None:
        self.events.close()


class RunLog:
    """Appends to WORKDIR/metrics.jsonl, to WORKDIR/tensorboard and to `trackers`. On resume, lines past the resumed step are dropped: they will be written again."""

    def __init__(self, workdir: Path, start_step: int, *, trackers: Sequence[Tracker] = ()):
        self.path = workdir / "metrics.jsonl"
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if (record := record_of(line)) and record["step"] <= start_step]
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            os.replace(temporary, self.path)
        self.file = open(self.path, "a", buffering=1)
        self.trackers = [TensorBoard(workdir, start_step), *trackers]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, split: str, step: int, metrics: dict[str, float]) -> None:
        """split: "train", "eval", "checkpoint" or "downstream"."""
        self.file.write(json.dumps({"split": split, "step": step, "time": round(time.time(), 3), **metrics}) + "\n")
        for tracker in self.trackers:
            tracker.scalars(step, {tag_of(split, name): value for name, value in metrics.items()})

    def event(self, step: int, event: str, detail: str = "", **more: list[int]) -> None:
        line = {"split": "event", "step": step, "time": round(time.time(), 3), "event": event, "detail": detail, **more}
        self.file.write(json.dumps(line) + "\n")

    def text(self, step: int, tag: str, markdown: str) -> None:
        """For the trackers alone: what metrics.jsonl's neighbours in the workdir hold."""
        for tracker in self.trackers:
            tracker.text(step, tag, markdown)

    def has_event(self, event: str, step: int) -> bool:
        """Whether this event was logged at this step, in this or an earlier start of the run."""
        return any(record.get("event") == event and record["step"] == step for record in read_records(self.path))

    def close(self) -> None:
        self.file.close()
        for tracker in self.trackers:
            tracker.close()


class SilentLog(RunLog):
    """Of the processes that are not the first: takes everything, writes nothing."""

    def __init__(self):
        self.file, self.trackers = open(os.devnull, "a"), []


def tag_of(split: str, name: str) -> str:
    """The tag of a metric in TensorBoard, which groups by what stands before the first slash: train, eval, speed, norms, sources, checkpoint."""
    if split != "train":
        return f"{split}/{name}"
    if name.startswith("sequences/"):
        return name.replace("sequences", "sources", 1)
    if name.startswith(NORMS):
        return f"norms/{name}"
    return f"speed/{name}" if name in SPEED else f"train/{name}"


def record_of(line: str) -> dict[str, Any] | None:
    """Of a line of metrics.jsonl; None if it is no record: a kill cuts the last one short."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(record, dict) and "split" in record and type(record.get("step")) is int and abs(record["step"]) < 2**53:
        return record
    return None


def read_records(path: Path) -> list[dict[str, Any]]:
    """Of a metrics.jsonl, without lines that are no records; none if the file is not there."""
    if not path.is_file():
        return []
    return [record for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if (record := record_of(line))]
