"""A digest of every array, the same however it is cut over devices and processes. Trees of arrays enter, 64 bits for each leaf leave.

Each element's bits are hashed together with its place in the whole array, and two hashes of each are added up modulo 2^32. Sums do not depend on their order, so every device adds up what it holds. This finds damage; it is no protection against forgery.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def leaf_names(trees: Any) -> list[str]:
    """Names of the leaves, such as params.encoder.embed.tokens, in the tree's order."""
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree_util.tree_leaves_with_path(trees)]


def start_digests(trees: Any) -> jax.Array:
    """uint32 [leaves, 2], on the devices, perhaps not computed yet. Collective; the arrays may be donated afterwards."""
    leaves = jax.tree.leaves(trees)
    return _compiled(_mesh_of(leaves))(leaves)


def compile_digests(trees: Any) -> None:
    """So that the first of `start_digests` need not: it takes a second or more. trees: of ShapeDtypeStructs with shardings. For any thread."""
    leaves = jax.tree.leaves(trees)
    mesh = _mesh_of(leaves)
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():  # of the thread; JAX compiles again under another
        _compiled(mesh).lower(leaves).compile()


def finish_digests(names: Iterable[str], sums: jax.Array) -> dict[str, str]:
    """Name of a leaf -> 16 hexadecimal digits. Waits for the devices; not collective."""
    return {name: f"{first:08x}{second:08x}" for name, (first, second) in zip(names, jax.device_get(sums).tolist(), strict=True)}


def digests(trees: Any) -> dict[str, str]:
    """Name of a leaf -> 16 hexadecimal digits. Collective."""
    return finish_digests(leaf_names(trees), start_digests(trees))


def digest_of_all(trees: Any) -> str:
    """One for all leaves and their names, 64 hexadecimal digits. Collective."""
    return hashlib.sha256(repr(sorted(digests(trees).items())).encode()).hexdigest()


def _mesh_of(leaves: list) -> Mesh | None:
    meshes = {leaf.sharding.mesh for leaf in leaves if isinstance(getattr(leaf, "sharding", None), NamedSharding)}
    return meshes.pop() if len(meshes) == 1 else None


@functools.cache
def _compiled(mesh):
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda leaves: jnp.stack([_sums(leaf) for leaf in leaves]), out_shardings=everywhere)


def _sums(leaf: jax.Array) -> jax.Array:
    """uint32 [2] of one array of any shape and dtype of at most 32 bits."""
    place, step = jnp.zeros(leaf.shape, jnp.uint32), 1
    for axis in reversed(range(leaf.ndim)):  # no reshape, which would gather an array that is cut
        place += jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * jnp.uint32(step % 2**32)
        step *= leaf.shape[axis]
    bits = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    word = (bits.astype(jnp.uint32) ^ (place * jnp.uint32(0x9E3779B9))) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 15)) * jnp.uint32(0xC2B2AE35)
    word ^= word >> 13
    both = word, (word ^ (word >> 16)) * jnp.uint32(0x27D4EB2F)
    zeros = jnp.uint32(0), jnp.uint32(0)
    add = lambda first, second: tuple(map(jnp.add, first, second))  # noqa: E731
    return jnp.stack(jax.lax.reduce(both, zeros, add, range(leaf.ndim)))  # one reduction of both: on CPUs a tenth of the time of two
