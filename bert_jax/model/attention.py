"""Bidirectional self-attention within segments (Vaswani et al. 2017, section 3.2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from bert_jax.model import kernels
from bert_jax.model.dropout import dropout
from bert_jax.model.layers import Project
from bert_jax.model.positions import alibi_bias, alibi_slopes, rotate
from bert_jax.model.spec import AttentionSpec, Compute, EncoderSpec

MASKED = kernels.MASKED
ATTENDED = "attended"  # the result of attention, for rematerialisation


class Context(NamedTuple):
    """What the attention of every layer knows of the batch besides the layer's input. segment_ids: int32 [b, l]."""

    segment_ids: jax.Array


def segment_mask(segment_ids: jax.Array) -> jax.Array:
    """[b, l] segment ids (0 is padding) -> bool [b, 1, q, k]: may q attend to k."""
    queries, keys = segment_ids[:, None, :, None], segment_ids[:, None, None, :]
    return (queries == keys) & (keys > 0)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, rate: float, dropout_key: jax.Array | None, bias: jax.Array | None = None
) -> jax.Array:
    """query, key, value [..., l, h, c], mask [..., 1, q, k], bias [h, q, k] -> [..., l, h, c]. Scores and softmax in float32."""
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum("...qhc,...khc->...hqk", query, key, preferred_element_type=jnp.float32)
    scores = scores if bias is None else scores + bias
    probabilities = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(value.dtype)
    probabilities = dropout(probabilities, rate, dropout_key, seeded=2)
    return jnp.einsum("...hqk,...khc->...qhc", probabilities, value)


def attend_in_window(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, kind: AttentionSpec, dropout_key: jax.Array | None
) -> jax.Array:
    """As `attend`, each query seeing keys at most kind.window / 2 away: in blocks of that size, each with its neighbours, so that memory is
    linear in the length (Beltagy et al. 2020, section 3.1). query, key, value [b, l, h, c], segment_ids [b, l] -> [b, l, h, c]."""
    reach = kind.window // 2
    rows, length = segment_ids.shape
    blocks = -(-length // reach)

    def cut(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, [(0, 0), (0, blocks * reach - length)] + [(0, 0)] * (x.ndim - 2))
        return padded.reshape(rows, blocks, reach, *x.shape[2:])

    def with_neighbours(x: jax.Array) -> jax.Array:
        x = jnp.pad(cut(x), [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 1))
        return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)

    segments, near_segments = cut(segment_ids)[:, :, None, :, None], with_neighbours(segment_ids)[:, :, None, None, :]
    distance = jnp.arange(3 * reach)[None, :] - reach - jnp.arange(reach)[:, None]
    mask = (segments == near_segments) & (near_segments > 0) & (jnp.abs(distance) <= reach)
    bias = -alibi_slopes(kind.num_heads)[:, None, None] * jnp.abs(distance) if kind.alibi else None
    attended = attend(cut(query), with_neighbours(key), with_neighbours(value), mask, kind.dropout, dropout_key, bias)
    return attended.reshape(rows, blocks * reach, *query.shape[2:])[:, :length]


class SelfAttention(nnx.Module):
    """Projections are computed with heads and features in one axis, as TPUs lay them out best; the kernels keep them apart."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        heads, size, bias = spec.attention.num_heads, spec.attention.head_dim, spec.attention.bias
        inward = {"embed": spec.hidden_size, "heads": heads, "head_dim": size}
        outward = {"heads": heads, "head_dim": size, "embed": spec.hidden_size}
        std = spec.initializer_range
        self.query = Project("bld,de->ble", inward, 1, std=std, bias=bias, rngs=rngs)
        self.key = Project("bld,de->ble", inward, 1, std=std, bias=bias, rngs=rngs)
        self.value = Project("bld,de->ble", inward, 1, std=std, bias=bias, rngs=rngs)
        self.output = Project("ble,ed->bld", outward, 2, std=std, bias=bias, rngs=rngs)

    def __call__(
        self, x: jax.Array, kind: AttentionSpec, context: Context, dropout_key: jax.Array | None, compute: Compute
    ) -> jax.Array:
        """x [b, l, d] -> [b, l, d]."""
        heads = (*x.shape[:2], kind.num_heads, kind.head_dim)
        query, key, value = (project(x).reshape(heads) for project in (self.query, self.key, self.value))
        if kind.rope is not None:
            query, key = rotate(query, kind.rope), rotate(key, kind.rope)
        attended = self.attend(query, key, value, kind, context, dropout_key, compute)
        return self.output(checkpoint_name(attended.reshape(*x.shape[:2], -1), ATTENDED))

    def attend(self, query, key, value, kind, context, dropout_key, compute):
        """query, key, value [b, l, h, c] -> [b, l, h, c], by the means that fit kind, length and device."""
        length, segment_ids = query.shape[1], context.segment_ids
        if compute.attention == "pallas" and kernels.fits(kind, length):
            return kernels.attend_in_kernel(query, key, value, segment_ids, kind, dropout_key)
        if kind.window is not None and length > kind.window:
            return attend_in_window(query, key, value, segment_ids, kind, dropout_key)
        mask = segment_mask(segment_ids)
        if kind.window is not None:
            place = jnp.arange(length)
            mask &= jnp.abs(place[:, None] - place[None, :]) <= kind.window // 2
        bias = alibi_bias(kind.num_heads, length) if kind.alibi else None
        return attend(query, key, value, mask, kind.dropout, dropout_key, bias)
