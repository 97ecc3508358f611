"""Disentangled attention and the mask decoder: relative positions are the published ones, scores meet them at their distances without a gather, and masked
tokens are predicted as the published decoder predicts them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers.models.deberta_v2 import modeling_deberta_v2

from bert_jax.model import kernels
from bert_jax.model.attention import Context
from bert_jax.model.disentangled import BLOCK, shifted_scores, table_rows
from bert_jax.model.families import build_spec
from bert_jax.model.spec import AttentionSpec, Compute, DisentangledSpec, RopeSpec
from bert_jax.training.metrics import model_flops
from bert_jax.training.state import make_blueprint
from tests.model.test_parity import random_batch, random_params, stock

SECTION = {
    "family": "deberta_v2", "vocab_size": 300, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48, "max_positions": 40,
    "max_distance": 20, "position_buckets": 8,
}  # fmt: skip
SPEC = build_spec(SECTION)
kind = functools.partial(DisentangledSpec, num_heads=4, head_dim=8, dropout=0.1)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


@pytest.mark.parametrize("buckets, max_distance", [(256, 512), (256, 1024), (32, 128), (4, 40)])
def test_buckets_are_the_published_ones(buckets, max_distance):
    distances = np.arange(-2 * max_distance, 2 * max_distance + 1)
    theirs = modeling_deberta_v2.make_log_bucket_position(torch.from_numpy(distances), buckets, max_distance).long().numpy()
    rows = table_rows(distances, kind(max_distance=max_distance, buckets=buckets))
    np.testing.assert_array_equal(rows, np.clip(theirs + buckets, 0, 2 * buckets - 1))
    assert rows.min() == 0 and rows.max() == 2 * buckets - 1 and (np.diff(rows) >= 0).all()


def test_distances_without_buckets_are_clipped():
    assert table_rows(np.array([-9, -4, -1, 0, 3, 4]), kind(max_distance=4)).tolist() == [0, 0, 3, 4, 7, 7]


@pytest.mark.parametrize("length", [1, 7, BLOCK, 2 * BLOCK])
def test_scores_meet_positions_at_their_distance(length):
    """In one block and in several."""
    random = np.random.default_rng(length)
    x, positions = random.normal(size=(2, length, 3, 4)).astype(np.float32), random.normal(size=(2 * length, 3, 4)).astype(np.float32)
    place = np.arange(length)
    every = np.einsum("bihc,jhc->bhij", x, positions)
    expected = every[:, :, place[:, None], place[None, :] - place[:, None] + length - 1]
    np.testing.assert_allclose(shifted_scores(jnp.asarray(x), jnp.asarray(positions)), expected, atol=1e-5)


def test_nothing_is_larger_than_the_scores_and_a_block_and_nothing_is_gathered():
    """Forwards and backwards, of one layer's attention; the table's rows are looked up before, once for all layers."""
    rows, length, heads, size = 2, 4 * BLOCK, 3, 4
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, length, heads, size), (2 * length, heads, size))]
    text = jax.jit(jax.grad(lambda x, positions: jnp.square(shifted_scores(x, positions)).sum(), argnums=(0, 1))).lower(*shapes)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x, positions: jnp.square(shifted_scores(x, positions)).sum(), argnums=(0, 1)))(*shapes)
    largest = max(variable.aval.size for equation in jaxpr.jaxpr.eqns for variable in equation.outvars)
    assert largest <= rows * heads * length * (length + BLOCK)
    assert "gather" not in text.as_text() and "scatter" not in text.as_text()


def test_the_mask_decoder_is_the_published_one():
    """transformers' last layer, run twice on its input, with queries that begin with absolute positions (microsoft/DeBERTa, `emd_context_layer`)."""
    params, batch = random_params(SPEC), random_batch(SPEC)
    plain = {name: value for name, value in params.items() if name != "mask_decoder"}
    model = stock(SECTION | {"mask_decoder": False}, plain)
    mask = torch.from_numpy(batch["segment_ids"]).long()
    with torch.no_grad():
        states = model.deberta(torch.from_numpy(batch["input_ids"]).long(), mask, output_hidden_states=True).hidden_states
        encoder, memory = model.deberta.encoder, states[-2]
        queries = memory + torch.from_numpy(params["mask_decoder"]["positions"]["embedding"])[None, : memory.shape[1]]
        for _ in range(2):
            queries, _ = encoder.layer[-1](
                memory, encoder.get_attention_mask(mask), query_states=queries, relative_pos=encoder.get_rel_pos(memory), rel_embeddings=encoder.get_rel_embedding()
            )
        theirs = model.lm_predictions(queries, model.deberta.embeddings.word_embeddings).numpy()
        without = model.lm_predictions(states[-1], model.deberta.embeddings.word_embeddings).numpy()
    ours = jit(lambda params: make_blueprint(SPEC).model(params)(batch)["mlm"])(params)[..., : SECTION["vocab_size"]]
    used = batch["mlm_weights"] > 0
    theirs, without = (np.take_along_axis(logits, batch["mlm_positions"][:, :, None], axis=1) for logits in (theirs, without))
    np.testing.assert_allclose(np.asarray(ours)[used], theirs[used], atol=1e-4)
    assert np.abs(theirs - without)[used].max() > 0.5


def test_dropout_acts_on_relative_positions():
    """What attention gives has met no other dropout."""
    spec = build_spec(SECTION | {"dropout": 0.5, "attention_dropout": 0.0, "mask_decoder": False})
    model, kind = make_blueprint(spec).model(random_params(spec)), spec.encoder.attention
    attention, layer = model.encoder.layers.attention, jax.tree.map(lambda leaf: leaf[0], random_params(spec)["encoder"]["layers"]["attention"])
    attention = nnx.merge(nnx.split(attention)[0], layer)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 32)), jnp.float32)
    context = Context(jnp.ones((1, 6), jnp.int32), relative=model.encoder.relative(6, jnp.float32))
    found = [attention(x, kind, context, key, Compute()) for key in (None, jax.random.key(0), jax.random.key(0), jax.random.key(1))]
    np.testing.assert_array_equal(found[1], found[2])
    assert all(np.abs(one - other).max() > 1e-3 for one, other in ((found[0], found[1]), (found[1], found[3])))


def test_flops_count_relative_positions_the_convolution_and_the_decoder():
    spec = build_spec(SECTION | {"convolution": 3})
    layers, length = SECTION["num_layers"] + 1, 24
    weights = layers * (4 * 32 * 32 + 2 * 32 * 48) + 3 * 32 * 32
    seen = layers * (length + 2 * 8)
    assert model_flops(spec, length, 5) == 6 * weights * length + 12 * 32 * length * seen + 6 * 5 * (32 * 32 + 32 * 300)
    assert model_flops(build_spec(SECTION | {"mask_decoder": False}), length, 0) == 3 / 4 * model_flops(SPEC, length, 0)


def test_the_kernel_does_not_take_it():
    heads = dict(num_heads=12, head_dim=64, dropout=0.1)
    assert kernels.fits(AttentionSpec(**heads), 512) and not kernels.fits(DisentangledSpec(**heads, max_distance=512), 512)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: kind(max_distance=100, buckets=256), "buckets is 256"),
        (lambda: dataclasses.replace(SPEC.encoder.attention, rope=RopeSpec(100.0)), "Disentangled"),
        (lambda: build_spec(SECTION | {"input_positions": True}), "mask_decoder needs"),
        (lambda: build_spec(SECTION | {"num_layers": 1, "convolution": 3}), "mask_decoder needs"),
        (lambda: build_spec(SECTION | {"convolution": 2}), "convolution is 2"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
