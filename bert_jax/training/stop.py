"""When to stop early: SIGTERM or SIGINT, to any process, becomes one step after which all of them stop."""

import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_asked = itertools.count(1)  # how often this process asked; the coordination service counts on, also from one phase to the next


class StopRequest:
    """Set by SIGTERM or SIGINT; a second SIGINT interrupts at once. Usable as a context manager in the main thread only.

    Of several processes any may get the signal. JAX's coordination service, which handles SIGTERM from `jax.distributed.initialize` on (so also before the
    first step), tells the others within a second or two and chooses a step that none of them has passed.
    """

    def __init__(self):
        self.signal: str | None = None
        self._previous: dict[int, object] = {}
        self._several = jax.distributed.is_initialized()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def due(self) -> bool:
        """Whether to stop after this step. Every process asks once at every step; a signal that comes later is the next step's."""
        if not self._several:
            return self.signal is not None
        # Steps are counted from this process's first: the service takes the first after the last one asked about, which is 0 before it was ever asked.
        if multihost_utils.reached_preemption_sync_point(next(_asked)):
            self.signal = self.signal or "stopped by a signal"
            return True
        return False

    def _handle(self, number, frame):
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)  # which the coordination service waits for
