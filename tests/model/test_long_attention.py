"""Attention to a part of the keys, or to all in parts, is plain attention with the mask that says which; its memory is linear in the length."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.model import kernels
from bert_jax.model.attention import Global, attend, attend_in_parts, attend_in_window, segment_mask
from bert_jax.model.families import build_spec
from bert_jax.model.long_attention import attend_to_blocks, random_blocks
from bert_jax.model.long_spec import BlockSparseSpec, GlobalTokensSpec
from bert_jax.model.positions import alibi_bias
from bert_jax.model.spec import AttentionSpec, Compute
from bert_jax.training.metrics import model_flops
from bert_jax.training.state import make_blueprint

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
LONGFORMER = SIZES | {"family": "longformer", "window": 8, "global_tokens": 3}
BIG_BIRD = SIZES | {"family": "big_bird", "block_size": 4, "random_blocks": 2}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


def heads_of(length, seed=0):
    """Queries, keys and values [2, length, 4, 8] of two rows with the segments 1, 2 and 3 of different lengths, and padding."""
    random = np.random.default_rng(seed)
    arrays = [random.normal(size=(2, length, 4, 8)).astype(np.float32) for _ in range(3)]
    ends = np.array([[0.2, 0.7, 0.9], [0.5, 0.9, 1.0]]) * length
    place = np.arange(length)
    segments = np.where(place < ends[:, :1], 1, np.where(place < ends[:, 1:2], 2, 3)) * (place < ends[:, 2:])
    return arrays, segments.astype(np.int32)


def assert_same(sparse, dense, arrays, segment_ids):
    """Results and gradients, where there are tokens: padding sees nothing, and what it gets differs."""
    weights = np.random.default_rng(9).normal(size=arrays[0].shape).astype(np.float32) * (segment_ids > 0)[..., None, None]
    found, expected = (jit(jax.value_and_grad(lambda arrays, run=run: (run(*arrays) * weights).sum()))(arrays) for run in (sparse, dense))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for one, other in zip(found[1], expected[1]):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("length", [37, 6])
def test_a_window_with_global_keys_is_attention_with_a_mask(length):
    arrays, segment_ids = heads_of(length)
    kind = AttentionSpec(4, 8, 0.0, window=8)
    places = np.array([[0, 3, 5], [2, 4, 0]])  # the last slot of the second row is empty
    of_slots = np.take_along_axis(segment_ids, places, axis=1) * np.array([[1, 1, 1], [1, 1, 0]])
    is_global = np.zeros((2, length), bool)
    is_global[0, [0, 3, 5]] = is_global[1, [2, 4]] = True

    def sparse(query, key, value):
        slots = [jnp.take_along_axis(x, places[..., None, None], axis=1) for x in (key, value)]
        return attend_in_window(query, key, value, segment_ids, kind, None, Global(*slots, of_slots, jnp.where(is_global, 0, segment_ids)))

    near = np.abs(np.arange(length)[:, None] - np.arange(length)) <= 4
    mask = np.asarray(segment_mask(segment_ids)) & (near | is_global[:, None, None, :])
    assert_same(sparse, lambda *arrays: attend(*arrays, mask, 0.0, None), arrays, segment_ids)


@pytest.mark.parametrize("length", [64, 49])
def test_blocks_are_attention_with_a_mask(length):
    kind = BlockSparseSpec(4, 8, 0.0, block_size=4, random_blocks=2, longest=64)
    arrays, segment_ids = heads_of(length)
    chosen = random_blocks(kind, length, 2)[1]
    assert len({blocks.tobytes() for blocks in chosen}) == 4  # each head has its own
    blocks = -(-length // 4)
    seen = np.abs(np.arange(blocks)[:, None] - np.arange(blocks)) <= 1
    seen[:, [0, -1]] = seen[[0, -1], :] = True
    seen = np.repeat(seen[None], 4, axis=0)
    for head in range(4):
        for row in range(blocks - 2):
            assert not seen[head, row + 1, chosen[head, row]].any()  # so that none is seen twice
            seen[head, row + 1, chosen[head, row]] = True
    dense = np.repeat(np.repeat(seen, 4, axis=1), 4, axis=2)[:, :length, :length]
    mask = np.asarray(segment_mask(segment_ids)) & dense
    assert dense.mean() < 0.8
    assert_same(lambda *arrays: attend_to_blocks(*arrays, segment_ids, jnp.asarray(chosen), kind, None), lambda *arrays: attend(*arrays, mask, 0.0, None), arrays, segment_ids)


@pytest.mark.parametrize("alibi, window", [(True, None), (False, 400)])
def test_attention_in_parts_is_attention_dropout_included(alibi, window):
    """The same mask of dropout, bit for bit: one bit off would show."""
    length, key = 300, jax.random.key(5)
    arrays, segment_ids = heads_of(length)
    kind = AttentionSpec(4, 8, 0.5, alibi=alibi, window=window)
    mask = segment_mask(jnp.asarray(segment_ids))
    if window:
        mask &= np.abs(np.arange(length)[:, None] - np.arange(length)) <= window // 2
    bias = alibi_bias(4, length) if alibi else None
    assert_same(lambda *arrays: attend_in_parts(*arrays, segment_ids, kind, key), lambda *arrays: attend(*arrays, mask, 0.5, key, bias), arrays, segment_ids)


def loss_of(section, compute=Compute()):
    """(random parameters, compiled (params, batch, key) -> (sum of squares of the hidden states where there are tokens, gradients))."""
    blueprint = make_blueprint(build_spec(section))

    def loss(params, batch, key=None):
        hidden = blueprint.model(params).encoder(batch, key=key, compute=compute)
        return (hidden.astype(jnp.float32) ** 3 * (batch["segment_ids"] > 0)[..., None]).sum()

    random = np.random.default_rng(1)
    draw = lambda path, leaf: random.normal(float(path[-1].key == "scale"), 0.3, leaf.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map_with_path(draw, blueprint.params), jit(jax.value_and_grad(loss))


def batch_of(rows, length, seed=3):
    ids = np.random.default_rng(seed).integers(1, 300, (rows, length)).astype(np.int32)
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "segment_ids": np.ones_like(ids)}


@pytest.mark.parametrize("section", [LONGFORMER, BIG_BIRD], ids=["longformer", "big_bird"])
def test_how_it_is_run_changes_nothing_and_dropout_follows_the_key(section):
    section, batch = section | {"max_positions": 64}, batch_of(2, 61)
    results = []
    for compute in (Compute(), Compute(remat="full", unroll=2, attention="pallas")):
        params, run = loss_of(section, compute)
        results.append(run(params, batch, jax.random.key(0)))
    other = run(params, batch, jax.random.key(1))
    assert abs(other[0] - results[0][0]) > 1e-3
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-4)
    for one, expected in zip(jax.tree.leaves(results[1][1]), jax.tree.leaves(results[0][1]), strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-4 * max(np.abs(expected).max(), 1.0))


@pytest.mark.parametrize("section", [LONGFORMER, BIG_BIRD], ids=["longformer", "big_bird"])
def test_a_packed_document_sees_no_other(section):
    """Of Longformer's two documents each has its first token as a global one; alone, the first gives the same as in the row."""
    section = section | {"max_positions": 64}
    model = make_blueprint(build_spec(section))
    params, _ = loss_of(section)
    run = functools.partial(jit(lambda params, batch: model.model(params).encoder(batch)), params)
    batch = batch_of(1, 64)
    segments = np.array([[1] * 30 + [2] * 34], np.int32)
    position_ids = np.concatenate([np.arange(30), np.arange(34)])[None].astype(np.int32)
    packed = batch | {"segment_ids": segments, "position_ids": position_ids}
    changed = packed | {"input_ids": np.where(segments == 2, batch["input_ids"] % 299 + 1, batch["input_ids"]).astype(np.int32)}
    alone = packed | {"segment_ids": np.where(segments == 1, 1, 0).astype(np.int32)}
    results = [np.asarray(run(one)) for one in (packed, changed, alone)]
    np.testing.assert_array_equal(results[0][:, :30], results[1][:, :30])
    np.testing.assert_allclose(results[0][:, :30], results[2][:, :30], atol=1e-4)
    assert np.abs(results[0] - results[1])[:, 30:].max() > 0.01
    if section["family"] == "longformer":  # token 29 sees the first of its document, 29 places away, in one layer
        first = packed | {"input_ids": np.concatenate([batch["input_ids"][:, :1] % 299 + 1, batch["input_ids"][:, 1:]], axis=1)}
        assert np.abs(np.asarray(run(first)) - results[0])[:, 29].max() > 1e-3


