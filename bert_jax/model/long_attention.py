"""Attention whose memory and time are linear in the length: a window with global tokens (Longformer), and blocks, some of them random (BigBird).

Both attend within segments: in a row of several documents, global tokens and blocks of another document are not seen.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.model.attention import (
    Context,
    Global,
    SelfAttention,
    attend,
    attend_in_window,
    cut,
    in_heads,
    segment_mask,
    values_in_heads,
    with_neighbours,
)
from bert_jax.model.layers import Project
from bert_jax.model.long_spec import BlockSparseSpec, GlobalTokensSpec
from bert_jax.model.spec import Compute, EncoderSpec


class GlobalTokensAttention(SelfAttention):
    """The window's queries see the keys of global tokens too; a global token has its own query, and sees its document's own keys and values for it
    (Beltagy et al. 2020, section 3.1)."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs=rngs)
        axes = {"embed": spec.hidden_size, "heads": spec.attention.num_heads, "head_dim": spec.attention.head_dim}
        make = functools.partial(Project, "bld,de->ble", axes, 1, std=spec.initializer_range, bias=spec.attention.bias, rngs=rngs)
        self.query_global, self.key_global, self.value_global = make(), make(), make()

    def attended(self, x: jax.Array, kind: GlobalTokensSpec, context: Context, dropout_key: jax.Array | None, compute: Compute) -> jax.Array:
        if kind.is_plain(x.shape[1]):
            return super().attended(x, kind, context, dropout_key, compute)
        segment_ids = context.segment_ids
        is_global, slot, places, of_slots = global_slots(context, min(kind.global_tokens, x.shape[1]))
        near_key, far_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)

        query, key = in_heads(self.query, x, kind), in_heads(self.key, x, kind)
        value = values_in_heads(self.value, x, kind, context)
        far = Global(_take(key, places), _take(value, places), of_slots, jnp.where(is_global, 0, segment_ids))
        near = attend_in_window(query, key, value, segment_ids, kind, near_key, far)

        query = in_heads(self.query_global, _take(x, places), kind)
        key, value = in_heads(self.key_global, x, kind), values_in_heads(self.value_global, x, kind, context)
        everywhere = attend(query, key, value, segment_mask(of_slots, segment_ids), kind.dropout, far_key)
        return jnp.where(is_global[..., None, None], _take(everywhere, slot), near)


