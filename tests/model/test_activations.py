"""Activations against torch's, with their gradients; and what of them is kept for the backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bert_jax.model.activations import ACTIVATION_FUNCTIONS

X = np.concatenate([np.linspace(-20, 20, 4001), [-1e4, -1e-6, 0, 1e-6, 1e4]]).astype(np.float32)
THEIRS = {
    "gelu": torch.nn.functional.gelu, "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"), "relu": torch.relu, "silu": torch.nn.functional.silu, "tanh": torch.tanh,
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATION_FUNCTIONS)
def test_values_and_gradients_are_torchs(name):
    theirs_in = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    theirs = THEIRS[name](theirs_in)
    theirs.sum().backward()
    ours, backward = jax.vjp(ACTIVATION_FUNCTIONS[name], jnp.asarray(X))
    np.testing.assert_allclose(ours, theirs.detach(), rtol=3e-7, atol=5e-6)
    np.testing.assert_allclose(backward(jnp.ones_like(ours))[0], theirs_in.grad, rtol=3e-7, atol=5e-6)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_half_precision_is_rounded_once_of_nearly_all_numbers(name):
    """Of every bfloat16 number; where not, the result is of the exact one's neighbourhood, as is the gradient."""
    x = jnp.arange(65536, dtype=jnp.uint16).view(jnp.bfloat16)
    x = x[jnp.isfinite(x)]
    theirs_in = torch.tensor(np.asarray(x, np.float64), requires_grad=True)
    exact = THEIRS[name](theirs_in)
    exact.sum().backward()
    function = ACTIVATION_FUNCTIONS[name]
    ours, backward = jax.vjp(function, x)
    assert ours.dtype == jnp.bfloat16
    exact = exact.detach().numpy()
    assert (np.asarray(ours) == exact.astype(ours.dtype)).mean() > 0.98
    np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=2**-8, atol=4e-5)
    np.testing.assert_allclose(np.asarray(backward(jnp.ones_like(x))[0], np.float64), theirs_in.grad.numpy(), rtol=2**-8, atol=1.2e-4)


def test_half_precision_rounds_the_tanh_form_once():
    x = jnp.asarray(X, jnp.bfloat16)
    function = ACTIVATION_FUNCTIONS["gelu_tanh"]
    np.testing.assert_array_equal(function(x), function(x.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh"])
def test_only_the_input_is_kept(name):
    x = jnp.asarray(X, jnp.bfloat16)
    kept = jax.tree.leaves(jax.vjp(ACTIVATION_FUNCTIONS[name], x)[1])
    assert [(leaf.shape, leaf.dtype) for leaf in kept if leaf.size > 1] == [(x.shape, x.dtype)]
