"""What looks after a run from beside it: a thread that heeds signals while the run cannot, notices what hangs and peers that left, and says why a process ended.

In come signals, what the run tells of itself (`Watch`) and what peers told; out go an exit status of `exit_codes`, WORKDIR/exit_reason.json (of several processes
exit_reason-RANK.json; of a process that is killed `witness.py` writes it) and, of a hang, the stacks of all threads in WORKDIR/stacks-RANK.txt and on standard error.

The thread ends the process itself, without unwinding, since the main thread may be inside XLA for minutes. That is safe: nothing here is ever half-written.
"""

import contextlib
import datetime
import errno
import faulthandler
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bert_jax.training.stop import StopRequest
from bert_jax.training.watch import Watch
from launch import distributed, exit_codes
from launch.exit_codes import ExitCode
from launch.workdir_lock import held_by_another

GRACE_SECONDS = 300.0  # between a signal and the end of the machine
HANG_SECONDS = 600.0  # for a step or a batch; `bert_jax.training.watch.PATIENCE` times that for what compiles, starts or saves
MEETING_SECONDS = 10.0  # that several processes have to stop at one step, before they leave without
TICK = 0.25  # seconds between looks; of several processes 1
LEFT = "bert_jax/left"  # under which the first process that goes tells the others why
ENDING_SECONDS = 10.0  # between a run's end and that of its process; of several as much more as they wait for one another
LAST_WORDS = 2.0  # seconds that a process has for an error of its own once another has left
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
FULL = re.compile(r"No space left on device|Disk quota exceeded|free some space")
# What backends and the coordination service say when a peer is gone.
BROKEN = re.compile(r"gloo|connection (closed|reset|refused)|broken pipe|socket closed|UNAVAILABLE|coordination service|heartbeat|peer (task|process)|see the other processes", re.I)