def test_of_too_many_global_tokens_the_first_are_taken():
    section = LONGFORMER | {"max_positions": 64, "num_layers": 1}
    params, run = loss_of(section)
    marks = [np.isin(np.arange(40), places)[None].astype(np.int32) for places in ([2, 9, 30], [2, 9, 30, 31, 39], [2, 9])]
    totals = [run(params, batch_of(1, 40) | {"global_tokens": mark})[0] for mark in marks]
    np.testing.assert_allclose(totals[1], totals[0], rtol=1e-6)
    assert abs(totals[2] - totals[0]) > 1e-2


MODERNBERT = SIZES | {"family": "modernbert", "num_layers": 3, "global_every": 2, "window": 32}
LONG = {
    "longformer": LONGFORMER | {"window": 64},
    "big_bird": BIG_BIRD | {"block_size": 16},
    "modernbert": MODERNBERT,
}


@pytest.mark.parametrize("name", LONG)
def test_memory_is_linear_in_the_length(name):
    """Of a forward and backward pass, as compiled: no array is as large as one head's scores, and twice the length takes about twice the memory."""
    section, used = LONG[name] | {"max_positions": 4096}, []
    for length in (2048, 4096):
        params, run = loss_of(section)
        batch = {name: jax.ShapeDtypeStruct((1, length), jnp.int32) for name in ("input_ids", "token_type_ids", "segment_ids")}
        compiled = run.lower(params, batch).compile()
        used.append(compiled.memory_analysis().temp_size_in_bytes)
        shapes = re.findall(r"\b(?:f32|bf16|pred|[su]\d+)\[([\d,]+)\]", compiled.as_text())
        assert len(shapes) > 50
        assert [shape for shape in set(shapes) if math.prod(map(int, shape.split(","))) >= length**2] == []
    assert used[1] < 2.2 * used[0], used


