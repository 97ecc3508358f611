"""The small parts: sums and statistics as they are computed, beside what they mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bert_jax.model.layers import Norm, Project, sum_by_product
from bert_jax.model.spec import NormSpec


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "count"), [((3, 5, 7), 2), ((6, 4), 1), ((2, 3, 2, 5), 2)])
def test_a_sum_by_product_is_the_sum(dtype, shape, count):
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)
    found = sum_by_product(x, count)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.asarray(x, np.float64).sum(tuple(range(count))), atol=1e-5)


def test_a_bias_has_the_gradient_of_its_tokens():
    """On TPUs by that product, elsewhere by a sum."""
    project = Project("bld,de->ble", {"embed": 4, "heads": 3, "head_dim": 2}, 1, std=0.1, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(project)
    x, weights = np.random.default_rng(1).normal(size=(2, 2, 5, 6)).astype(np.float32)
    gradient = jax.grad(lambda state: (nnx.merge(graphdef, state)(x[..., :4]) * weights).sum())(state)
    np.testing.assert_allclose(gradient["bias"][...], weights.sum((0, 1)).reshape(3, 2), rtol=1e-5)
    text = jax.jit(lambda state: jax.grad(lambda state: nnx.merge(graphdef, state)(x[..., :4]).sum())(state)).trace(state)
    products = [text.lower(lowering_platforms=(platform,)).as_text().count("dot_general") for platform in ("tpu", "cpu")]
    assert products[0] == products[1] + 1


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("mean", [0.0, 3.0, -30.0])
def test_a_norm_in_one_pass_is_that_of_float64(kind, mean):
    """Also where the mean is 30 deviations from 0, more than a residual stream has; and rows of one value stay finite."""
    x = np.random.default_rng(2).normal(mean, 1.0, (64, 256)).astype(np.float32)
    norm = Norm(256, NormSpec(kind=kind, eps=1e-12))
    wide = x.astype(np.float64) - (x.astype(np.float64).mean(-1, keepdims=True) if kind == "layer" else 0)
    np.testing.assert_allclose(norm(x), wide / np.sqrt(np.square(wide).mean(-1, keepdims=True)), atol=2e-6 * (1 + mean**2))
    assert np.abs(np.asarray(norm(np.full((3, 256), 0.3, np.float32)))).max() < 2
