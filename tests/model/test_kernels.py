"""The attention kernel computes what plain attention computes, dropout included; masks of dropout are random, and follow from place and key alone."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.model.attention import attend, segment_mask
from bert_jax.model.dropout import dropout, keep_mask
from bert_jax.model.kernels import attend_in_kernel, fits
from bert_jax.model.positions import alibi_bias
from bert_jax.model.spec import AttentionSpec
from bert_jax.sharding import make_mesh

BATCH, LENGTH, HEADS = 3, 128, 4
KINDS = {
    "plain": AttentionSpec(HEADS, 32, 0.0),
    "dropout": AttentionSpec(HEADS, 64, 0.25),
    "window": AttentionSpec(HEADS, 128, 0.0, window=16),
    "alibi": AttentionSpec(HEADS, 32, 0.1, alibi=True, window=64),
}


def inputs(kind):
    random = np.random.default_rng(0)
    arrays = [jnp.asarray(random.normal(size=(BATCH, LENGTH, HEADS, kind.head_dim)), jnp.float32) for _ in range(4)]
    segments = np.sort(random.integers(1, 4, (BATCH, LENGTH)), axis=1)
    segments[1, 100:] = 0
    return arrays, jnp.asarray(segments, jnp.int32)


def plain(query, key, value, segments, kind, dropout_key):
    mask = segment_mask(segments)
    place = np.arange(LENGTH)
    if kind.window:
        mask &= np.abs(place[:, None] - place) <= kind.window // 2
    return attend(query, key, value, mask, kind.dropout, dropout_key, alibi_bias(HEADS, LENGTH) if kind.alibi else None)


def value_and_gradients(run, arrays, segments, kind):
    weights, dropout_key = jnp.where(segments > 0, 1.0, 0.0)[:, :, None, None], jax.random.key(7)
    *arguments, target = arrays

    def loss(arguments):
        out = run(*arguments, segments, kind, dropout_key)
        return (weights * out * target).sum(), out * weights

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(arguments)
    return out, gradients


@pytest.mark.parametrize("name", KINDS)
def test_the_kernel_is_plain_attention(name):
    """Values and all gradients, with documents, padding, windows, biases, and the very same elements dropped."""
    kind = KINDS[name]
    assert fits(kind, LENGTH)
    arrays, segments = inputs(kind)
    expected, expected_gradients = value_and_gradients(plain, arrays, segments, kind)
    found, gradients = value_and_gradients(functools.partial(attend_in_kernel, interpret=True), arrays, segments, kind)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(gradients, expected_gradients):
        np.testing.assert_allclose(one, other, atol=2e-5)


def on_four_devices():
    """In a process of its own, with virtual devices: rows over data, heads over tensor; and rows alone, where each device works by itself."""
    kind = KINDS["dropout"]
    arrays, segments = inputs(kind)
    arrays, segments = [jnp.concatenate([array, array[:1]]) for array in arrays], jnp.concatenate([segments, segments[:1]])
    run = functools.partial(attend_in_kernel, interpret=True)
    expected, expected_gradients = value_and_gradients(run, arrays, segments, kind)
    mesh = make_mesh(data=2, tensor=2)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(array, NamedSharding(mesh, PartitionSpec("data", None, "tensor"))) for array in arrays]
        found, gradients = value_and_gradients(run, placed, segments, kind)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for one, other in zip(gradients, expected_gradients):
        np.testing.assert_allclose(one, other, atol=1e-5)

    mesh, rows = make_mesh(), PartitionSpec("data")
    with jax.set_mesh(mesh):
        alone = jax.shard_map(lambda segments, *arrays: value_and_gradients(run, arrays, segments, kind), in_specs=rows, out_specs=rows, check_vma=False)
        found, gradients = jax.jit(alone)(segments, *arrays)
    for one, other in zip([found, *gradients], [expected, *expected_gradients]):
        np.testing.assert_allclose(one, other, atol=1e-5)

    x, key = jnp.ones((8, 64)), jax.random.key(3)
    mask = jax.jit(dropout, static_argnums=1)
    placed = jax.device_put(x, NamedSharding(make_mesh(), PartitionSpec("data")))
    np.testing.assert_array_equal(mask(x, 0.5, key), mask(placed, 0.5, key))


def test_on_a_mesh_each_device_computes_its_rows_and_heads_with_the_same_masks():
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", "from tests.model import test_kernels; test_kernels.on_four_devices()"], env=environment, check=True, timeout=300)


def test_what_does_not_fit_is_known():
    kind = KINDS["plain"]
    assert not fits(kind, 100) and not fits(kind, 2048) and not fits(dataclasses.replace(kind, num_heads=3), 128)


def test_dropout_keeps_its_rate_and_scales():
    x = jnp.ones((64, 128, 96))
    for rate in (0.1, 0.25):
        dropped = np.asarray(dropout(x, rate, jax.random.key(0)))
        assert abs((dropped == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / dropped.size)
        np.testing.assert_allclose(dropped[dropped > 0], 1 / (1 - rate), rtol=1e-4)
        for axis in range(3):  # no row, column or feature is favoured
            others = tuple(other for other in range(3) if other != axis)
            shares = (dropped == 0).mean(axis=others)
            assert np.abs(shares - rate).max() < 5.5 * np.sqrt(rate * (1 - rate) / (dropped.size / dropped.shape[axis]))


def test_masks_of_neighbours_and_of_keys_have_nothing_in_common():
    shape, rate = (32, 64, 128), 0.5
    masks = [np.asarray(keep_mask(key, shape, rate)) for key in jax.random.split(jax.random.key(1), 3)]
    tolerance = 5 / np.sqrt(np.prod(shape))
    signs = [np.where(mask, 1.0, -1.0) for mask in masks]
    for one, other in ((signs[0], signs[1]), (signs[0], signs[2]), *((signs[0], np.roll(signs[0], 1, axis)) for axis in range(3))):
        assert abs((one * other).mean()) < tolerance


def test_the_gradient_is_dropped_where_the_value_is():
    x, key = jnp.linspace(1.0, 2.0, 1024).reshape(4, 256), jax.random.key(2)
    value, gradient = jax.value_and_grad(lambda x: dropout(x, 0.3, key).sum())(x)
    np.testing.assert_allclose(gradient, dropout(x, 0.3, key) / x, rtol=1e-6)
    assert float(value) > 0


def test_no_mask_is_kept_for_the_backward_pass():
    x = jnp.ones((8, 256))
    _, pullback = jax.vjp(lambda x: dropout(x, 0.3, jax.random.key(2)) * 3.0, x)
    assert sum(leaf.size for leaf in jax.tree.leaves(pullback) if hasattr(leaf, "size")) < x.size