def test_the_kernel_refuses_what_it_does_not_compute():
    size = dict(num_heads=2, head_dim=64, dropout=0.0)
    assert kernels.fits(AttentionSpec(**size, window=64), 512)
    assert kernels.fits(GlobalTokensSpec(**size, window=64, global_tokens=0), 512)
    assert not kernels.fits(GlobalTokensSpec(**size, window=64, global_tokens=1), 512)
    assert kernels.fits(BlockSparseSpec(**size, block_size=64, random_blocks=3, longest=4096), 640)
    assert not kernels.fits(BlockSparseSpec(**size, block_size=64, random_blocks=3, longest=4096), 768)


def test_flops_count_what_is_seen():
    def seen(family, length, **numbers):
        section = dict(zip(("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size"), (300, 64, 2, 1, 48)))
        return build_spec(section | {"family": family} | numbers).encoder.attended(length) / 2

    assert seen("longformer", 4096) == 513 and seen("longformer", 4096, global_tokens=2) == 513 + 4 and seen("longformer", 256) == 256
    # 60 blocks see 8 of 64, the second and the last but one 7, the first and the last all.
    assert seen("big_bird", 4096) == (60 * 8 * 64 + 2 * 7 * 64 + 2 * 4096) / 64 and seen("big_bird", 704) == 704
    section = SIZES | {"family": "longformer", "window": 8}
    more = model_flops(build_spec(section | {"global_tokens": 1}), 64, 4) - model_flops(build_spec(section), 64, 4)
    assert more == 6 * 64 * 2 * (2 * 32 * 32) + 12 * 32 * 64 * 2 * 2


@pytest.mark.parametrize(
    "family, change, message",
    [
        ("longformer", {"global_tokens": -1}, "global_tokens is -1"),
        ("longformer", {"window": 7}, "window is 7"),
        ("big_bird", {"block_size": 0}, "block_size is 0"),
        ("big_bird", {"random_blocks": -1}, "random_blocks is -1"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(family, change, message):
    with pytest.raises(ValueError, match=message):
        build_spec(SIZES | {"family": family} | change)
