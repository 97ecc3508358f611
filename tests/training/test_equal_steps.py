"""How a step is worked through (micro-batches, rematerialisation, unrolled layers) changes neither its loss nor its gradients."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from bert_jax.batch import device_fields
from bert_jax.model.spec import Compute
from bert_jax.sharding import put_batch
from bert_jax.training.metrics import divide
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import abstract_state, init_state, make_blueprint, shardings_of
from bert_jax.training.step import make_train_step
from tests.training.conftest import make_batch


def set_dropout(spec, rate):
    encoder = dataclasses.replace(spec.encoder, dropout=rate, attention=dataclasses.replace(spec.encoder.attention, dropout=rate))
    return dataclasses.replace(spec, encoder=encoder)


def uneven_batch(silent=(0, 4)):
    """Eight rows with one to five predictions each, but none in the rows `silent`: of four micro-batches the first has none at all."""
    batch = make_batch(0)
    for field in ("mlm_positions", "mlm_targets", "mlm_weights"):
        batch[field][list(silent)] = 0
    return batch


@pytest.fixture(scope="module")
def step_of(tiny):
    """(dropout, batch, compute, accumulate) -> (metrics, gradients) of one step. The gradients are what the optimizer remembers of them."""
    tx = optax.trace(decay=0.0)
    abstract = abstract_state(tiny.blueprint, tx, tiny.mesh)
    fresh = jax.device_get(init_state(tiny.blueprint, tx, abstract, jax.random.key(0)))
    schedule = Schedule(peak=0.01, warmup_steps=0, name="constant")

    @functools.cache
    def compiled(dropout, compute, accumulate):
        blueprint = make_blueprint(set_dropout(tiny.blueprint.spec, dropout))
        return make_train_step(blueprint, tiny.objective, tx, schedule, compute, abstract, tiny.mesh, accumulate=accumulate)

    def run(dropout, batch, compute=Compute(), accumulate=1):
        state = jax.device_put(fresh, shardings_of(abstract))
        state, metrics = compiled(dropout, compute, accumulate)(state, put_batch(device_fields(batch), tiny.mesh), jax.random.key(1))
        return divide([metrics]), jax.device_get(state.opt_state.trace)

    return run


def assert_same(result, expected):
    (metrics, gradients), (expected_metrics, expected_gradients) = result, expected
    assert metrics == pytest.approx(expected_metrics, rel=1e-5, abs=1e-7)
    assert metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=1e-6)
    for mine, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def whole(step_of):
    return step_of(0.0, uneven_batch())


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_give_the_loss_and_gradients_of_the_whole_batch(step_of, whole, accumulate):
    """Also where micro-batches hold different numbers of predictions, and some of them none."""
    batch = uneven_batch()
    held = [batch["mlm_weights"][index::accumulate].sum() for index in range(accumulate)]
    assert len(set(held)) > 1 and (min(held) == 0) == (accumulate > 2)  # a mean of means would be off
    assert_same(step_of(0.0, batch, accumulate=accumulate), whole)


def test_a_batch_without_predictions_trains_the_pair_head_alone(step_of):
    metrics, gradients = step_of(0.0, uneven_batch(silent=range(8)), accumulate=4)
    assert metrics["mlm_loss"] == 0.0 and metrics["loss"] == metrics["nsp_loss"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients["mlm_head"])) and gradients["nsp_head"]["kernel"].any()


@pytest.fixture(scope="module")
def with_dropout(step_of):
    return step_of(0.3, uneven_batch())


@pytest.mark.parametrize("compute", [Compute(remat="full"), Compute(remat="dots", unroll=2)], ids=str)
def test_remat_and_unrolling_draw_the_same_dropout(step_of, with_dropout, compute):
    assert_same(step_of(0.3, uneven_batch(), compute), with_dropout)


def test_the_dropout_of_these_tests_matters(whole, with_dropout):
    assert abs(with_dropout[0]["loss"] - whole[0]["loss"]) > 1e-3
