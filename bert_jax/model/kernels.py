"""Self-attention as one TPU kernel, forward and backward: the scores of a row stay on the chip and are computed anew for the gradients.

What XLA makes of plain attention writes scores, probabilities and dropout masks, each [b, h, l, l], to memory and reads them again; here queries,
keys and values are read, the result is written, and nothing else is moved (Dao et al. 2022, arXiv 2205.14135, of which only the idea is needed: at the
lengths of BERT all keys of a row fit into the chip's memory, so that there is no running softmax). The dropout mask is that of `attention.attend`, bit for bit.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

from bert_jax.model.dropout import keeps, seeds, threshold_of, words
from bert_jax.model.positions import alibi_slopes
from bert_jax.model.spec import AttentionSpec
from bert_jax.sharding import is_mapped, rows_before

MASKED = -1e30  # finite, so that a row with nothing to attend to (padding) gives a uniform average and not NaN
LANES = 128  # a block's last axis is a multiple of this, or the whole axis
LONGEST = 1024  # whose scores, a float32 matrix for each head, still fit
TOKENS_PER_PROGRAM = 512  # rows are taken together up to this


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a program of the kernel works on. rows, heads: of one program."""

    length: int
    head_dim: int
    rows: int
    heads: int
    window: int | None
    alibi: bool
    threshold: int
    scale: float


def fits(spec: AttentionSpec, length: int) -> bool:
    """Whether the kernel takes this attention: whole tiles, scores that fit, and keys of one projection within a window or all, by contents alone."""
    return spec.is_plain(length) and length % LANES == 0 and length <= LONGEST and _heads_together(spec.num_heads, spec.head_dim) is not None


def _heads_together(num_heads: int, head_dim: int) -> int | None:
    """The fewest heads whose features fill whole tiles."""
    return next((heads for heads in range(1, num_heads + 1) if num_heads % heads == 0 and heads * head_dim % LANES == 0), None)


def attend_in_kernel(
    query: jax.Array, key: jax.Array, value: jax.Array, segment_ids: jax.Array, spec: AttentionSpec, dropout_key: jax.Array | None, *, interpret: bool = False
) -> jax.Array:
    """`attention.attend` with the segments' mask, the window and ALiBi's bias of `spec`: query, key, value [b, l, h, c], segment_ids [b, l] -> [b, l, h, c].

    Under a mesh each device works on its own rows and heads. interpret: run without a TPU, slowly, for tests.
    """
    batch, length, num_heads, head_dim = query.shape
    mesh = jax.sharding.get_abstract_mesh()
    rows, heads = jnp.arange(batch, dtype=jnp.uint32) + jnp.uint32(rows_before(batch)), jnp.arange(num_heads, dtype=jnp.uint32)
    slopes = jnp.asarray(alibi_slopes(num_heads) if spec.alibi else np.zeros(num_heads, np.float32))
    seed = jnp.zeros(2, jnp.uint32) if dropout_key is None else jnp.stack(words(dropout_key))
    rate = 0.0 if dropout_key is None else spec.dropout
    kind = dataclasses.replace(spec, dropout=rate)
    run = functools.partial(_attend, kind=kind, interpret=interpret)
    if mesh.empty or mesh.size == 1 or is_mapped():
        return run(query, key, value, segment_ids, rows, heads, slopes, seed)
    along, across = ("data", "fsdp"), "tensor"
    features, whole = PartitionSpec(along, None, across, None), PartitionSpec()
    mapped = jax.shard_map(
        run,
        in_specs=(features, features, features, PartitionSpec(along, None), PartitionSpec(along), PartitionSpec(across), PartitionSpec(across), whole),
        out_specs=features,
        check_vma=False,  # the kernel's outputs say nothing of it
    )
    return mapped(query, key, value, segment_ids, rows, heads, slopes, seed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(8, 9))
def _attend(query, key, value, segment_ids, rows, heads, slopes, seed, kind, interpret):
    """All of one device. rows, heads: their numbers in the whole batch and model, uint32, for the dropout mask."""
    return _call(_forward_kernel, (query, key, value), 1, 4, segment_ids, rows, heads, slopes, seed, kind, interpret)[0]


def _attend_forward(query, key, value, segment_ids, rows, heads, slopes, seed, kind, interpret):
    result = _attend(query, key, value, segment_ids, rows, heads, slopes, seed, kind, interpret)
    return result, (query, key, value, segment_ids, rows, heads, slopes, seed)


def _attend_backward(kind, interpret, kept, gradient):
    query, key, value, *others = kept
    arrays = (query, key, value, gradient)
    gradients = _call(_backward_kernel, arrays, 3, 10, *others, kind, interpret)
    return (*gradients, *(np.zeros(other.shape, jax.dtypes.float0) if other.dtype != jnp.float32 else jnp.zeros_like(other) for other in others))


_attend.defvjp(_attend_forward, _attend_backward)


