"""Norms by group add up to the global ones, trust ratios are those applied, and updates are measured as they are made."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from bert_jax.batch import device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.metrics import divide
from bert_jax.training.norms import GROUPS, group_of, layer_of, norm_metrics
from bert_jax.training.optim import make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import abstract_state, init_state
from bert_jax.training.step import make_train_step
from bert_jax.training.transformations import path_names
from tests.training.conftest import make_batch
from tests.training.small_trees import make_encoder, matrices, spec_of


def norm(leaves) -> float:
    return float(np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in leaves)))


@pytest.fixture(scope="module")
def measured(tiny):
    """One LAMB step at a constant rate: the parameters before and after, its metrics, and the gradients, which it shows as first moments."""
    tx = make_optimizer(spec_of("lamb_v1", clip_norm=0.0), tiny.blueprint.axes)
    abstract = abstract_state(tiny.blueprint, tx, tiny.mesh)
    schedule = Schedule(peak=0.01, warmup_steps=0, name="constant")
    step = make_train_step(tiny.blueprint, tiny.objective, tx, schedule, tiny.compute, abstract, tiny.mesh)
    state = init_state(tiny.blueprint, tx, abstract, jax.random.key(0))
    before = jax.device_get(state.params)
    state, metrics = step(state, put_batch(device_fields(make_batch(0)), tiny.mesh), jax.random.key(1))
    return before, jax.device_get(state), divide([metrics])


def test_groups_are_the_parts_of_the_model(tiny):
    groups = {}
    for path, _ in jax.tree.leaves_with_path(tiny.blueprint.params):
        groups.setdefault(group_of(path_names(path)), []).append(".".join(path_names(path)))
    assert set(groups) == set(GROUPS)
    assert groups["attention"] == [f"encoder.layers.attention.{name}.kernel" for name in ("key", "output", "query", "value")]
    assert groups["embeddings"] == [f"encoder.embed.{name}.embedding" for name in ("positions", "token_types", "tokens")]
    assert groups["heads"] == ["mlm_head.transform.kernel", "nsp_head.kernel", "pooler.kernel"]
    assert "mlm_head.bias" in groups["norms_and_biases"] and "encoder.embed.norm.scale" in groups["norms_and_biases"]


def test_blocks_of_a_period_and_blocks_held_apart_are_layers_of_their_own():
    assert layer_of(("encoder", "layers", "blocks", "1", "mlp", "up", "kernel")) == ("encoder", "layers", "blocks", "1")
    assert layer_of(("encoder", "first", "0", "attention_norm", "scale")) == ("encoder", "first", "0")
    assert layer_of(("encoder", "embed", "norm", "scale")) is None and layer_of(("mlm_head", "transform", "kernel")) is None


def test_norms_are_those_of_the_gradients_parameters_and_updates(tiny, measured):
    before, state, metrics = measured
    gradients = jax.tree.map(lambda moment: moment / 0.1, state.opt_state[0].mu)  # LAMB's first moment, from zero with b1 = 0.9
    updates = jax.tree.map(lambda new, old: new - old, state.params, before)
    members = {group: [path for path, _ in jax.tree.leaves_with_path(before) if group_of(path_names(path)) == group] for group in GROUPS}
    for group, paths in members.items():
        part = {name: [leaf for path, leaf in jax.tree.leaves_with_path(tree) if path in paths] for name, tree in (("g", gradients), ("p", before), ("u", updates))}
        assert metrics[f"grad_norm/{group}"] == pytest.approx(norm(part["g"]), rel=1e-4)
        assert metrics[f"param_norm/{group}"] == pytest.approx(norm(part["p"]), rel=1e-5)
        assert metrics[f"update_ratio/{group}"] == pytest.approx(norm(part["u"]) / norm(part["p"]), rel=1e-3)
    assert metrics["grad_norm"] == pytest.approx(np.sqrt(sum(metrics[f"grad_norm/{group}"] ** 2 for group in GROUPS)), rel=1e-5)
    by_layer = [norm(leaf[layer] for leaf in jax.tree.leaves(gradients["encoder"]["layers"])) for layer in range(2)]
    assert [metrics[f"grad_norm/layer_{kind}"] for kind in ("min", "median", "max")] == pytest.approx([min(by_layer), np.mean(by_layer), max(by_layer)], rel=1e-4)
    assert metrics["update_ratio/layer_min"] < metrics["update_ratio/layer_max"]


def test_trust_ratios_are_those_applied():
    """What LAMB did to each matrix, from its update without and with them; nothing for what it does not adapt."""
    from tests.training.small_trees import ENCODER_AXES as axes

    params, gradient = make_encoder(key=0), make_encoder(key=1)
    params["layers"]["up"]["kernel"][1] = 0.0  # a layer of zeros has ratio 1
    spec = spec_of("lamb_v1")
    lamb = make_optimizer(spec, axes)
    plain = make_optimizer(dataclasses.replace(spec, name="adamw_bert"), axes)
    report: dict = {}
    with_ratios, _ = lamb.update(gradient, lamb.init(params), params, report=report)
    without, _ = plain.update(gradient, plain.init(params), params)
    applied = {name: norm([matrix]) / norm([matrices(without)[name]]) for name, matrix in matrices(with_ratios).items()}
    assert applied["up1"] == 1.0 and len(applied) == 8
    np.testing.assert_allclose(np.sort(report["trust_ratios"]), np.sort(list(applied.values())), rtol=1e-5)


def test_the_step_shows_the_spread_of_trust_ratios(measured):
    before, state, metrics = measured
    assert 0 < metrics["trust_ratio/min"] < metrics["trust_ratio/median"] < metrics["trust_ratio/max"]
    change = state.params["pooler"]["kernel"] - before["pooler"]["kernel"]  # |update| = rate x |parameters|, whatever the ratio
    assert norm([change]) / norm([before["pooler"]["kernel"]]) == pytest.approx(0.01, rel=1e-3)


def test_other_optimizers_have_no_trust_ratios_and_norms_of_zeros_are_finite(tiny):
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), tiny.blueprint.params)
    metrics = divide([norm_metrics(zeros, zeros, zeros, tiny.blueprint.axes, None)])
    assert set(metrics.values()) == {0.0} and not any(name.startswith("trust_ratio") for name in metrics)
    assert optax.global_norm(zeros) == metrics["grad_norm"]
