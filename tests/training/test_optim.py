"""Optimizers against references written in numpy, loop by loop, and against torch and optax where they have the same one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from bert_jax.training.optim import OptimizerSpec, Schedule, make_optimizer

STEPS = 6
B1, B2, EPS, DECAY = 0.9, 0.98, 1e-6, 0.1
CONSTANT = Schedule(peak=0.01, warmup_steps=0, total_steps=10, power=1.0, end=0.01, decay_from="warmup")
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


def make_gradients(scale=1.0):
    draw = np.random.default_rng(1)
    return [jax.tree.map(lambda array: (scale * draw.normal(size=array.shape)).astype(np.float32), make_params()) for _ in range(STEPS)]


def run(name, gradients, *, clip=0.0, exclude=("bias", "norm"), schedule=CONSTANT):
    tx = make_optimizer(OptimizerSpec(name, B1, B2, EPS, DECAY, clip, exclude), schedule, AXES)
    params = jax.tree.map(jnp.asarray, make_params())
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


def reference(name, gradients, clip=0.0):
    """The published formulas, one tensor of one layer at a time, in float64."""
    params = make_params()
    tensors = {
        **{f"kernel{i}": (params["layers"]["kernel"][i], True, lambda g, i=i: g["layers"]["kernel"][i]) for i in range(3)},
        **{f"scale{i}": (params["layers"]["norm"]["scale"][i], False, lambda g, i=i: g["layers"]["norm"]["scale"][i]) for i in range(3)},
        "table": (params["table"], True, lambda g: g["table"]),
        "bias": (params["bias"], False, lambda g: g["bias"]),
    }
    result = {}
    for tensor, (start, adapted, pick) in tensors.items():
        weight, m, v = start.astype(np.float64), 0.0, 0.0
        for step, gradient in enumerate(gradients, 1):
            norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
            g = pick(gradient).astype(np.float64) * (min(1.0, clip / norm) if clip else 1.0)
            m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g * g
            if name in ("adamw", "lamb_nvidia"):
                update = (m / (1 - B1**step)) / (np.sqrt(v / (1 - B2**step)) + EPS)
            else:
                update = m / (np.sqrt(v) + EPS)
            if adapted:
                update = update + DECAY * weight
            ratio = 1.0
            if name.startswith("lamb") and adapted and np.linalg.norm(weight) > 0 and np.linalg.norm(update) > 0:
                ratio = np.linalg.norm(weight) / np.linalg.norm(update)
            weight = weight - 0.01 * ratio * update
        result[tensor] = weight
    return result


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("name", ["adamw", "adamw_bert", "lamb_v1", "lamb_nvidia"])
def test_equals_the_published_formula(name, clip):
    gradients = make_gradients()
    ours, expected = run(name, gradients, clip=clip), reference(name, gradients, clip)
    for layer in range(3):
        np.testing.assert_allclose(ours["layers"]["kernel"][layer], expected[f"kernel{layer}"], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(ours["layers"]["norm"]["scale"][layer], expected[f"scale{layer}"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours["table"], expected["table"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(ours["bias"], expected["bias"], rtol=2e-5, atol=1e-6)


def test_the_variants_differ():
    gradients = make_gradients()
    results = [run(name, gradients)["table"] for name in ("adamw", "adamw_bert", "lamb_v1", "lamb_nvidia")]
    for first in range(4):
        for second in range(first):
            assert np.abs(results[first] - results[second]).max() > 1e-3


def test_adamw_equals_torch():
    gradients = make_gradients()
    ours = run("adamw", gradients, exclude=())
    flat, tree = jax.tree.flatten(make_params())
    tensors = [torch.tensor(leaf, requires_grad=True) for leaf in flat]
    optimizer = torch.optim.AdamW(tensors, lr=0.01, betas=(B1, B2), eps=EPS, weight_decay=DECAY)
    for gradient in gradients:
        for tensor, leaf in zip(tensors, jax.tree.leaves(gradient)):
            tensor.grad = torch.tensor(leaf)
        optimizer.step()
    for mine, theirs in zip(jax.tree.leaves(ours), tensors):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=2e-5, atol=1e-6)


def test_lamb_nvidia_without_stacks_and_exclusions_equals_optax_lamb():
    gradients = [{"table": gradient["table"]} for gradient in make_gradients()]
    tx = optax.lamb(0.01, B1, B2, EPS, weight_decay=DECAY)
    ours = make_optimizer(OptimizerSpec("lamb_nvidia", B1, B2, EPS, DECAY, 0.0, ()), CONSTANT, {"table": ("vocab", "embed")})
    results = []
    for optimizer in (tx, ours):
        params = {"table": jnp.asarray(make_params()["table"])}
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        results.append(params["table"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "schedule, step, rate",
    [
        (Schedule(1.0, 10, 110, 1.0, 0.0, "warmup"), 0, 0.0),
        (Schedule(1.0, 10, 110, 1.0, 0.0, "warmup"), 5, 0.5),
        (Schedule(1.0, 10, 110, 1.0, 0.0, "warmup"), 10, 1.0),
        (Schedule(1.0, 10, 110, 1.0, 0.0, "warmup"), 60, 0.5),
        (Schedule(1.0, 10, 110, 1.0, 0.0, "warmup"), 500, 0.0),
        (Schedule(1.0, 10, 100, 1.0, 0.0, "start"), 10, 0.9),  # google-research/bert falls to what it would have been without a warmup
        (Schedule(1.0, 10, 100, 1.0, 0.0, "start"), 9, 0.9),
        (Schedule(1.0, 0, 100, 0.5, 0.0, "warmup"), 75, 0.5),
        (Schedule(1.0, 0, 100, 1.0, 0.2, "warmup"), 50, 0.6),
    ],
)
def test_schedule(schedule, step, rate):
    assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


def test_a_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup_steps is 100"):
        Schedule(1.0, 100, 100, 1.0, 0.0, "warmup")
