"""Digests of arrays: any bit, and any place, shows. That they do not depend on the mesh is asserted by every restore of tests/training/test_sharding.py."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.sharding import make_mesh
from bert_jax.training.digests import compile_digests, digest_of_all, digests, start_digests

VALUES = np.random.default_rng(0).standard_normal((6, 4, 5)).astype(np.float32)


def digest(array):
    return digests({"leaf": jnp.asarray(array)})["leaf"]


def test_a_bit_a_swap_and_a_sign_of_zero_show():
    flipped = VALUES.copy()
    flipped.view(np.uint32)[3, 2, 1] ^= 1
    swapped = VALUES[[1, 0, 2, 3, 4, 5]]
    zeros = np.zeros((2, 3), np.float32)
    seen = [digest(array) for array in (VALUES, flipped, swapped, zeros, -zeros)]
    assert len(set(seen)) == len(seen) and digest(VALUES.copy()) == seen[0]
    assert digest_of_all({"a": VALUES, "b": swapped}) != digest_of_all({"a": swapped, "b": VALUES})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8, jnp.bool_])
def test_every_sort_of_number_has_one(dtype):
    array = jnp.arange(12).reshape(3, 4).astype(dtype)
    assert digest(array) == digest(array) != digest(array.at[2, 3].set(jnp.asarray(0, dtype)))
    assert len(digest(jnp.asarray(1, dtype))) == 16 and len(digest(jnp.zeros((0, 3), dtype))) == 16


def test_what_another_thread_compiled_is_not_compiled_again(caplog):
    mesh = make_mesh(devices=jax.devices()[:1])
    tree = {"a": jax.device_put(VALUES, NamedSharding(mesh, PartitionSpec()))}
    thread = threading.Thread(target=compile_digests, args=(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree),))
    thread.start()
    thread.join()
    with jax.log_compiles(), jax.set_mesh(mesh):
        start_digests(tree)
    assert "Compiling jit" not in caplog.text
