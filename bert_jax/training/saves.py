"""Checkpoints of a training run: when they are due by the clock, what happens when one fails, and the seconds that each of them took, in the run's log."""

import logging
import time
from typing import Any

from bert_jax.processes import any_process, from_first
from bert_jax.training.checkpoint import Checkpoints, SaveError
from bert_jax.training.run_log import RunLog

MOST_FAILURES = 3  # in a row, before training stops
PAUSE = 5.0  # seconds before the last step's save is tried again
log = logging.getLogger("bert_jax")


class TimedSaves:
    """Saves by `checkpoints`; once a save is whole, its seconds are logged under its step.

    blocked_seconds: how long training stood still for it, for the end of the save before it and for the copy off the devices. total_seconds: until
    its commit was written, in the background.

    A save that fails is told and logged, and training goes on to the next; after MOST_FAILURES in a row SaveError is raised. minutes: after so many without a save one
    is due; 0: never.
    """

    def __init__(self, checkpoints: Checkpoints, run_log: RunLog, *, minutes: float = 0.0):
        self.checkpoints, self.run_log, self.minutes = checkpoints, run_log, minutes
        self.failures = 0
        self._last_step, self._last_time = 0, time.monotonic()
        self._open: tuple[int, float, dict] | None = None  # step, blocked seconds, and the times of the save before

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.checkpoints.settle()  # the workdir is about to be another's

    def due(self) -> bool:
        """Whether a save is due by the clock of any process. Collective, so for log lines rather than steps."""
        return self.minutes > 0 and any_process(time.monotonic() - self._last_time >= 60 * self.minutes)

    def save(self, step: int, trees: dict[str, Any], scores: dict[str, float] | None = None) -> None:
        """scores: held-out metrics of this step, if there are any."""
        began = time.monotonic()
        self.wait()
        before = self.checkpoints.last_save_seconds
        self._last_step, self._last_time = step, began
        try:
            self.checkpoints.save(step, trees, scores)
        except SaveError as error:
            self._failed(error)
        else:
            self._open = (step, time.monotonic() - began, before)

    def wait(self) -> None:
        """Returns when no save is under way."""
        try:
            self.checkpoints.wait()
        except SaveError as error:
            self._open = None
            self._failed(error)
        self.log()

    def finish(self, step: int, trees: dict[str, Any], scores: dict[str, float] | None = None) -> None:
        """Returns when the step is saved, at whatever try."""
        self.wait()
        while not from_first(lambda: step in self.checkpoints.steps()):
            if self.failures:
                time.sleep(PAUSE)
            self.save(step, trees, scores)
            self.wait()

    def _failed(self, error: SaveError) -> None:
        self.failures += 1
        log.warning("%s (%d of %d failures in a row, after which training stops)", error, self.failures, MOST_FAILURES)
        self.run_log.event(self._last_step, "save failed", str(error))
        if self.failures == MOST_FAILURES:
            raise SaveError(f"{MOST_FAILURES} saves in a row failed, the last with: {error}") from error

    def log(self) -> None:
        """Logs the last save if it is whole by now."""
        if self._open is None:
            return
        step, blocked, before = self._open
        times = self.checkpoints.last_save_seconds
        if times is not before:  # a new dictionary for every finished save
            self.run_log.write("checkpoint", step, {"blocked_seconds": round(blocked, 3), "total_seconds": round(times["total"], 3)})
            self._open, self.failures = None, 0
