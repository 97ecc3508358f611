"""A step made twice gives the same bits, and what does not is named."""

import itertools

import jax
import numpy as np
import pytest

from bert_jax.training.replay import NotDeterministic, check_replay
from bert_jax.training.state import TrainState
from tests.training.conftest import make_batch


@pytest.fixture
def check(tiny, tiny_step):
    state = tiny.fresh()
    before = jax.device_get(state)

    def run(*, step=tiny_step, batches=lambda: make_batch(0)):
        try:
            return check_replay(state, step, batches, tiny.mesh, jax.random.key(1))
        finally:
            jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))  # and not donated

    return run


def test_a_step_is_a_function_of_state_batch_and_key(check):
    verdict = check()
    assert "step 1 made twice" in verdict and "arrays of parameters, moments and metrics" in verdict


@pytest.mark.parametrize("harmed", ["params", "opt_state", "metrics"])
def test_one_flipped_bit_is_named(harmed, check, tiny_step):
    calls = itertools.count()

    def flip(tree):
        leaves, structure = jax.tree.flatten(tree)
        bits = bytearray(np.asarray(leaves[-1]).tobytes())
        bits[0] ^= next(calls)  # 0, then 1
        flipped = np.frombuffer(bits, leaves[-1].dtype).reshape(leaves[-1].shape)
        return structure.unflatten([*leaves[:-1], jax.device_put(flipped, leaves[-1].sharding)])

    def step(state, batch, key):
        state, metrics = tiny_step(state, batch, key)
        parts = {"params": state.params, "opt_state": state.opt_state, "metrics": metrics}
        parts[harmed] = flip(parts[harmed])
        return TrainState(state.step, parts["params"], parts["opt_state"]), parts["metrics"]

    with pytest.raises(NotDeterministic, match=rf"differs in 1 of \d+ arrays: {harmed}\."):
        check(step=step)


def test_a_batch_that_is_drawn_anew_is_named(check):
    numbers = itertools.count()
    with pytest.raises(NotDeterministic, match="its batch, built twice, differs in batch.input_ids"):
        check(batches=lambda: make_batch(next(numbers)))
