"""Positions without a learned table: sinusoidal embeddings, rotary positions, and ALiBi's slopes.

Within a document of a packed row positions differ by as much as indices do, so what depends on differences alone is taken from the index.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.model.spec import RopeSpec


def sinusoidal_table(rows: int, size: int) -> np.ndarray:
    """float32 [rows, size]: sines in the first half of the columns, cosines in the second (Vaswani et al. 2017, section 3.5)."""
    angles = np.arange(rows)[:, None] * 10_000.0 ** -(np.arange(size // 2) / (size // 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def rotate(x: jax.Array, rope: RopeSpec) -> jax.Array:
    """x [b, l, h, c], rotated by its place in the row; in float32, which angles of far places need."""
    length, size = x.shape[1], x.shape[-1]
    angles = np.arange(length)[:, None] * rope.base ** -(np.arange(0, size, 2) / size)
    cosine, sine = (jnp.asarray(part, jnp.float32)[None, :, None, :] for part in (np.cos(angles), np.sin(angles)))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)


@functools.cache
def alibi_slopes(num_heads: int) -> np.ndarray:
    """float32 [h], falling geometrically; for other numbers than powers of two, those of the next smaller one and every other one of the next
    larger one's (Press et al. 2022, section 3 and its code)."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = 2.0 ** (-8.0 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4.0 * np.arange(1, 2 * power + 1, 2) / power)
    return np.concatenate([slopes, between[: num_heads - power]]).astype(np.float32)


def alibi_bias(num_heads: int, length: int) -> np.ndarray:
    """float32 [h, q, k], to be added to the scores: minus slope times distance."""
    place = np.arange(length)
    return -alibi_slopes(num_heads)[:, None, None] * np.abs(place[:, None] - place[None, :]).astype(np.float32)
