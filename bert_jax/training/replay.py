"""A step, twice: whether the same state, batch and key give the same bits, and a step's number the same batch. A state enters and stays; a verdict leaves."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import device_fields
from bert_jax.processes import any_process
from bert_jax.sharding import put_batch
from bert_jax.training.digests import digests
from bert_jax.training.state import TrainState, saved_trees

SHOWN = 8  # names in an error


class NotDeterministic(RuntimeError):
    """A step that was made twice did not come to the same."""


def check_replay(state: TrainState, train_step: Callable, batches: Callable[[], dict[str, np.ndarray]], mesh: Mesh, key: jax.Array) -> str:
    """Makes the next step of `state` twice, on copies. Returns what was compared, in words. Collective.

    batches: builds the step's batch anew at each call. The devices hold a second state meanwhile. NotDeterministic names the arrays that differ.
    """
    first, second = batches(), batches()
    different = [f"batch.{name}" for name in sorted(first.keys() | second.keys()) if not same_bits(first.get(name), second.get(name))]
    if any_process(bool(different)):
        raise NotDeterministic(f"step {int(state.step) + 1}: its batch, built twice, differs in {few(different)}. The source of the batches draws from more than the step")
    once, again = (results(state, train_step, first, mesh, key) for _ in range(2))
    different = [name for name, digest in once.items() if again[name] != digest]
    if different:
        raise NotDeterministic(
            f"step {int(state.step) + 1}, made twice from the same state, batch and key, differs in {len(different)} of {len(once)} arrays: {few(different)}. "
            "The devices add up in an order that changes; on GPUs XLA_FLAGS=--xla_gpu_deterministic_ops=true helps"
        )
    return f"step {int(state.step) + 1} made twice: the same bits in its batch and in {len(once)} arrays of parameters, moments and metrics"


def results(state: TrainState, train_step: Callable, batch: dict[str, np.ndarray], mesh: Mesh, key: jax.Array) -> dict[str, str]:
    """Name -> digest of all that the step gives."""
    after, metrics = train_step(jax.tree.map(jnp.copy, state), put_batch(device_fields(batch), mesh), key)
    return digests(saved_trees(after)) | digests({"metrics": metrics})


def same_bits(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    return first is not None and second is not None and (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())


def few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") if names else "another process"
