"""Runs a command on machines that may be taken away, again and again until it is done."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from launch.exit_codes import AGAIN, BY_STATUS
from launch.launchers.signals import caught_signals
from launch.launchers.steps import not_installed

DISCONNECTED = 255  # ssh's own exit status


def relaunch_until_done(
    launch: Callable[[], int], taken_away: Callable[[], bool], recover: Callable[[], bool], stopping: Callable[[], bool], *, retries: int,
    pause: float, sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Calls `launch` until it returns 0; returns the last exit status.

    It goes on after statuses that say so themselves (`exit_codes.AGAIN`: stopped with the state saved, hung, a peer that died or did not come), after a broken connection
    and after any status of machines that were taken away, which `recover` then has to bring back (False: it cannot). Any other status is an error of the command, and
    ends it, as do `retries` relaunches and `stopping`, a person's wish.
    `pause` is in seconds, before each relaunch.
    """
    for attempt in range(retries + 1):
        status = launch()
        if status == 0 or stopping():
            return status
        if status == DISCONNECTED:
            sleep(pause)  # the state of machines that are being taken away lags behind
        gone = taken_away()
        if status not in (*AGAIN, DISCONNECTED) and not gone:
            return status
        if attempt == retries:
            say(f"status {status} after {retries} relaunches; giving up")
            return status
        if gone and not recover():
            return status
        say(f"status {status}{f' ({BY_STATUS[status].name})' if status in BY_STATUS else ''}{', and the machines were taken away' if gone else ''}: relaunch {attempt + 1} of at most {retries}")
        sleep(pause)
    raise AssertionError("unreachable")


def run_interruptibly(argv: Sequence[str], stop: Callable[[], object]) -> tuple[int, bool]:
    """Runs a program; at the first signal calls `stop`, which asks the work to end, and goes on waiting; at the third ends the program.

    Returns its exit status (128 + N for signal N), and whether there was a signal. The program does not get the signals of the terminal itself.
    """
    with caught_signals() as caught:
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        except FileNotFoundError:
            raise not_installed(argv[0]) from None
        asked = False
        while True:
            try:
                status = process.wait(timeout=0.2)
                return (128 - status if status < 0 else status), bool(caught)
            except subprocess.TimeoutExpired:
                if caught and not asked:
                    asked = True
                    say("asking the run to save and stop; its state is saved when this command returns 75")
                    stop()
                if len(caught) > 2:
                    process.terminate()


def say(text: str) -> None:
    print(f"bert-jax launch: {text}", file=sys.stderr, flush=True)
