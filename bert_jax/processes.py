"""What the processes of a run tell each other. With one process each of these does the obvious and nothing else.

All are collective, unless they say otherwise: every process calls them, in the same order, or the others wait. Values pass over the devices, so these are for
starts, ends, saves and log lines, not for every step.
"""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

ROOM = 1024  # bytes; messages are padded to multiples of it, since every length compiles a program


def is_first() -> bool:
    """Whether this process is the one that writes and speaks. Not collective."""
    return jax.process_index() == 0


def from_first(function: Callable[[], Any]) -> Any:
    """Calls `function` in the first process only and returns its result (JSON) in all. Its error is raised there, and a RuntimeError of the same words elsewhere."""
    if jax.process_count() == 1:
        return function()
    outcome, failure = {}, None
    if is_first():
        try:
            outcome = {"value": function()}
        except Exception as error:  # raised again below, once the others know
            outcome, failure = {"error": str(error)}, error
    outcome = _broadcast(outcome)
    if failure is not None:
        raise failure
    if "error" in outcome:
        raise RuntimeError(outcome["error"])
    return outcome["value"]


def _broadcast(value: Any) -> Any:
    message = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_first() else np.zeros(0, np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    padded = np.zeros(-(-size // ROOM) * ROOM, np.uint8)
    padded[: len(message)] = message
    return json.loads(multihost_utils.broadcast_one_to_all(padded)[:size].tobytes())


def gather(counts: np.ndarray) -> np.ndarray:
    """int64 [...] of each process -> int64 [processes, ...]."""
    counts = np.asarray(counts, np.int64)
    words = np.ascontiguousarray(counts).reshape(-1).view(np.uint32)  # devices have no 64-bit integers unless asked
    return np.asarray(multihost_utils.process_allgather(words)).view(np.int64).reshape(-1, *counts.shape)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true in at least one process."""
    return bool(gather(np.array([flag])).any())


def tell(name: str, text: str) -> None:
    """For any thread, without the others: keeps a text that they can read, of the first that tells one under this name."""
    with contextlib.suppress(Exception):  # the service may be gone: whoever tells is on the way out
        _service().key_value_set(name, text)


def told(name: str) -> str | None:
    """What some process told under this name, or None. For any thread, without the others."""
    try:
        return _service().key_value_try_get(name)
    except Exception:  # nothing is there, or no service; what that means others find out
        return None


def _service():
    from jax._src.distributed import global_state  # JAX has no public name for its key-value store

    return global_state.client


def whole(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Arrays over all processes -> this process's own copy of each, whole, on its first device. `sharding`: a replicated one over their mesh."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), jax.jit(lambda arrays: arrays, out_shardings=sharding)(tree))
