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

    def follows(self, others: "list[Watch]") -> None:
        """Is at whatever of these, which go on side by side, tries patience most."""
        self._now = max((other._now for other in others), key=lambda now: (time.monotonic() - now[1]) / (PATIENCE if now[2] else 1))
        self.unsaved = any(other.unsaved for other in others)
        self.step = max(other.step or 0 for other in others)

    @property
    def doing(self) -> str:
        return self._now[0]

    def overdue(self, seconds: float) -> str | None:
        """What is taking longer than `seconds` (PATIENCE times that if it is slow), in words; None if all goes well."""
        doing, since, slow = self._now
        passed = time.monotonic() - since
        return f"{doing} has taken {passed:.0f} s" if passed > seconds * (PATIENCE if slow else 1) else None