def global_slots(context: Context, slots: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(which tokens are global: bool [b, l], their numbers among these [b, l], the place of each slot's token [b, g], its segment [b, g] or 0).

    Of more tokens than there are slots, the first are taken."""
    segment_ids = context.segment_ids
    if context.global_tokens is None:
        marked = segment_ids != jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1]
    else:
        marked = context.global_tokens > 0
    marked &= segment_ids > 0
    number = jnp.cumsum(marked, axis=1) - 1
    held = (marked & (number < slots))[:, None] & (number[:, None] == jnp.arange(slots)[:, None])  # [b, g, l]
    places = jnp.argmax(held, axis=-1)
    return held.any(1), jnp.clip(number, 0, slots - 1), places, jnp.where(held.any(-1), _take(segment_ids, places), 0)


def _take(x: jax.Array, places: jax.Array) -> jax.Array:
    """x [b, l, ...], places [b, p] -> [b, p, ...]."""
    return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)


class BlockSparseAttention(SelfAttention):
    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        super().__init__(spec, rngs=rngs)
        self.num_layers = spec.num_layers

    def attend(self, query, key, value, kind, context, dropout_key, compute):
        length = query.shape[1]
        if kind.is_plain(length):
            return super().attend(query, key, value, kind, context, dropout_key, compute)
        chosen = jnp.asarray(random_blocks(kind, length, self.num_layers))[context.layer]
        return attend_to_blocks(query, key, value, context.segment_ids, chosen, kind, dropout_key)


def attend_to_blocks(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    chosen: jax.Array,
    kind: BlockSparseSpec,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """query, key, value [b, l, h, c], segment_ids [b, l], chosen [h, n - 2, r] -> [b, l, h, c]. A block that is chosen twice, or chosen beside its query's,
    counts as often."""
    rows, length, heads, _ = query.shape
    size, first, last = kind.block_size, slice(0, 1), slice(-1, None)
    inner_dropout, ends_dropout = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    queries, keys, values, segments = (cut(x, size) for x in (query, key, value, segment_ids))
    inner = segments.shape[1] - 2

    def seen(x: jax.Array) -> jax.Array:
        """[b, n, s, ...] -> what every inner block sees besides the random ones, [b, n - 2, 5 s, ...]: neighbours, first and last."""
        ends = [jnp.broadcast_to(x[:, end], (rows, inner, *x.shape[2:])) for end in (first, last)]
        return jnp.concatenate([with_neighbours(x)[:, 1:-1], *ends], axis=2)

    def picked(x: jax.Array) -> jax.Array:
        """[b, n, s, h, c] -> the random blocks, [b, n - 2, r s, h, c]."""
        taken = jax.vmap(lambda of_head, blocks: of_head[:, blocks], in_axes=(3, 0), out_axes=4)(x, chosen)  # [b, n - 2, r, s, h, c]
        return taken.reshape(rows, inner, chosen.shape[-1] * size, *x.shape[3:])

    # The second block has the first beside it, and the last but one the last: these are not seen twice.
    twice = jnp.zeros((inner, 5), bool).at[0, 3].set(True).at[-1, 4].set(True)
    mask = segment_mask(segments[:, 1:-1], seen(segments)) & ~jnp.repeat(twice, size, axis=1)[:, None, None]
    of_picked = picked(jnp.broadcast_to(segments[..., None, None], (*segments.shape, heads, 1)))[..., 0]
    picked_mask = segment_mask(segments[:, 1:-1, None], jnp.moveaxis(of_picked, 3, 2))[..., 0, :, :]
    mask = jnp.concatenate([jnp.broadcast_to(mask, (rows, inner, heads, *mask.shape[3:])), picked_mask], axis=-1)
    keys_seen, values_seen = (jnp.concatenate([seen(x), picked(x)], axis=2) for x in (keys, values))
    middle = attend(queries[:, 1:-1], keys_seen, values_seen, mask, kind.dropout, inner_dropout)

    ends, of_ends = (jnp.concatenate([x[:, 0], x[:, -1]], axis=1) for x in (queries, segments))
    ends = attend(ends, key, value, segment_mask(of_ends, segment_ids), kind.dropout, ends_dropout)
    attended = jnp.concatenate([ends[:, :size], middle.reshape(rows, -1, *value.shape[2:]), ends[:, size:]], axis=1)
    return attended[:, :length]


@functools.lru_cache
def random_blocks(kind: BlockSparseSpec, length: int, num_layers: int) -> np.ndarray:
    """The random blocks that each layer's heads see, int32 [layers, h, n - 2, r] without the first and the last block of queries.

    The numbers are those of google-research/bigbird and transformers: drawn by numpy's generator with the layer's number as seed. Which blocks can be
    drawn differs, there as here, between the lengths that were pretrained and all others.
    """
    blocks = -(-length // kind.block_size)
    choose = _of_pretrained_lengths if blocks * kind.block_size in PRETRAINED_LENGTHS else _of_other_lengths
    return np.stack([choose(kind, blocks, np.random.RandomState(layer)) for layer in range(num_layers)]).astype(np.int32)


PRETRAINED_LENGTHS = (1024, 3072, 4096)
DRAWN_FROM = 1024  # tokens from whose blocks the pretrained lengths draw


def _of_pretrained_lengths(kind: BlockSparseSpec, blocks: int, random: np.random.RandomState) -> np.ndarray:
    """From the blocks of the first DRAWN_FROM tokens that are not beside the query's; shorter inputs have the longest one's first rows."""
    total = kind.longest // kind.block_size
    last = DRAWN_FROM // kind.block_size - 1 if DRAWN_FROM > 2 * kind.block_size else total - 1
    middle = np.arange(1, total - 1)[:last]

    def row(block: int) -> np.ndarray:
        beside = (np.abs(middle - block) <= 1) & (block < total - 3)  # the last rows of the published code leave theirs in
        return random.permutation(middle[~beside])[: kind.random_blocks]

    return np.stack([[row(block) for block in range(1, total - 1)] for _ in range(kind.num_heads)])[:, : blocks - 2]


def _of_other_lengths(kind: BlockSparseSpec, blocks: int, random: np.random.RandomState) -> np.ndarray:
    """From the first 5 + 2 r blocks but those beside the query's and those at the ends."""
    stop = 5 + 2 * kind.random_blocks

    def row(block: int) -> np.ndarray:
        drawn = random.permutation(np.arange(stop))
        left_out = {block - 1, block, block + 1, 0, stop - 1} | ({stop - 2} if block == 1 else set()) | ({1} if block == stop - 2 else set())
        return np.array([one for one in drawn if one not in left_out][: kind.random_blocks], np.int32)

    rows = [[row(block) for _ in range(kind.num_heads)] for block in range(1, blocks - 1)]
    return np.swapaxes(np.array(rows, np.int32).reshape(blocks - 2, kind.num_heads, kind.random_blocks), 0, 1)
