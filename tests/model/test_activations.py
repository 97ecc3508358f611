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
def test_half_precision_rounds_once_and_keeps_only_the_input(name):
    x = jnp.asarray(X, jnp.bfloat16)
    function = ACTIVATION_FUNCTIONS[name]
    exact = function(x.astype(jnp.float32))
    np.testing.assert_array_equal(function(x), exact.astype(jnp.bfloat16))
    kept = jax.tree.leaves(jax.vjp(function, x)[1])
    assert [(leaf.shape, leaf.dtype) for leaf in kept if leaf.size > 1] == [(x.shape, x.dtype)]