class Oversight:
    """Of one process of a run. `run` does all of it; what it calls tells `joined` and `holds` when it is so far.

    grace: seconds from SIGTERM or SIGINT in which the process leaves. hang_timeout: seconds after which a step counts as hung.
    """

    def __init__(self, workdir: Path, *, grace: float = GRACE_SECONDS, hang_timeout: float = HANG_SECONDS):
        for name, value in (("grace", grace), ("hang-timeout", hang_timeout)):
            if not value > 0:
                raise ValueError(f"--{name}={value:g}: give more than 0 seconds")
        self.workdir, self.grace, self.hang_timeout = workdir, grace, hang_timeout
        self.stop, self.watch = StopRequest(), Watch()
        self._rank, self._holds, self._last_durable = None, False, lambda: None
        self._ending, self._over = threading.Lock(), threading.Event()
        self._peer_left_at = self._signal_at = self._witness = None

    def joined(self) -> None:
        """The processes have met, if there are several."""
        self._rank = distributed.number()
        self.stop.joined()

    def holds(self, last_durable: Callable[[], int | None]) -> None:
        """The workdir is this run's. last_durable: of checkpoints on the disk, the newest step."""
        self._holds, self._last_durable = True, last_durable
        if not self._rank:
            mine = [f"exit_reason-{rank}.json" for rank in range(distributed.count())] if self._rank is not None else ["exit_reason.json"]
            for path in self.workdir.glob("exit_reason*.json"):
                if path.name not in mine:
                    path.unlink(missing_ok=True)
        self._record(None, "as long as this stands here the process is running, or its machine is gone")
        self._call_witness()

    def run(self, function: Callable[[], int]) -> int:
        """Calls `function` with all of this around it; returns its status. Its error gets an `exit_status` and is raised again."""
        with contextlib.ExitStack() as stack:
            if not faulthandler.is_enabled():
                faulthandler.enable(sys.__stderr__)
                stack.callback(faulthandler.disable)
            stack.enter_context(self.stop)
            stack.callback(self._dismiss_witness)
            thread = threading.Thread(target=self._attend, name="oversight", daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._over.set)
            try:
                status = function()
            except BaseException as error:
                with self._ending:  # while the thread ends the process this waits, and it is over
                    self._over.set()
                    self._failed(error)
                raise
            with self._ending:
                self._over.set()
                self._record(exit_codes.BY_STATUS[status], self.stop.signal or "")
            return status

    def leave(self, code: ExitCode, message: str) -> None:
        """Ends the process from another thread than the main one."""
        with self._ending:
            if self._over.is_set():  # the main thread was quicker
                return
            self._record(code, message)
            self._tell_peers(code, message)
            print(f"{distributed.speaker()}bert-jax: {message}; exit status {code.status} ({code.name})", file=sys.stderr, flush=True)
            distributed.end_process(code.status)

    # ---- the thread ----

    def _attend(self) -> None:
        while not self._over.is_set():
            if self.stop.poll(TICK if self._rank is None else 4 * TICK):
                self._heed_signal()
            if words := self.watch.overdue(self.hang_timeout):
                self._dump_stacks(words)
                self.leave(exit_codes.HUNG, f"hung: {words}")
            if self._rank is not None:
                self._heed_peers()

    def _heed_signal(self) -> None:
        """With unsaved updates the main thread stops by itself, and this only sees that it does so in time."""
        self._signal_at = self._signal_at or time.monotonic()
        passed = time.monotonic() - self._signal_at
        if not self.watch.unsaved:
            if self._rank is None or passed > min(MEETING_SECONDS, 0.5 * self.grace):
                self.leave(exit_codes.STOPPED, f"{self.stop.signal} at {self.watch.doing}: leaving, nothing is lost; the same command continues")
        elif passed > 0.9 * self.grace:
            saved = self._last_durable() == self.watch.step
            code = exit_codes.STOPPED if saved else exit_codes.CUT_SHORT
            self.leave(code, f"{self.stop.signal}: {self.watch.doing} did not end within {0.9 * self.grace:.0f} s")

    def _heed_peers(self) -> None:
        left = distributed.told(LEFT)
        if left is None:
            return
        self._peer_left_at = self._peer_left_at or time.monotonic()
        if time.monotonic() - self._peer_left_at > LAST_WORDS:
            code, message = self._read_left(left)
            if code is exit_codes.HUNG:
                self._dump_stacks(f"{message}; here: {self.watch.doing}")
            self.leave(code, message)

    def _dump_stacks(self, words: str) -> None:
        rank = self._rank or 0
        print(f"process {rank}, {words}; the stacks of all its threads:", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError, ValueError):
            faulthandler.dump_traceback(sys.__stderr__)
        with contextlib.suppress(OSError):
            if self._may_write():
                with open(self.workdir / f"stacks-{rank}.txt", "w") as file:
                    file.write(f"process {rank}, {now()}: {words}\n")
                    file.flush()
                    faulthandler.dump_traceback(file)

    # ---- what is said at the end ----

    def _failed(self, error: BaseException) -> None:
        code, message = code_of(error, several=self._rank is not None), f"{type(error).__name__}: {error}"
        if code is exit_codes.PEER_DIED:  # of which the peer may have told why
            for _ in range(int(LAST_WORDS / TICK)):
                if left := distributed.told(LEFT):
                    code, message = self._read_left(left)
                    print(f"{distributed.speaker()}bert-jax: {message}", file=sys.stderr, flush=True)
                    break
                time.sleep(TICK)
        self._record(code, message)
        self._tell_peers(code, message)
        with contextlib.suppress(AttributeError, TypeError):
            error.exit_status = code.status

    def _tell_peers(self, code: ExitCode, message: str) -> None:
        if self._rank is not None:
            distributed.tell(LEFT, json.dumps([self._rank, code.status, message[:2000]]))

    def _read_left(self, text: str) -> tuple[ExitCode, str]:
        rank, status, message = json.loads(text)
        return exit_codes.BY_STATUS[status], f"process {rank} left: {message}"

    def _record(self, code: ExitCode | None, message: str) -> None:
        """Writes exit_reason.json, where there is a workdir that no other run has; never an error of its own."""
        with contextlib.suppress(Exception):
            if not self._may_write():
                return
            reason = {
                "code": None if code is None else code.status, "name": "running" if code is None else code.name, "again": True if code is None else code.again,
                "step": self.watch.step, "last_durable_step": self._last_durable(), "message": message, "doing": self.watch.doing, "time": now(),
                "process": self._rank or 0, "host": platform.node(), "pid": os.getpid(),
            }
            path = self._reason_path()
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text(json.dumps(reason, indent=2) + "\n")
            os.replace(temporary, path)

    def _reason_path(self) -> Path:
        return self.workdir / ("exit_reason.json" if self._rank is None else f"exit_reason-{self._rank}.json")

    def _call_witness(self) -> None:
        """Of an end that leaves this process no time: SIGKILL, and JAX's SIGABRT a few milliseconds after the coordinator is gone."""
        if self._witness is None and hasattr(os, "pidfd_open"):
            command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("witness.py")), str(os.getpid()), str(self._reason_path())]
            with contextlib.suppress(OSError):
                quiet = subprocess.DEVNULL
                self._witness = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def _dismiss_witness(self) -> None:
        if self._witness is not None:
            self._witness.kill()
            self._witness.wait()
            self._witness = None

    def _may_write(self) -> bool:
        return self.workdir.is_dir() and (self._holds or not held_by_another(self.workdir))


def end_in_time(status: int) -> None:
    """Called last: ends the process if it is still there so long afterwards. Python waits for others' threads, and Orbax's wait for minutes after a save that failed.

    Of several processes all part here: JAX would have them do so after those threads have ended, and abort those that come first."""
    if distributed.number() is not None:
        _end_after(distributed.SHUTDOWN_SECONDS + ENDING_SECONDS, status)
        distributed.part()
    _end_after(ENDING_SECONDS, status)


def _end_after(seconds: float, status: int) -> None:
    ending = threading.Timer(seconds, os._exit, (status,))
    ending.daemon = True
    ending.start()


def code_of(error: BaseException, *, several: bool) -> ExitCode:
    """The exit code of an error that ended a run."""
    chain, seen = error, []
    while chain is not None and len(seen) < 20:
        seen.append(chain)
        chain = chain.__cause__ or chain.__context__
    if isinstance(error, KeyboardInterrupt):
        return exit_codes.INTERRUPTED
    if isinstance(error, FloatingPointError):
        return exit_codes.DIVERGED
    if any(isinstance(each, OSError) and each.errno in NO_SPACE or FULL.search(str(each)) for each in seen):
        return exit_codes.NO_SPACE
    if "no usable checkpoint is left" in str(error):
        return exit_codes.DAMAGED
    if several and any(isinstance(each, (RuntimeError, ValueError, OSError)) and BROKEN.search(str(each)) for each in seen):
        return exit_codes.PEER_DIED
    if any(type(each).__name__ == "SaveError" for each in seen):  # bert_jax.training.checkpoint's, which loads jax
        return exit_codes.STORAGE
    return exit_codes.ERROR


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
