"""Bidirectional self-attention within segments (Vaswani et al. 2017, section 3.2): of all keys, whole or in parts, and of those near a query."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.model import kernels
from bert_jax.model.dropout import dropout
from bert_jax.model.layers import Project
from bert_jax.model.positions import alibi_bias, alibi_slopes, rotate
from bert_jax.model.remat import ATTENDED, kept
from bert_jax.model.spec import AttentionSpec, Compute, EncoderSpec

MASKED = kernels.MASKED
LONGEST_WHOLE = kernels.LONGEST  # above which the scores of all queries never stand in memory together
QUERIES_AT_ONCE = 256


class Context(NamedTuple):
    """What the attention of every layer knows besides the layer's input. segment_ids: int32 [b, l]. global_tokens: int32 [b, l], 1 where a token is marked
    as global; None: the batch marks none. layer: its number, which some attention's pattern depends on. relative [2 l + 1, d]: rows for the distances l, ..., -l,
    where attention is disentangled. memory [b, l, d]: what keys and values are made of; None: the layer's input. values [b, l, h, c]: what is attended to instead
    of the values that the layer projects."""

    segment_ids: jax.Array
    global_tokens: jax.Array | None = None
    layer: jax.Array | int = 0
    relative: jax.Array | None = None
    memory: jax.Array | None = None
    values: jax.Array | None = None


class Global(NamedTuple):
    """Keys that the window of every query has besides the near ones. key, value [b, g, h, c]. segment_ids [b, g]: theirs, 0 in a slot without a key.
    near_segment_ids [b, l]: of all keys as near ones, 0 for the global ones, which are not seen twice."""

    key: jax.Array
    value: jax.Array
    segment_ids: jax.Array
    near_segment_ids: jax.Array


def segment_mask(of_queries: jax.Array, of_keys: jax.Array | None = None) -> jax.Array:
    """[..., q] and [..., k] segment ids (0 is padding; one array where they are the same) -> bool [..., 1, q, k]: may q attend to k."""
    of_keys = of_queries if of_keys is None else of_keys
    queries, keys = of_queries[..., None, :, None], of_keys[..., None, None, :]
    return (queries == keys) & (keys > 0)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    rate: float,
    dropout_key: jax.Array | None,
    bias: jax.Array | None = None,
    first: jax.Array | None = None,
) -> jax.Array:
    """query [..., q, h, c], key, value [..., k, h, c], mask [..., 1 or h, q, k], bias [h, q, k] -> [..., q, h, c]. Scores and softmax in float32.

    first: the first query's place among all that have these keys, where they are taken in parts; so each has the dropout that it has in the whole."""
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum("...qhc,...khc->...hqk", query, key, preferred_element_type=jnp.float32)
    scores = scores if bias is None else scores + bias
    probabilities = jax.nn.softmax(jnp.where(mask, scores, MASKED), axis=-1).astype(value.dtype)
    start = None if first is None else first.astype(jnp.uint32) * key.shape[-3]
    probabilities = dropout(probabilities, rate, dropout_key, seeded=2, start=start)
    return jnp.einsum("...hqk,...khc->...qhc", probabilities, value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend_in_parts(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, kind: AttentionSpec, dropout_key: jax.Array | None
) -> jax.Array:
    """`attend` to all keys, some queries after others, whose scores are computed anew for the gradients: memory is linear in the length. query, key, value
    [b, l, h, c], segment_ids [b, l] -> [b, l, h, c]."""
    attended = jax.lax.map(lambda part: _attend_part(kind, key, value, segment_ids, dropout_key, *part), _parts(query, segment_ids))
    return _joined(attended, query.shape[1])


def _attend_part(kind, key, value, segment_ids, dropout_key, first, of_queries, queries):
    """Of the queries [b, q, h, c] from the place `first` on, with the segments [b, q]."""
    distance = jnp.abs(first + jnp.arange(queries.shape[1])[:, None] - jnp.arange(key.shape[1])[None, :])
    mask = segment_mask(of_queries, segment_ids)
    mask = mask if kind.window is None else mask & (distance <= kind.window // 2)
    bias = -alibi_slopes(kind.num_heads)[:, None, None] * distance if kind.alibi else None
    return attend(queries, key, value, mask, kind.dropout, dropout_key, bias, first)


def _parts(x: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of x [b, l, ...]: (the places where the parts begin [n], their segments [n, b, q], the parts themselves [n, b, q, ...])."""
    of_parts, parts = (jnp.moveaxis(cut(one, QUERIES_AT_ONCE), 1, 0) for one in (segment_ids, x))
    return jnp.arange(parts.shape[0]) * QUERIES_AT_ONCE, of_parts, parts


def _joined(parts: jax.Array, length: int) -> jax.Array:
    """[n, b, q, ...] -> [b, l, ...]."""
    parts = jnp.moveaxis(parts, 0, 1)
    return parts.reshape(parts.shape[0], -1, *parts.shape[3:])[:, :length]


def _attend_in_parts_forward(query, key, value, segment_ids, kind, dropout_key):
    return attend_in_parts(query, key, value, segment_ids, kind, dropout_key), (query, key, value, segment_ids, dropout_key)


def _attend_in_parts_backward(kind, kept, gradient):
    query, key, value, segment_ids, dropout_key = kept

    def back(sums, part):
        (first, of_queries, queries), own = part
        _, pull = jax.vjp(lambda queries, key, value: _attend_part(kind, key, value, segment_ids, dropout_key, first, of_queries, queries), queries, key, value)
        of_query, *of_keys = pull(own)
        return jax.tree.map(jnp.add, sums, [one.astype(jnp.float32) for one in of_keys]), of_query

    zeros = [jnp.zeros(one.shape, jnp.float32) for one in (key, value)]
    (of_key, of_value), of_query = jax.lax.scan(back, zeros, (_parts(query, segment_ids), _parts(gradient, segment_ids)[2]))
    none = [None if one is None else np.zeros(one.shape, jax.dtypes.float0) for one in (segment_ids, dropout_key)]
    return _joined(of_query, query.shape[1]), of_key.astype(key.dtype), of_value.astype(value.dtype), *none


attend_in_parts.defvjp(_attend_in_parts_forward, _attend_in_parts_backward)


def cut(x: jax.Array, size: int) -> jax.Array:
    """[b, l, ...] -> [b, n, size, ...], the last block filled up with zeros."""
    padded = jnp.pad(x, [(0, 0), (0, -x.shape[1] % size)] + [(0, 0)] * (x.ndim - 2))
    return padded.reshape(x.shape[0], -1, size, *x.shape[2:])


def with_neighbours(x: jax.Array) -> jax.Array:
    """Blocks [b, n, s, ...] -> [b, n, 3 s, ...]: each between the one before and the one after it, which are zeros at the ends."""
    x = jnp.pad(x, [(0, 0), (1, 1)] + [(0, 0)] * (x.ndim - 2))
    return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)


def attend_in_window(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    kind: AttentionSpec,
    dropout_key: jax.Array | None,
    far: Global | None = None,
) -> jax.Array:
    """As `attend`, each query seeing keys at most kind.window / 2 away, and those in `far`: in blocks of that size, each with its neighbours, so that memory
    is linear in the length (Beltagy et al. 2020, section 3.1). query, key, value [b, l, h, c], segment_ids [b, l] -> [b, l, h, c]."""
    reach, length = kind.window // 2, query.shape[1]
    size = min(reach, length)
    queries, of_queries = cut(query, size), cut(segment_ids, size)
    keys, values, of_keys = (with_neighbours(cut(x, size)) for x in (key, value, segment_ids if far is None else far.near_segment_ids))
    distance = jnp.arange(3 * size)[None, :] - size - jnp.arange(size)[:, None]
    mask = segment_mask(of_queries, of_keys) & (jnp.abs(distance) <= reach)
    bias = -alibi_slopes(kind.num_heads)[:, None, None] * jnp.abs(distance) if kind.alibi else None
    if far is not None:
        blocks = queries.shape[1]
        keys, values = (join_far(one, other, blocks) for one, other in ((keys, far.key), (values, far.value)))
        mask = jnp.concatenate([mask, segment_mask(of_queries, far.segment_ids[:, None])], axis=-1)
    attended = attend(queries, keys, values, mask, kind.dropout, dropout_key, bias)
    return attended.reshape(query.shape[0], -1, *value.shape[2:])[:, :length]


def join_far(near: jax.Array, far: jax.Array, blocks: int) -> jax.Array:
    """Keys of each block [b, n, k, h, c] and those of all blocks [b, g, h, c] -> [b, n, k + g, h, c]."""
    return jnp.concatenate([near, jnp.broadcast_to(far[:, None], (far.shape[0], blocks, *far.shape[1:]))], axis=2)


def in_heads(project: Project, x: jax.Array, kind: AttentionSpec) -> jax.Array:
    """x [b, l, d] -> [b, l, h, c]."""
    return project(x).reshape(*x.shape[:2], kind.num_heads, kind.head_dim)


def values_in_heads(project: Project, x: jax.Array, kind: AttentionSpec, context: Context) -> jax.Array:
    """x [b, l, d] -> [b, l, h, c]."""
    return in_heads(project, x, kind) if context.values is None else context.values


class SelfAttention(nnx.Module):
    """Projections are computed with heads and features in one axis, as TPUs lay them out best; the kernels keep them apart."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        heads, size, bias = spec.attention.num_heads, spec.attention.head_dim, spec.attention.bias
        inward = {"embed": spec.hidden_size, "heads": heads, "head_dim": size}
        outward = {"heads": heads, "head_dim": size, "embed": spec.hidden_size}
        std = spec.initializer_range
        self.query = Project("bld,de->ble", inward, 1, std=std, bias=bias, rngs=rngs)
        self.key = Project("bld,de->ble", inward, 1, std=std, bias=bias and spec.attention.key_bias, rngs=rngs)
        self.value = Project("bld,de->ble", inward, 1, std=std, bias=bias, rngs=rngs)
        self.output = Project("ble,ed->bld", outward, 2, std=std, bias=bias, rngs=rngs)

    def __call__(
        self, x: jax.Array, kind: AttentionSpec, context: Context, dropout_key: jax.Array | None, compute: Compute
    ) -> jax.Array:
        """x [b, l, d] -> [b, l, d]."""
        attended = self.attended(x, kind, context, dropout_key, compute)
        return self.output(kept(attended.reshape(*x.shape[:2], -1), ATTENDED))

    def probabilities(self, x: jax.Array, kind: AttentionSpec, context: Context, compute: Compute) -> jax.Array:
        """x [b, l, d] -> [b, h, q, k]: how much of what a query finds comes from each key. Whatever the means of attention, it is linear in the values: of
        values that are 1 for one key and 0 for all others, a query finds its probabilities."""
        length = x.shape[1]
        one_hot = jnp.broadcast_to(jnp.eye(length, dtype=x.dtype)[:, None], (x.shape[0], length, kind.num_heads, length))
        return self.attended(x, kind, context._replace(values=one_hot), None, compute).swapaxes(1, 2)

    def attended(self, x, kind, context, dropout_key, compute):
        """x [b, l, d] -> [b, l, h, c], what the heads found."""
        query, key = in_heads(self.query, x, kind), in_heads(self.key, x, kind)
        value = values_in_heads(self.value, x, kind, context)
        if kind.rope is not None:
            query, key = rotate(query, kind.rope), rotate(key, kind.rope)
        return self.attend(query, key, value, kind, context, dropout_key, compute)

    def attend(self, query, key, value, kind, context, dropout_key, compute):
        """query, key, value [b, l, h, c] -> [b, l, h, c], by the means that fit kind, length and device."""
        length, segment_ids = query.shape[1], context.segment_ids
        if compute.attention == "pallas" and kernels.fits(kind, length):
            return kernels.attend_in_kernel(query, key, value, segment_ids, kind, dropout_key)
        if kind.window is not None and length > kind.window:
            return attend_in_window(query, key, value, segment_ids, kind, dropout_key)
        if length > LONGEST_WHOLE:
            return attend_in_parts(query, key, value, segment_ids, kind, dropout_key)
        mask = segment_mask(segment_ids)
        if kind.window is not None:
            place = jnp.arange(length)
            mask &= jnp.abs(place[:, None] - place[None, :]) <= kind.window // 2
        bias = alibi_bias(kind.num_heads, length) if kind.alibi else None
        return attend(query, key, value, mask, kind.dropout, dropout_key, bias)
