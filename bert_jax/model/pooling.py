"""One vector for a sequence: that of its first token, or the mean or the largest of all its tokens' (Reimers & Gurevych 2019, arXiv 1908.10084, section 3)."""

import jax
import jax.numpy as jnp

from bert_jax.model.attention import MASKED


def pool(hidden: jax.Array, segment_ids: jax.Array, kind: str) -> jax.Array:
    """hidden [b, l, d], segment_ids [b, l] (0 is padding) -> [b, d]. kind: "cls", the first token; "mean" and "max" over real tokens, special ones included,
    as sentence-transformers has them; in float32. A row of padding alone gives zeros for "mean"."""
    if kind == "cls":
        return hidden[:, 0]
    real, wide = (segment_ids > 0)[:, :, None], hidden.astype(jnp.float32)
    if kind == "max":
        return jnp.where(real, wide, MASKED).max(1).astype(hidden.dtype)
    return (jnp.where(real, wide, 0.0).sum(1) / jnp.maximum(real.sum(1), 1)).astype(hidden.dtype)
