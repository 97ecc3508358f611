"""Disentangled attention (He et al. 2020, arXiv 2006.03654, section 3.1): a score is the sum of content on content, content on relative position and
relative position on content, whose distance is the query's place minus the key's.

Within a document of a packed row, places differ by as much as indices do, so that distances are taken from the index and the segments' mask does the rest.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.model.attention import SelfAttention, attend, in_heads, segment_mask, values_in_heads
from bert_jax.model.dropout import dropout
from bert_jax.model.layers import Embedding, Norm, Project
from bert_jax.model.spec import DisentangledSpec, EncoderSpec

TERMS = 3  # of a score; each is divided by the root of head_dim times their number
BLOCK = 128  # queries that are shifted together


def table_rows(distances: np.ndarray, spec: DisentangledSpec) -> np.ndarray:
    """Integer distances [...] -> rows of the table of relative positions [...].

    With buckets, distances up to half of them have one each; of the others those between two powers of one ratio share one, in float32 as in
    microsoft/DeBERTa, so that the edges are the same (He et al. 2021, arXiv 2111.09543; `make_log_bucket_position`).
    """
    places = distances
    if spec.buckets is not None:
        near, far = spec.buckets // 2, np.maximum(np.abs(distances), 1).astype(np.float32)
        log = np.log(far / np.float32(near)) / np.log(np.float32((spec.max_distance - 1) / near)) * np.float32(near - 1)
        places = np.where(far <= near, distances, np.sign(distances) * (np.ceil(log) + near)).astype(int)
    return np.clip(places + spec.span, 0, 2 * spec.span - 1)


class RelativePositions(nnx.Module):
    """The table of relative positions, which all layers share: [2 span, d]."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        self.kind = spec.attention
        self.table = Embedding(2 * self.kind.span, spec.hidden_size, "positions", std=spec.initializer_range, rngs=rngs)
        self.norm = Norm(spec.hidden_size, spec.norm) if self.kind.norm else None

    def __call__(self, length: int, dtype: jnp.dtype) -> jax.Array:
        """[2 length + 1, d] in `dtype`: of the distances length, length - 1, ..., -length."""
        table = self.table.embedding[...]
        table = table if self.norm is None else self.norm(table)
        return table.astype(dtype)[table_rows(np.arange(length, -length - 1, -1), self.kind)]


def shifted_scores(x: jax.Array, positions: jax.Array) -> jax.Array:
    """x [b, l, h, c], positions [2 l, h, c] -> float32 [b, h, i, j]: the products of x_i and positions_(j - i + l - 1).

    Each row of products is wanted from another place on. A gather would do it, but along the fastest axis, and its gradient is a scatter, the two things
    that TPUs do worst. Here rows of w products are read again as rows of w - 1, which shifts each by one more than that above it (Dai et al. 2019, arXiv
    1901.02860, appendix B): slices and reshapes, and the gradient is the same. Taken in blocks of queries, which meet l + BLOCK positions instead of 2 l.
    """
    rows, length, heads, _ = x.shape
    size = BLOCK if length % BLOCK == 0 else length
    blocks, width = length // size, length + size
    near = jnp.stack([positions[start : start + width] for start in range(length - size, -1, -size)])
    products = jnp.einsum("bnihc,nwhc->bhniw", x.reshape(rows, blocks, size, heads, -1), near, preferred_element_type=jnp.float32)
    again = products.reshape(rows, heads, blocks, size * width)[..., size - 1 : size - 1 + size * (width - 1)]
    return again.reshape(rows, heads, length, width - 1)[..., :length]


class DisentangledSelfAttention(SelfAttention):
    """Self-attention whose scores depend on relative positions, which come with the context. `position_query` and `position_key` project them where the
    contents' projections do not: in DeBERTa's first version, whose keys of positions have no bias."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs=rngs)
        self.rate = spec.dropout
        if not spec.attention.shared_projections:
            axes = {"embed": spec.hidden_size, "heads": spec.attention.num_heads, "head_dim": spec.attention.head_dim}
            self.position_query = Project("bld,de->ble", axes, 1, std=spec.initializer_range, rngs=rngs)
            self.position_key = Project("bld,de->ble", axes, 1, std=spec.initializer_range, bias=False, rngs=rngs)

    def attended(self, x, kind, context, dropout_key, compute):
        """x [b, l, d] -> [b, l, h, c]: queries of x, keys and values of x or of the context's memory."""
        memory, relative = x if context.memory is None else context.memory, context.relative
        query, key, value = in_heads(self.query, x, kind), in_heads(self.key, memory, kind), values_in_heads(self.value, memory, kind, context)
        if dropout_key is not None:
            relative = dropout(relative, self.rate, jax.random.fold_in(dropout_key, 1), seeded=0)
        projections = (self.query, self.key) if kind.shared_projections else (self.position_query, self.position_key)
        position_query, position_key = (in_heads(project, relative[None], kind)[0] for project in projections)
        each, scale = jnp.asarray(TERMS**-0.5, query.dtype), jnp.asarray((TERMS * kind.head_dim) ** -0.5, query.dtype)
        on_position = shifted_scores(query * scale, position_key[1:])
        on_content = shifted_scores(key, position_query[:-1][::-1] * scale).swapaxes(2, 3)
        return attend(query * each, key, value, segment_mask(context.segment_ids), kind.dropout, dropout_key, on_position + on_content)
