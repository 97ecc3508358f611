"""A run from outside, and what can happen to it: signals, damage to its newest checkpoint, a full or read-only disk. For torture.py.

Every choice is drawn from the `random.Random` that is handed in. Disks are real ones: a tmpfs and bind mounts, where we may mount.
"""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launch import exit_codes

ROOT = Path(__file__).parents[1]
LEAVE_SECONDS = 600.0  # in which all processes must have left once one has, and a run that lives on must have taken a step
DISK_BYTES = 96 * 2**20
ABORTED = -signal.SIGABRT  # what Popen makes of 134
PEER_LEFT = {exit_codes.PEER_DIED.status, ABORTED}


class Tortured(AssertionError):
    """The run did something that it must not."""


class Job:
    """The processes of one run in `workdir`; what they say goes to files `outputs`-NUMBER.txt. command: `pretrain` and its options, without the workdir."""

    def __init__(self, workdir: Path, outputs: Path, command: list[str], count: int, environment: dict[str, str]):
        self.workdir, self.outputs, self.command, self.count, self.environment = workdir, outputs, command, count, environment
        self.processes: list[subprocess.Popen] = []
        self.starts = 0

    def start(self) -> None:
        self.began, self.first_step = time.monotonic(), self.step()
        self.starts += 1
        self.processes = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        for number in range(self.count):
            several = [f"--coordinator={address}", f"--num-processes={self.count}", f"--process-id={number}"] if self.count > 1 else []
            with open(self.output(number), "a") as output:
                command = [sys.executable, "-m", "launch.cli", *self.command, f"--workdir={self.workdir}", *several]
                self.processes.append(subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=output, stderr=subprocess.STDOUT))

    def running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def to_the_end(self) -> list[int]:
        """Statuses of all processes, however long they take."""
        while self.running():
            time.sleep(0.1)
        return self.end()

    def end(self) -> list[int]:
        """Statuses of all processes, which have begun to leave. Tortured if one of them stays."""
        deadline = time.monotonic() + LEAVE_SECONDS
        try:
            return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise Tortured(f"one process has left, another has stayed for {LEAVE_SECONDS:.0f} s\n{self.said()}") from None

    def lateness(self) -> float:
        """Seconds since the first of the processes, which all have left, wrote that it had ended."""
        return time.time() - min(path.stat().st_mtime for path in self.workdir.glob("exit_reason*.json"))

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def said(self) -> str:
        """The last words of all processes."""
        return "\n".join(f"--- process {number}\n" + self.output(number).read_text(errors="replace")[-3000:] for number in range(self.count))

    def output(self, number: int) -> Path:
        return self.outputs.with_name(f"{self.outputs.name}-{number}.txt")

    def step(self) -> int:
        """The newest that is logged; 0 if there is none. A step that was logged may be done again."""
        with contextlib.suppress(OSError), open(self.workdir / "metrics.jsonl", "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 20_000, 0))
            for line in reversed(file.read().splitlines()):
                with contextlib.suppress(ValueError):
                    return json.loads(line)["step"]
        return 0

    def whole(self) -> list[Path]:
        """Committed checkpoints, oldest first."""
        return sorted(path.parent for path in self.workdir.glob("checkpoints/step_????????/commit.json"))

    def wait_for(self, what: Callable[[], bool]) -> bool:
        """Whether it came before the run left."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.running():
            if what():
                return True
            if time.monotonic() > deadline:
                raise Tortured(f"no progress for {LEAVE_SECONDS:.0f} s at step {self.step()}\n{self.said()}")
            time.sleep(0.01)
        return False


@dataclasses.dataclass(frozen=True)
class Fault:
    """do: makes it happen to a running job and says what it did. leaves: statuses with which processes may end, besides living on if `survives`.

    whole: checkpoints that must be there before. early: may come before the first step, too."""

    name: str
    do: Callable[[Job, random.Random], str]
    leaves: set[int]
    survives: bool = False
    whole: int = 0
    early: bool = True


def kill(job: Job, draw: random.Random) -> str:
    number = draw.randrange(job.count)
    job.processes[number].kill()
    return f"process {number}"


def kill_all(job: Job, draw: random.Random) -> str:
    for process in job.processes:
        process.kill()
    return "all processes"


def stop(job: Job, draw: random.Random) -> str:
    number, which = draw.randrange(job.count), draw.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGINT])
    job.processes[number].send_signal(which)
    return f"{which.name} to process {number}"


def freeze(job: Job, draw: random.Random) -> str:
    number, seconds = draw.randrange(job.count), draw.uniform(0.2, 4)
    job.processes[number].send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    job.processes[number].send_signal(signal.SIGCONT)
    return f"process {number} for {seconds:.1f} s"


def freeze_for_good(job: Job, draw: random.Random) -> str:
    """Until the others have left."""
    number = draw.randrange(job.count)
    job.processes[number].send_signal(signal.SIGSTOP)
    others = [process for process in job.processes if process is not job.processes[number]]
    began = time.monotonic()
    while any(process.poll() is None for process in others):
        if time.monotonic() - began > LEAVE_SECONDS:
            raise Tortured(f"process {number} is frozen, and the others have stayed for {LEAVE_SECONDS:.0f} s\n{job.said()}")
        time.sleep(0.05)
    job.processes[number].kill()
    return f"process {number}; the others left after {time.monotonic() - began:.0f} s"


def corrupt(job: Job, draw: random.Random) -> str:
    """The machine goes, and what it wrote last is not what is read."""
    job.kill()
    if not any(process.returncode for process in job.processes):
        return "after its end"
    step = job.whole()[-1]
    path = draw.choice(sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size))
    how = draw.choice(["a bit flipped", "a block zeroed", "cut short", "deleted"])
    contents = bytearray(path.read_bytes())
    damaged = bytearray(contents)
    place = draw.randrange(len(contents))
    if how == "a block zeroed":
        damaged[place : place + 4096] = bytes(len(damaged[place : place + 4096]))
    if how == "a bit flipped" or how == "a block zeroed" and damaged == contents:
        damaged[place] ^= 1 << draw.randrange(8)
    if how == "cut short":
        del damaged[place:]
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(damaged)
    return f"{path.relative_to(job.workdir / 'checkpoints')}: {how}"


def fill_disk(job: Job, draw: random.Random) -> str:
    left, seconds = draw.choice([0, 4096, 200_000, 2_000_000]), draw.uniform(0.5, 4)
    ballast = job.workdir.parent / "ballast"
    with open(ballast, "wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(shutil.disk_usage(ballast.parent).free - left, 4096))
    try:
        time.sleep(seconds)
    finally:
        ballast.unlink()
    return f"{left:,} bytes left, for {seconds:.1f} s"


def make_read_only(job: Job, draw: random.Random) -> str:
    checkpoints, seconds = str(job.workdir / "checkpoints"), draw.uniform(0.2, 4)
    mount("--bind", checkpoints, checkpoints)
    try:
        mount("-o", "remount,ro,bind", checkpoints)
        time.sleep(seconds)
    finally:
        subprocess.run(["umount", "-l", checkpoints], check=True)
    return f"for {seconds:.1f} s"


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(directory: Path):
    """A disk of its own under `directory`; yields whether there is one, for which we must be allowed to mount."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(directory))
    except (OSError, subprocess.CalledProcessError):
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def faults(count: int, disk: bool) -> list[Fault]:
    """Those that can happen to a run of so many processes, as often as they shall be drawn. disk: it has one of its own."""
    killed, stopped = {-signal.SIGKILL}, {exit_codes.STOPPED.status, -signal.SIGTERM, -signal.SIGINT, exit_codes.INTERRUPTED.status}
    storage = {exit_codes.NO_SPACE.status, exit_codes.STORAGE.status}
    found = [
        Fault("killed", kill, killed | PEER_LEFT), Fault("killed", kill_all, killed | PEER_LEFT),
        Fault("stopped by a signal", stop, stopped | PEER_LEFT), Fault("stopped by a signal", stop, stopped | PEER_LEFT),
        Fault("frozen and thawed", freeze, set(), survives=True),
        Fault("newest checkpoint damaged", corrupt, killed | PEER_LEFT, whole=2, early=False),
        Fault("newest checkpoint damaged", corrupt, killed | PEER_LEFT, whole=2, early=False),
    ]
    if disk:
        found += [
            Fault("disk full", fill_disk, storage, survives=True, early=False),
            Fault("checkpoints read-only", make_read_only, storage, survives=True, whole=1, early=False),
        ]
    if count > 1:
        found.append(Fault("frozen for good", freeze_for_good, killed | PEER_LEFT | {exit_codes.HUNG.status}))
    return found
