"""Optimizers against references in numpy, loop by loop, against recorded steps, and against torch and optax where they have the same."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import torch

from bert_jax.model.depth import heights
from bert_jax.model.families import build_spec
from bert_jax.training.named_fields import OPTIMIZERS
from bert_jax.training.optim import OptimizerSpec
from bert_jax.training.state import make_blueprint
from bert_jax.training.transformations import scale_by_depth
from launch.config import load
from tests.training.small_trees import (
    B1,
    B2,
    CONSTANT,
    DECAY,
    ENCODER_AXES,
    EPS,
    RATE,
    encoder_heights,
    make_encoder,
    run,
    spec_of,
    with_rate,
)

STEPS = 6
ELEMENTWISE = ("adamw", "adamw_bert", "lamb_v1", "lamb_nvidia", "stable_adamw")
# A stack of three layers, a single matrix, a norm and a bias; one layer starts at zero, where the trust ratio must be 1.
AXES = {
    "layers": {"kernel": ("layers", "embed", "mlp"), "norm": {"scale": ("layers", "hidden")}},
    "table": ("vocab", "embed"),
    "bias": ("vocab",),
}


def make_params():
    draw = np.random.default_rng(0)
    params = {
        "layers": {"kernel": draw.normal(size=(3, 4, 5)), "norm": {"scale": draw.normal(size=(3, 4)) + 1}},
        "table": draw.normal(size=(7, 4)),
        "bias": draw.normal(size=(7,)),
    }
    params["layers"]["kernel"][1] = 0.0
    return jax.tree.map(lambda array: array.astype(np.float32), params)


def make_gradients():
    """One layer of the stack jumps at the fifth step, where stable_adamw must clip its update."""
    draw = np.random.default_rng(1)
    gradients = [jax.tree.map(lambda array: draw.normal(size=array.shape).astype(np.float32), make_params()) for _ in range(STEPS)]
    gradients[4]["layers"]["kernel"][2] *= 20.0
    return gradients


def reference(name, gradients, clip=0.0):
    """The published formulas, one tensor of one layer at a time, in float64."""
    params = make_params()
    tensors = {
        **{f"kernel{i}": (params["layers"]["kernel"][i], True, lambda g, i=i: g["layers"]["kernel"][i]) for i in range(3)},
        **{f"scale{i}": (params["layers"]["norm"]["scale"][i], False, lambda g, i=i: g["layers"]["norm"]["scale"][i]) for i in range(3)},
        "table": (params["table"], True, lambda g: g["table"]),
        "bias": (params["bias"], False, lambda g: g["bias"]),
    }
    result, clipped = {}, set()
    for tensor, (start, adapted, pick) in tensors.items():
        weight, m, v = start.astype(np.float64), 0.0, 0.0
        for step, gradient in enumerate(gradients, 1):
            norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
            g = pick(gradient).astype(np.float64) * (min(1.0, clip / norm) if clip else 1.0)
            m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g * g
            if name in ("adamw", "lamb_nvidia", "stable_adamw"):
                update = (m / (1 - B1**step)) / (np.sqrt(v / (1 - B2**step)) + EPS)
            else:
                update = m / (np.sqrt(v) + EPS)
            if adapted:
                update = update + DECAY * weight
            ratio = 1.0
            if name.startswith("lamb") and adapted and np.linalg.norm(weight) > 0 and np.linalg.norm(update) > 0:
                ratio = np.linalg.norm(weight) / np.linalg.norm(update)
            if name == "stable_adamw":  # optimi: the rate of update and decay is divided by max(1, RMS)
                rms = np.sqrt(np.mean(g * g / np.maximum(v / (1 - B2**step), EPS**2)))
                ratio = 1.0 / max(1.0, rms)
                clipped |= {(tensor, step)} if rms > 1.8 else set()
            weight = weight - RATE * ratio * update
        result[tensor] = weight
    assert name != "stable_adamw" or clipped == {("kernel2", 5)}  # one layer of a stack alone, so the data tells layers apart
    return result


@pytest.mark.parametrize("name, clip", [*((name, 0.0) for name in ELEMENTWISE), ("adamw_bert", 1.0), ("lamb_nvidia", 1.0)])
def test_equals_the_published_formula(name, clip):
    gradients = make_gradients()
    ours, expected = run(spec_of(name, clip_norm=clip), gradients, make_params(), AXES), reference(name, gradients, clip)
    for layer in range(3):
        np.testing.assert_allclose(ours["layers"]["kernel"][layer], expected[f"kernel{layer}"], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(ours["layers"]["norm"]["scale"][layer], expected[f"scale{layer}"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours["table"], expected["table"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours["bias"], expected["bias"], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lamb_v1", "lamb_nvidia"])
def test_lamb_equals_the_recorded_steps(name):
    """lamb_fixtures.json: made in float64 by lamb_fixtures.py, which shares nothing with this file."""
    record = json.loads(Path(__file__).with_name("lamb_fixtures.json").read_text())
    axes = {"layers.kernel": ("layers", "embed", "mlp"), "layers.bias": ("layers", "mlp"), "table": ("vocab", "embed")}
    spec = OptimizerSpec(
        name, record["b1"], record["b2"], record["eps"], record["weight_decay"], record["clip_norm"][name], tuple(record["exclude"])
    )
    weights, *gradients = ({key: np.float32(value) for key, value in tree.items()} for tree in (record["weights"], *record["gradients"]))
    other = record["after"]["lamb_v1" if name == "lamb_nvidia" else "lamb_nvidia"]
    for step in (1, len(gradients)):
        ours = run(spec, gradients[:step], weights, axes, schedule=dataclasses.replace(CONSTANT, peak=record["rate"]))
        for key, value in ours.items():
            np.testing.assert_allclose(value, record["after"][name][step - 1][key], rtol=2e-5, atol=1e-6)
        assert np.abs(ours["layers.bias"] - np.array(other[step - 1]["layers.bias"])).max() > 1e-3


def test_the_variants_differ():
    gradients = make_gradients()
    results = [run(spec_of(name), gradients, make_params(), AXES)["layers"]["kernel"] for name in ELEMENTWISE]
    for first in range(len(results)):
        for second in range(first):
            assert np.abs(results[first] - results[second]).max() > 1e-3


def test_adamw_equals_torch():
    gradients = make_gradients()
    ours = run(spec_of("adamw", exclude=()), gradients, make_params(), AXES)
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in jax.tree.leaves(make_params())]
    optimizer = torch.optim.AdamW(tensors, lr=RATE, betas=(B1, B2), eps=EPS, weight_decay=DECAY)
    for gradient in gradients:
        for tensor, leaf in zip(tensors, jax.tree.leaves(gradient)):
            tensor.grad = torch.tensor(leaf)
        optimizer.step()
    for mine, theirs in zip(jax.tree.leaves(ours), tensors):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=2e-5, atol=1e-6)


def test_lamb_nvidia_without_stacks_and_exclusions_equals_optax_lamb():
    gradients, params = [{"table": gradient["table"]} for gradient in make_gradients()], {"table": make_params()["table"]}
    ours = run(spec_of("lamb_nvidia", exclude=()), gradients, params, {"table": ("vocab", "embed")})
    tx = optax.lamb(RATE, B1, B2, EPS, weight_decay=DECAY)
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(ours["table"], params["table"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["lamb_v1", "muon"])
def test_layer_decay_slows_what_is_far_from_the_heads(name):
    params, gradients = make_encoder(layers=3), [make_encoder(layers=3, key=1)]
    full, slowed = (run(spec_of(name, layer_decay=decay), gradients, params, ENCODER_AXES, heights=encoder_heights(3)) for decay in (1.0, 0.5))
    moved = jax.tree.map(np.subtract, full, params), jax.tree.map(np.subtract, slowed, params)

    def check(fast, slow, factor):
        np.testing.assert_allclose(slow, factor * fast, rtol=1e-4, atol=1e-7)

    jax.tree.map(lambda fast, slow: check(fast, slow, 0.5**4), *(tree["embed"] for tree in moved))
    jax.tree.map(lambda fast, slow: check(fast, slow, 1.0), *(tree["head"] for tree in moved))
    for layer, factor in enumerate((0.5**3, 0.5**2, 0.5)):
        jax.tree.map(lambda fast, slow: check(fast[layer], slow[layer], factor), *(tree["layers"] for tree in moved))


@pytest.mark.parametrize("config", ["bert_tiny", "modernbert_base", "deberta_v2_xlarge", "electra_small"])
def test_layers_held_apart_and_in_periods_have_their_places(config):
    """Of a model's own tree: its layers, however they are stacked, go down by one power each, the embeddings by one more."""
    blueprint = make_blueprint(build_spec(load(config, ["config.model.vocab_size=1000"])["model"]))
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape[:1], np.float32), blueprint.params)
    tx = scale_by_depth(0.5, heights(blueprint.params, blueprint.spec))
    whole = tx.update(ones, tx.init(ones), ones)[0]
    scaled = whole["encoder"]
    layers = scaled["layers"].get("blocks", {"0": scaled["layers"]})
    found = [scaled["first"][name]["mlp"]["up"]["kernel"][0] for name in sorted(scaled.get("first", {}))]
    found += np.stack([layers[name]["mlp"]["up"]["kernel"] for name in sorted(layers)], axis=1).ravel().tolist()
    count = blueprint.spec.encoder.num_layers
    assert found == [0.5 ** (count - layer) for layer in range(count)]
    assert scaled["embed"]["tokens"]["embedding"][0] == 0.5 ** (count + 1)
    assert {leaf[0] for part in whole if part.endswith("head") for leaf in jax.tree.leaves(whole[part])} == {1.0}
    if "generator" in whole:  # by its own depth
        np.testing.assert_array_equal(whole["generator"]["encoder"]["layers"]["mlp"]["up"]["kernel"], [0.5 ** (12 - layer) for layer in range(12)])


