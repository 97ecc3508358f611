"""Seeds at once: each in a thread, on its own equal part of this machine's devices, with the bits that it would have there by itself."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.stop import Interrupted, StopRequest
from bert_jax.training.watch import Watch
from launch.config import ConfigError
from launch.oversight import Oversight

TICK = 0.25  # seconds between looks at the threads
TURN = threading.Lock()


class InTurns(Checkpoints):
    """Of runs in several threads: Orbax numbers saves for a process, so theirs take turns, and each waits for its end."""

    def save(self, step: int, trees: dict[str, Any], scores: dict[str, float] | None = None) -> None:
        with TURN:
            super().save(step, trees, scores)
            super().wait()

    def restore(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        with TURN:
            return super().restore(step, abstract)


def parts_of_devices(parts: int) -> list[list[jax.Device]]:
    """All devices, in so many equal parts."""
    devices = jax.devices()
    if parts < 1 or len(devices) % parts:
        fitting = [number for number in range(1, len(devices) + 1) if len(devices) % number == 0]
        raise ConfigError(f"mesh.seeds is {parts}, and {len(devices)} devices do not divide into as many equal parts; use one of {', '.join(map(str, fitting))}")
    if parts > 1 and jax.process_count() > 1:
        raise ConfigError(f"mesh.seeds is {parts}, but {jax.process_count()} processes share the devices of a run; set it to 1, or run one process for each part of the seeds")
    size = len(devices) // parts
    return [devices[at : at + size] for at in range(0, len(devices), size)]


class SharedStop(StopRequest):
    """Due where the run's own is, and once a thread has failed. Sees no signals itself."""

    def __init__(self, outer: StopRequest, failed: threading.Event):
        self.outer, self.failed = outer, failed

    @property
    def signal(self) -> str | None:
        return self.outer.signal or ("another seed failed" if self.failed.is_set() else None)

    def due(self) -> bool:
        return self.outer.due() or self.failed.is_set()

    def between_batches(self) -> None:
        if self.due():
            raise Interrupted


class SeedOversight:
    """An `Oversight` for one of the threads, which the main thread sums up."""

    def __init__(self, stop: StopRequest):
        self.stop, self.watch = stop, Watch()

    def holds(self, last_durable: Callable[[], int | None]) -> None:
        pass


def at_once(run_seed: Callable[[Any, int, SeedOversight], bool], jobs: Sequence[Any], seeds: Sequence[int], oversight: Oversight) -> bool:
    """Calls run_seed(job, seed, oversight of the thread) for every seed, job i for each len(jobs)-th from the i-th on; returns whether all returned True.

    The first error of a thread is raised here, once the others have saved and left."""
    oversight.holds(lambda: None)  # checkpoints of all threads have no one newest step
    failed, errors, unfinished = threading.Event(), [], []
    oversights = [SeedOversight(SharedStop(oversight.stop, failed)) for _ in jobs]

    def run(number: int) -> None:
        mine = oversights[number]
        try:
            with jax.set_mesh(jobs[number].mesh):
                for seed in seeds[number :: len(jobs)]:
                    mine.watch.begins(f"seed {seed}", slow=True)
                    if not run_seed(jobs[number], seed, mine):
                        unfinished.append(seed)
                        return
        except BaseException as error:
            errors.append(error)
            failed.set()
        finally:
            mine.watch.unsaved = False

    threads = [threading.Thread(target=run, args=(number,), name=f"seeds {number}", daemon=True) for number in range(len(jobs))]
    with contextlib.ExitStack() as stack:
        stack.callback(failed.set)  # whatever ends this thread ends the others too
        for thread in threads:
            thread.start()
        while alive := [one for one, thread in zip(oversights, threads) if thread.is_alive()]:
            oversight.watch.follows([one.watch for one in alive])
            time.sleep(TICK)
    oversight.watch.unsaved = False
    if errors:
        raise errors[0]
    return not unfinished