def _call(kernel, arrays, outputs, flops, segment_ids, rows, heads, slopes, seed, kind, interpret):
    """Runs a kernel over programs of some rows and heads each. arrays: [b, l, h, c]; flops: of one score, per feature of a head."""
    batch, length, num_heads, head_dim = arrays[0].shape
    together = _heads_together(num_heads, head_dim) or num_heads
    at_once = next(count for count in range(min(max(TOKENS_PER_PROGRAM // length, 1), batch), 0, -1) if batch % count == 0)
    shape = Shape(length, head_dim, at_once, together, kind.window, kind.alibi, threshold_of(kind.dropout), head_dim**-0.5)
    features = pl.BlockSpec((at_once, length, together * head_dim), lambda row, group: (row, 0, group))
    segments = pl.BlockSpec((at_once, 1, length), lambda row, group: (row, 0, 0))
    scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
    wide = jax.ShapeDtypeStruct((batch, length, num_heads * head_dim), arrays[0].dtype)
    moved = (len(arrays) + outputs) * wide.size * wide.dtype.itemsize
    results = pl.pallas_call(
        functools.partial(kernel, shape),
        grid=(batch // at_once, num_heads // together),
        in_specs=[scalars] * 4 + [segments] + [features] * len(arrays),
        out_specs=[features] * outputs,
        out_shape=[wide] * outputs,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=flops * batch * num_heads * head_dim * length**2, bytes_accessed=moved, transcendentals=batch * num_heads * length**2
        ),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(rows, heads, slopes, seed, segment_ids[:, None, :], *(array.reshape(wide.shape) for array in arrays))
    return [result.reshape(arrays[0].shape) for result in results]


def _forward_kernel(shape: Shape, rows, heads, slopes, seed, segments, query, key, value, out):
    for row, head, features in _each(shape):
        probabilities, keep = _probabilities(shape, row, head, rows, heads, slopes, seed, segments, query[row, :, features], key[row, :, features])
        dropped = _dropped(shape, probabilities.astype(value.dtype), keep)
        out[row, :, features] = _dot(dropped, value[row, :, features], 1, 0).astype(out.dtype)


def _backward_kernel(shape: Shape, rows, heads, slopes, seed, segments, query, key, value, gradient, d_query, d_key, d_value):
    for row, head, features in _each(shape):
        q, k, v, g = (array[row, :, features] for array in (query, key, value, gradient))
        probabilities, keep = _probabilities(shape, row, head, rows, heads, slopes, seed, segments, q, k)
        d_value[row, :, features] = _dot(_dropped(shape, probabilities.astype(v.dtype), keep), g, 0, 0).astype(d_value.dtype)
        d_probabilities = _dropped(shape, _dot(g, v, 1, 1), keep)
        total = (d_probabilities * probabilities).sum(axis=1, keepdims=True)
        d_scores = (probabilities * (d_probabilities - total)).astype(q.dtype)
        d_query[row, :, features] = (_dot(d_scores, k, 1, 0) * shape.scale).astype(d_query.dtype)
        d_key[row, :, features] = (_dot(d_scores, q, 0, 0) * shape.scale).astype(d_key.dtype)


def _each(shape: Shape):
    """(row, head, its features) within the program's block."""
    for row in range(shape.rows):
        for head in range(shape.heads):
            yield row, head, slice(head * shape.head_dim, (head + 1) * shape.head_dim)


def _probabilities(shape: Shape, row, head, rows, heads, slopes, seed, segments, query, key):
    """float32 [q, k], and which of them stay (None: all), of one row and head."""
    length = shape.length
    scaled = query * jnp.asarray(shape.scale, query.dtype)
    scores = _dot(scaled, key, 1, 1)
    place = (length, length)
    q, k = jax.lax.broadcasted_iota(jnp.int32, place, 0), jax.lax.broadcasted_iota(jnp.int32, place, 1)
    row_number, head_number = rows[pl.program_id(0) * shape.rows + row], heads[pl.program_id(1) * shape.heads + head]
    if shape.alibi:
        scores -= slopes[pl.program_id(1) * shape.heads + head] * jnp.abs(q - k).astype(jnp.float32)
    of_keys = segments[row]  # [1, k]
    of_queries = of_keys.reshape(length, 1)
    seen = (of_queries == of_keys) & (of_keys > 0)
    if shape.window is not None:
        seen &= jnp.abs(q - k) <= shape.window // 2
    scores = jnp.where(seen, scores, MASKED)
    powers = jnp.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    if not shape.threshold:
        return probabilities, None
    counter = (q * length + k).astype(jnp.uint32)
    return probabilities, keeps(seeds(seeds(seed[0], seed[1], row_number), seed[1], head_number), counter, shape.threshold)


def _dropped(shape: Shape, x, keep):
    if keep is None:
        return x
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - shape.threshold / 65536), x.dtype), jnp.zeros_like(x))


def _dot(one, other, one_axis, other_axis):
    return jax.lax.dot_general(one, other, (((one_axis,), (other_axis,)), ((), ())), preferred_element_type=jnp.float32)
