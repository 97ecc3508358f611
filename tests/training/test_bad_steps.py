"""Bad numbers: the step is skipped and everything else stays as it was; several in a row lead back to the last checkpoint and past them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import device_fields
from bert_jax.sharding import put_batch
from bert_jax.training import bad_steps
from bert_jax.training.bad_steps import BadSteps, Limits, averaged, nothing_usual, remembering
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.metrics import divide
from bert_jax.training.state import TrainState, abstract_state, init_state, saved_trees, state_of
from bert_jax.training.step import make_train_step
from tests.training.conftest import make_batch


@pytest.fixture(scope="module")
def guarded(tiny):
    """The step with a limit on the loss that the tiny model's batches never reach: their losses are near ln(200) + ln(2)."""
    return make_train_step(
        tiny.blueprint, tiny.objective, tiny.tx, tiny.schedule, tiny.compute, tiny.abstract, tiny.mesh, limits=Limits(loss=20.0, in_a_row=2)
    )


def put(tiny, step, **changes):
    return put_batch(device_fields(make_batch(step) | changes), tiny.mesh)


def copied(state):
    return jax.tree.map(np.array, jax.device_get(state))


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_good_steps_have_the_bits_of_unguarded_ones(tiny, tiny_step, guarded):
    one, two = tiny.fresh(), tiny.fresh()
    for number in range(3):
        one, _ = tiny_step(one, put(tiny, number), jax.random.key(1))
        two, metrics = guarded(two, put(tiny, number), jax.random.key(1))
    assert_equal(copied(one), copied(two))
    assert divide([metrics])["skipped"] == 0.0


@pytest.mark.parametrize("bad", ["nan", "inf", "spike"])
def test_a_bad_batch_changes_nothing_but_the_step(tiny, guarded, bad):
    state, first = guarded(tiny.fresh(), put(tiny, 0), jax.random.key(1))
    if bad == "spike":
        batch = put(tiny, 1)
        harmed = jax.tree.map(lambda leaf: leaf * 1e3, state.params)  # logits of hundreds: a finite loss far above the limit
    else:
        batch = put(tiny, 1, mlm_weights=make_batch(1)["mlm_weights"] * np.float32(bad))
        harmed = state.params
    state = TrainState(state.step, harmed, state.opt_state)
    before = copied(state)
    state, metrics = guarded(state, batch, jax.random.key(1))
    after = copied(state)
    assert int(after.step) == int(before.step) + 1
    assert_equal((after.params, after.opt_state), (before.params, before.opt_state))
    assert float(metrics["skipped"][0]) == 1.0
    assert np.isfinite(float(metrics["skipped_loss"][0])) == (bad == "spike")
    values = divide([averaged(first), averaged(metrics)])
    assert values["skipped"] == 0.5 and values["loss"] == divide([first])["loss"]  # averages are those of the good steps


def test_a_gradient_above_the_limit_is_bad():
    limits = Limits(loss=3.0, grad_norm=10.0)
    said = {(loss, norm): bool(limits.good(jnp.float32(loss), jnp.float32(norm))) for loss in (1, 4, np.nan) for norm in (1, 11, np.inf)}
    assert [pair for pair, good in said.items() if good] == [(1, 1)]
    assert bool(Limits().good(jnp.float32(1e30), jnp.float32(1e30)))


def test_relative_limits_follow_what_is_usual():
    limits, usual = Limits(loss_times=2.0, grad_norm_times=5.0, in_a_row=3), nothing_usual()
    assert bool(limits.good(jnp.float32(1e6), jnp.float32(1e6), usual))  # nothing is known yet
    draw = np.random.default_rng(0)
    losses, norms = draw.uniform(2.0, 3.0, 300).astype(np.float32), draw.uniform(0.5, 1.5, 300).astype(np.float32)
    for loss, norm in zip(losses, norms):
        assert bool(limits.good(loss, norm, usual))
        usual = usual.after(loss, norm)
    np.testing.assert_allclose([usual.loss, usual.grad_norm], [2.5, 1.0], rtol=0.05)
    assert not bool(limits.good(jnp.float32(5.5), jnp.float32(1.0), usual)) and not bool(limits.good(jnp.float32(2.5), jnp.float32(5.5), usual))
    for wrong in ({"loss_times": 0.9, "in_a_row": 3}, {"grad_norm_times": 3.0}):
        with pytest.raises(ValueError, match=f"bad_steps.{next(iter(wrong))}"):
            Limits(**wrong)


def test_a_spike_is_not_usual_and_a_restored_state_judges_alike(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(bad_steps, "SETTLING", 2)
    limits = Limits(grad_norm_times=4.0, in_a_row=3)
    tx = remembering(tiny.tx, limits)
    abstract = abstract_state(tiny.blueprint, tx, tiny.mesh)
    step = make_train_step(tiny.blueprint, tiny.objective, tx, tiny.schedule, tiny.compute, abstract, tiny.mesh, limits=limits)
    state = init_state(tiny.blueprint, tx, abstract, jax.random.key(0))
    for number in range(3):
        state, metrics = step(state, put(tiny, number), jax.random.key(1))
        assert not float(metrics["skipped"][0])
    usual = copied(state.opt_state.usual)
    assert int(usual.steps) == 3 and 0 < float(usual.grad_norm)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, saved_trees(state))
    checkpoints.wait()
    restored = state_of(3, checkpoints.restore(3, saved_trees(abstract)), abstract)
    assert_equal(copied(restored), copied(state))
    without = state_of(3, {name: tree for name, tree in saved_trees(restored).items() if name != "usual"}, abstract)  # of a run without relative limits
    assert_equal(copied(tuple(without.opt_state)), (copied(state.opt_state.optimizer), nothing_usual()))
    assert set(checkpoints.abstract(3, saved_trees(tiny.abstract))) == {"params", "opt_state"}  # and the other way round
    checkpoints.restore(3, saved_trees(tiny.abstract))

    weights = make_batch(3)["mlm_weights"]
    spike = put(tiny, 3, mlm_weights=weights * np.float32(50), nsp_labels=1 - make_batch(3)["nsp_labels"])
    state = TrainState(state.step, jax.tree.map(lambda leaf: leaf * 30, state.params), state.opt_state)  # from which gradients are far longer
    before = copied(state)
    state, metrics = step(state, spike, jax.random.key(1))
    assert float(metrics["skipped"][0]) and float(metrics["skipped_grad_norm"][0]) > 4 * float(usual.grad_norm)
    after = copied(state)
    assert_equal((after.params, after.opt_state), (before.params, before.opt_state))


def test_bad_steps_are_counted_in_a_row_and_named():
    def metrics(bad):
        return {"skipped": (np.float32(bad), 1), "skipped_loss": (np.float32(7.5), 1), "skipped_grad_norm": (np.float32("inf"), 1)}

    counted = BadSteps(Limits(in_a_row=2))
    for step, bad in ((1, 0), (2, 1), (3, 0), (4, 1), (5, 1), (6, 1)):
        counted.sent(step, metrics(bad), {"example_ids": np.array([10 * step, 10 * step + 1])})
    assert [found.step for found in counted.seen(2)] == [2] and not counted.may_save
    found = list(counted.seen(6))
    assert [one.step for one in found] == [4, 5]  # the sixth was computed from what is thrown away
    assert counted.too_many and counted.first == 4
    assert found[0].all_example_ids() == [40, 41] and "loss 7.5, gradient norm inf" in str(found[0])
    counted.passed()
    assert counted.may_save and not list(counted.seen(9))
