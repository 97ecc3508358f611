"""One run at a time in a workdir, and one workdir for all processes of a run. Loads jax when it is needed, since `oversight` comes before jax."""

import contextlib
import fcntl
import os
import platform
import time
from pathlib import Path

from launch.config import ConfigError


@contextlib.contextmanager
def locked(workdir: Path):
    """Makes the workdir and holds it for this run; ConfigError if another run has it, or if not all processes see it.

    The first process holds the lock, which goes with it, however it ends."""
    import jax

    from bert_jax.processes import any_process, from_first

    with contextlib.ExitStack() as stack:
        written = from_first(lambda: _lock(workdir, stack))
        seen = _read(workdir)
        if any_process(seen != written):
            here = "" if seen == written else f" (process {jax.process_index()}, on {platform.node()}, does not)"
            raise ConfigError(f"not all processes see one directory at --workdir={workdir}{here}; give a path on storage that all of them share")
        yield


def _lock(workdir: Path, stack: contextlib.ExitStack) -> str:
    """Returns what it wrote into the lock's file, which no other run writes."""
    workdir.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(open(workdir / ".lock", "a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another process is training in {workdir}; wait for it, or use another --workdir") from None
    holder = f"{platform.node()} {os.getpid()} {time.time()}\n"
    file.truncate(0)
    file.write(holder)
    file.flush()
    return holder


def held_by_another(workdir: Path) -> bool:
    """Whether some run, on a machine that this one can tell of, is in the workdir."""
    try:
        with open(workdir / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _read(workdir: Path) -> str:
    try:
        return (workdir / ".lock").read_text()
    except OSError:
        return ""
