"""Signals that ask this process to stop, kept until it looks, so that it can pass them on to what it has started."""

import contextlib
import signal
from collections.abc import Iterator

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Within, signals that would end this process are appended to the list instead."""
    caught: list[int] = []
    previous = {number: signal.signal(number, lambda received, frame: caught.append(received)) for number in STOPPING}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
