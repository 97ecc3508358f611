"""Checkpoints of a training run, and the seconds that each of them took, in the run's log."""

import time
from typing import Any

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.run_log import RunLog


class TimedSaves:
    """Saves by `checkpoints`; once a save is whole, its seconds are logged under its step.

    blocked_seconds: how long training stood still for it, for the end of the save before it and for the copy off the devices. total_seconds: until
    its commit was written, in the background.
    """

    def __init__(self, checkpoints: Checkpoints, run_log: RunLog):
        self.checkpoints, self.run_log = checkpoints, run_log
        self._open: tuple[int, float, dict] | None = None  # step, blocked seconds, and the times of the save before

    def save(self, step: int, trees: dict[str, Any]) -> None:
        began = time.monotonic()
        self.wait()
        before = self.checkpoints.last_save_seconds
        self.checkpoints.save(step, trees)
        self._open = (step, time.monotonic() - began, before)

    def wait(self) -> None:
        """Returns when no save is under way; raises the error of one that failed."""
        self.checkpoints.wait()
        self.log()

    def log(self) -> None:
        """Logs the last save if it is whole by now."""
        if self._open is None:
            return
        step, blocked, before = self._open
        times = self.checkpoints.last_save_seconds
        if times is not before:  # a new dictionary for every finished save
            self.run_log.write("checkpoint", step, {"blocked_seconds": round(blocked, 3), "total_seconds": round(times["total"], 3)})
            self._open = None