def test_layer_decay_without_layers_is_refused():
    with pytest.raises(ValueError, match="layer_decay is 0.9, but which layers the parameters are of was not given"):
        with_rate(spec_of("adamw", layer_decay=0.9), {"embed": {"tokens": ("vocab", "embed")}})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_program_does_not_grow_with_the_layers(name):
    """Layers are worked through in one go: no loop, and as many operations for eight layers as for two."""

    def program(layers):
        params = make_encoder(layers=layers)
        tx = with_rate(spec_of(name, layer_decay=0.9, clip_norm=1.0), ENCODER_AXES, heights=encoder_heights(layers))
        return jax.jit(tx.update).lower(params, tx.init(params), params)

    two, eight = program(2), program(8)
    assert len(two.as_text().splitlines()) == len(eight.as_text().splitlines())
    assert "stablehlo.while" not in eight.as_text()
    if name.startswith("lamb"):
        assert " while(" not in eight.compile().as_text()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(name="sgd"), "optimizer.name is 'sgd'; known: adamw"),
        (dict(b1=1.0), "optimizer.b1 is 1.0; it must be in"),
        (dict(eps=0.0), "optimizer.eps is 0.0; it must be above 0"),
        (dict(weight_decay=-0.1), "optimizer.weight_decay is -0.1"),
        (dict(layer_decay=1.5), "optimizer.layer_decay is 1.5"),
        (dict(momentum=0.9), "optimizer.momentum is 0.9, which optimizer.name=adamw does not use"),
        (dict(b2=None), "optimizer.b2 is missing; optimizer.name=adamw takes b1, b2, eps"),
    ],
)
def test_an_optimizer_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(spec_of("adamw"), **change)
