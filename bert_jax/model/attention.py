"""Bidirectional self-attention within segments (Vaswani et al. 2017, section 3.2; BERT keeps biases on all four projections)."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.layers import Project, dropout
from bert_jax.model.spec import EncoderSpec

MASKED = -1e30  # finite, so that a row with nothing to attend to (padding) gives a uniform average and not NaN


def segment_mask(segment_ids: jax.Array) -> jax.Array:
    """[b, l] segment ids (0 is padding) -> bool [b, 1, q, k]: may q attend to k."""
    queries, keys = segment_ids[:, None, :, None], segment_ids[:, None, None, :]
    return (queries == keys) & (keys > 0)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, rate: float, dropout_key: jax.Array | None) -> jax.Array:
    """query, key, value [b, l, h, c], mask [b, 1, q, k] -> [b, l, h, c]. Scores and softmax in float32."""
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
    probabilities = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(value.dtype)
    probabilities = dropout(probabilities, rate, dropout_key)
    return jnp.einsum("bhqk,bkhc->bqhc", probabilities, value)


class SelfAttention(nnx.Module):
    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        heads, size = spec.attention.num_heads, spec.attention.head_dim
        inward = {"embed": spec.hidden_size, "heads": heads, "head_dim": size}
        outward = {"heads": heads, "head_dim": size, "embed": spec.hidden_size}
        std = spec.initializer_range
        self.rate = spec.attention.dropout
        self.query = Project("bld,dhc->blhc", inward, 1, std=std, rngs=rngs)
        self.key = Project("bld,dhc->blhc", inward, 1, std=std, rngs=rngs)
        self.value = Project("bld,dhc->blhc", inward, 1, std=std, rngs=rngs)
        self.output = Project("blhc,hcd->bld", outward, 2, std=std, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """x [b, l, d], mask [b, 1, q, k] -> [b, l, d]."""
        return self.output(attend(self.query(x), self.key(x), self.value(x), mask, self.rate, dropout_key))
