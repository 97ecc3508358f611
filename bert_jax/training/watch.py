"""What a run is at: told by the loop as it goes, read by a thread that watches it."""

import time

PATIENCE = 6  # how much longer than a step may be what compiles, starts, restores or saves


class Watch:
    """doing, since: what the run is at, and since when (time.monotonic). step: of the last update that was begun.

    unsaved: whether there may be updates that no durable checkpoint holds. Until then, and after, a process may be ended at any moment.
    """

    def __init__(self):
        self.step: int | None = None
        self.unsaved = False
        self.begins("starting", slow=True)

    def begins(self, doing: str, *, slow: bool = False) -> None:
        """slow: it may compile, or wait for storage."""
        self._now = (doing, time.monotonic(), slow)

    @property
    def doing(self) -> str:
        return self._now[0]

    def overdue(self, seconds: float) -> str | None:
        """What is taking longer than `seconds` (PATIENCE times that if it is slow), in words; None if all goes well."""
        doing, since, slow = self._now
        passed = time.monotonic() - since
        return f"{doing} has taken {passed:.0f} s" if passed > seconds * (PATIENCE if slow else 1) else None
