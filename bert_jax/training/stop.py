"""When to stop early: SIGTERM or SIGINT, to any process, becomes one step, or batch of an evaluation, after which all of them stop.

jax is imported where it is needed, so that signals are held from a command's first moment on.
"""

import itertools
import os
import select
import signal
import threading

_asked = itertools.count(1)  # how often this process asked; the coordination service counts on, also from one phase to the next
NOTICE = "RECEIVED_PREEMPTION_NOTICE"  # under which the coordination service tells all processes of a SIGTERM to one


class Interrupted(Exception):
    """Work that nothing is kept of, an evaluation, was given up for a stop that is due."""


class StopRequest:
    """Set by SIGTERM or SIGINT; a second SIGINT interrupts at once. Usable as a context manager, which in other threads than the main one sees no signals.

    Of several processes any may get the signal. JAX's coordination service, which handles SIGTERM from `jax.distributed.initialize` on (so also before the
    first step), tells the others within a second or two and chooses a step that none of them has passed.
    """

    def __init__(self):
        self.signal: str | None = None
        self.several = False
        self._due, self._interrupts = False, 0
        self._previous: dict[int, object] = {}

    def __enter__(self):
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        if threading.current_thread() is threading.main_thread():
            # A handler in Python waits for as long as the main thread is inside XLA, the byte in the pipe does not.
            self._previous_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        if self._previous:
            signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            if number == signal.SIGINT or not self.several:  # of several, SIGTERM is the coordination service's
                signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def joined(self) -> None:
        """To be called once the processes have met, if there are several."""
        import jax

        self.several = jax.distributed.is_initialized()

    def due(self) -> bool:
        """Whether to stop now. Every process asks after each step and each batch of an evaluation; a signal that comes later is the next one's."""
        if self._due or not self.several:
            return self._due or self.signal is not None
        from jax.experimental import multihost_utils

        # Counted from this process's first: the service takes the first after the last one asked about, which is 0 before it was ever asked.
        if multihost_utils.reached_preemption_sync_point(next(_asked)):
            self.signal = self.signal or "stopped by a signal"
            self._due = True
        return self._due

    def between_batches(self) -> None:
        """Of an evaluation: raises Interrupted if a stop is due."""
        if self.due():
            raise Interrupted

    def poll(self, seconds: float) -> str | None:
        """For another thread than the main one: waits so long for a signal to this process; then whether it, or of several any process, has had one."""
        ready, _, _ = select.select([self._read], [], [], seconds)
        if ready:
            for number in os.read(self._read, 64):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self.signal = self.signal or signal.Signals(number).name
        if self.signal is None and self.several:
            from bert_jax.processes import told

            if told(NOTICE) is not None:
                self.signal = "stopped by a signal"
        return self.signal

    def _handle(self, number, frame):
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self.signal = self.signal or signal.Signals(number).name
        if self.several and number == signal.SIGINT:
            os.kill(os.getpid(), signal.SIGTERM)  # which the coordination service waits for
