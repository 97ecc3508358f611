"""Dropout whose masks are a function of a key and of where an element stands, cheap enough to be computed anew in the backward pass.

Bits come from a counter through the finalizer of MurmurHash3 (Appleby 2008), as in counter-based generators (Salmon et al. 2011): a few integer operations for each
element, that compilers fuse into what uses them, so that no mask is ever stored. The mask depends on nothing else: not on how arrays lie on
devices, nor on whether a kernel (`kernels.py`) or plain operations compute it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.sharding import rows_before

Bits = jax.Array  # uint32
STRIDE = np.uint32(0x9E3779B9)  # 2^32 / golden ratio, odd: steps of a counter that are far apart


def finalize(x: Bits) -> Bits:
    """MurmurHash3's 32-bit finalizer, a bijection in which each bit of the input turns about half of those of the output."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def words(key: jax.Array) -> tuple[Bits, Bits]:
    """Two words of a key of any of JAX's generators."""
    data = jax.random.key_data(key).astype(jnp.uint32)
    return data[0], data[-1]


def seeds(first: Bits, second: Bits, number: Bits) -> Bits:
    """A seed for each `number`; several numbers (row, head) go in one after another, each through its own call with the seeds so far as `first`."""
    return finalize(finalize(number * STRIDE + first) ^ second)


def keeps(seed: Bits, counter: Bits, threshold: int) -> jax.Array:
    """bool: whether the element with this counter stays; true in 65536 - threshold of 65536 cases."""
    return (finalize(counter * STRIDE + seed) >> 16) >= np.uint32(threshold)


def threshold_of(rate: float) -> int:
    return round(rate * 65536)


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float, seeded: int = 1, start: Bits | None = None) -> jax.Array:
    """bool of `shape`; seeded: as in `counted`. start: of the counter; None: 0."""
    seed, counter = counted(key, shape, seeded)
    return keeps(seed, counter if start is None else counter + start, threshold_of(rate))


def uniform(key: jax.Array, shape: tuple[int, ...], seeded: int = 1) -> jax.Array:
    """float32 of `shape` between 0 and 1, never either; seeded: as in `counted`."""
    seed, counter = counted(key, shape, seeded)
    return (finalize(counter * STRIDE + seed) >> 9).astype(jnp.float32) * np.float32(2**-23) + np.float32(2**-24)


def counted(key: jax.Array, shape: tuple[int, ...], seeded: int) -> tuple[Bits, Bits]:
    """(seed, counter), both of `shape`: each slice along the first `seeded` axes, of which the first is the batch's, has a seed of its own, and its elements are counted."""
    first, second = words(key)
    seed = first
    for axis in range(seeded):
        number = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        seed = seeds(seed, second, number if axis else number + jnp.uint32(rows_before(shape[0])))
    counter, size = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(seeded, len(shape))):
        counter += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(size)
        size *= shape[axis]
    return seed, counter


def dropout(x: jax.Array, rate: float, key: jax.Array | None, seeded: int = 1, start: Bits | None = None) -> jax.Array:
    """Zeroes elements with probability `rate` (in steps of 1/65536) and rescales; key=None means evaluation. seeded, start: as in `keep_mask`."""
    return x if key is None or rate == 0.0 else _dropout(x, key, start, rate, seeded)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _dropout(x: jax.Array, key: jax.Array, start: Bits | None, rate: float, seeded: int) -> jax.Array:
    scale = 1.0 / (1.0 - threshold_of(rate) / 65536)
    return jnp.where(keep_mask(key, x.shape, rate, seeded, start), x * jnp.asarray(scale, x.dtype), jnp.zeros_like(x))


def _forward(x, key, start, rate, seeded):
    return _dropout(x, key, start, rate, seeded), (key, start)


def _backward(rate, seeded, kept, gradient):
    key, start = kept
    return _dropout(gradient, key, start, rate, seeded), *(None if bits is None else np.zeros(bits.shape, jax.dtypes.float0) for bits in kept)


_dropout.defvjp(_forward, _backward)
