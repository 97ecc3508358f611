"""Several processes on this machine that are one JAX program, and one process with this machine's GPUs.

Each process finds its place in `BERT_JAX_COORDINATOR`, `BERT_JAX_NUM_PROCESSES` and `BERT_JAX_PROCESS_ID`, and has its own virtual CPU devices.
"""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

from launch import exit_codes
from launch.launchers.signals import caught_signals
from launch.launchers.steps import quote

STOPPED = exit_codes.STOPPED.status
POLL = 0.05  # seconds
DEVICE_COUNT = "--xla_force_host_platform_device_count"


@dataclasses.dataclass
class Child:
    """A started process and the threads that pass its output on."""

    rank: int
    process: subprocess.Popen
    readers: list[threading.Thread]
    asked: bool = False  # to end, because another one failed


def bert_jax_command(payload: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "launch.cli", *payload]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def local_variables(rank: int, processes: int, devices: int, port: int, xla_flags: str) -> dict[str, str]:
    """The environment of process `rank`, besides what it inherits; `xla_flags` are those that are set already."""
    others = [flag for flag in xla_flags.split() if not flag.startswith(DEVICE_COUNT)]
    return {
        "BERT_JAX_COORDINATOR": f"127.0.0.1:{port}",
        "BERT_JAX_NUM_PROCESSES": str(processes),
        "BERT_JAX_PROCESS_ID": str(rank),
        "JAX_PLATFORMS": "cpu",
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": " ".join([*others, f"{DEVICE_COUNT}={devices}"]),
    }


def launch_local(command: Sequence[str], processes: int, devices: int, *, execute: bool, grace: float = 30.0) -> int:
    """Prints, or runs, `command` as `processes` processes of `devices` virtual CPU devices each; see `run_processes`."""
    if processes < 1 or devices < 1:
        raise ValueError(f"give at least one process and one device, not {processes} and {devices}")
    port = free_port()
    variables = [local_variables(rank, processes, devices, port, os.environ.get("XLA_FLAGS", "")) for rank in range(processes)]
    for rank, values in enumerate(variables):
        print(f"# process {rank}\n" + " ".join(f"{name}={quote(value)}" for name, value in values.items()) + " " + " ".join(map(quote, command)), flush=True)
    if not execute:
        print("\n# nothing was done: add --execute to do it")
        return 0
    return run_processes(command, variables, grace=grace)


def run_processes(command: Sequence[str], variables: Sequence[Mapping[str, str]], *, grace: float = 30.0) -> int:
    """Runs `command` once for each entry of `variables`, which are added to this process's environment; returns when all have ended.

    Their lines come out here with `[RANK] ` before them. SIGINT, SIGTERM and SIGHUP are passed on, each one once. When a process fails, the others get SIGTERM,
    and SIGKILL `grace` seconds later. Returns the exit status of the first that failed by itself (128 + N for signal N); without any 75 if one was stopped with
    its state saved, else 0.
    """
    lock = threading.Lock()
    children: list[Child] = []
    failure: int | None = None
    deadline: float | None = None
    with caught_signals() as caught:
        try:
            for rank, values in enumerate(variables):
                children.append(start(rank, command, values, lock))
            while any(child.process.poll() is None for child in children):
                while caught:
                    tell(children, caught.pop(0))
                failed = next((child for child in children if not child.asked and status_of(child) not in (None, 0, STOPPED)), None)
                if failed and failure is None:
                    failure, deadline = status_of(failed), time.monotonic() + grace
                    say(lock, f"process {failed.rank} ended with status {failure}; ending the others")
                    for child in children:
                        child.asked = True
                    tell(children, signal.SIGTERM)
                if deadline and time.monotonic() > deadline:
                    tell(children, signal.SIGKILL)
                time.sleep(POLL)
        finally:
            tell(children, signal.SIGKILL)  # only if something above raised: otherwise all have ended
            for child in children:
                child.process.wait()
                for reader in child.readers:
                    reader.join(timeout=5)  # a grandchild may hold the pipe
    statuses = [status_of(child) for child in children]
    if failure is None:
        failure = next((status for status in statuses if status not in (0, STOPPED)), None)
    return failure if failure is not None else (STOPPED if STOPPED in statuses else 0)


def start(rank: int, command: Sequence[str], variables: Mapping[str, str], lock: threading.Lock) -> Child:
    process = subprocess.Popen(
        command, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,  # so that Ctrl-C comes through here, once
    )
    readers = [
        threading.Thread(target=pass_on, args=(rank, source, target, lock), daemon=True)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]
    for reader in readers:
        reader.start()
    return Child(rank, process, readers)


def pass_on(rank: int, source: IO[bytes], target: IO[str], lock: threading.Lock) -> None:
    """Copies lines with their rank before them; never two at once."""
    with source:
        for line in source:
            with lock:
                target.write(f"[{rank}] {line.decode(errors='replace').rstrip(chr(10))}\n")
                target.flush()


def say(lock: threading.Lock, text: str) -> None:
    with lock:
        print(f"bert-jax launch: {text}", file=sys.stderr, flush=True)


def tell(children: Sequence[Child], number: int) -> None:
    """Sends a signal to those that still run; SIGKILL also to what they have started."""
    for child in children:
        if child.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGKILL else os.kill)(child.process.pid, number)


def status_of(child: Child) -> int | None:
    """The exit status as a shell counts it; None while the process runs."""
    status = child.process.poll()
    return 128 - status if status is not None and status < 0 else status


def launch_local_gpus(payload: Sequence[str], gpus: str | None, *, execute: bool) -> int:
    """Prints, or becomes, one process that drives all of this machine's GPUs, or those in `gpus`, such as "0,1,2,3". Fails where there is none."""
    variables = {"JAX_PLATFORMS": "cuda"}
    if gpus is not None:
        if not re.fullmatch(r"\d+(,\d+)*", gpus):
            raise ValueError(f"--gpus {gpus!r}: give numbers parted by commas, such as 0,1,2,3")
        variables["CUDA_VISIBLE_DEVICES"] = gpus
    command = bert_jax_command(payload)
    print("# one process with " + ("all GPUs of this machine" if gpus is None else f"GPUs {gpus}"))
    print(" ".join(f"{name}={quote(value)}" for name, value in variables.items()) + " " + " ".join(map(quote, command)), flush=True)
    if not execute:
        print("\n# nothing was done: add --execute to do it")
        return 0
    os.execve(command[0], command, os.environ | variables)
