"""The parts that families choose from: positions, windows, gates, norms, shared layers, and the order of layers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bert_jax.model.attention import attend, attend_in_window, segment_mask
from bert_jax.model.encoder import Encoder
from bert_jax.model.families import build_spec
from bert_jax.model.positions import alibi_bias, alibi_slopes, rotate
from bert_jax.model.spec import AttentionSpec, Compute, EncoderSpec, NormSpec, RopeSpec
from bert_jax.training.metrics import model_flops
from bert_jax.training.state import make_blueprint

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48, "max_positions": 40}
FAMILIES = {
    "academic_bert": {},
    "crammed_bert": {},
    "mosaic_bert": {},
    "modernbert": {"global_every": 2, "window": 6},
    "deberta": {"max_distance": 8},
    "deberta_v2": {"max_distance": 12, "position_buckets": 6, "convolution": 3},
}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


def random_params(shapes, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes)


def section_of(family):
    return SIZES | {"family": family} | FAMILIES[family]


@functools.lru_cache
def outputs(family):
    """(parameters, compiled (params, batch) -> (hidden states of all layers, logits))."""
    blueprint = make_blueprint(build_spec(section_of(family)))

    def run(params, batch):
        model = blueprint.model(params)
        return model.encoder.hidden_states(batch), model(batch)["mlm"]

    return random_params(blueprint.params), jit(run)


def batch_of(ids, segments, positions=None):
    ids, segments = np.asarray(ids, np.int32), np.asarray(segments, np.int32)
    batch = {"input_ids": ids, "segment_ids": segments, "token_type_ids": np.zeros_like(ids)}
    batch["position_ids"] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).astype(np.int32) if positions is None else np.asarray(positions, np.int32)
    return batch | {"mlm_positions": np.broadcast_to(np.arange(ids.shape[1]), ids.shape).astype(np.int32)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packed_document_is_computed_as_if_it_were_alone(family):
    random = np.random.default_rng(0)
    first, second = random.integers(1, 300, 9), random.integers(1, 300, 13)
    params, run = outputs(family)
    packed = batch_of([[*first, *second, 0, 0]], [[1] * 9 + [2] * 13 + [0] * 2], [[*range(9), *range(13), 0, 0]])
    alone = batch_of([[*second, *[0] * 11]], [[1] * 13 + [0] * 11], [[*range(13), *[0] * 11]])
    for together, apart in zip(run(params, packed), run(params, alone)):  # states of all layers, and logits
        together, apart = together[..., 0, 9:22, :], apart[..., 0, :13, :]
        assert np.abs(np.asarray(apart)).max() > 0.1
        np.testing.assert_allclose(together, apart, atol=5e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_order_of_tokens_matters(family):
    """Each family tells positions apart in its own way."""
    ids = np.random.default_rng(1).integers(1, 300, 12)
    params, run = outputs(family)
    one = run(params, batch_of([[*ids, *[0] * 12]], [[1] * 12 + [0] * 12]))[1][0, 0]
    other = run(params, batch_of([[ids[0], *ids[:0:-1], *[0] * 12]], [[1] * 12 + [0] * 12]))[1][0, 0]
    assert np.abs(np.asarray(one - other))[:300].max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_how_it_is_run_changes_nothing(family):
    """Rematerialised and unrolled, with dropout: the same masks are drawn."""
    spec = build_spec(section_of(family) | {"dropout": 0.3, "attention_dropout": 0.3})
    blueprint = make_blueprint(spec)
    params, ids = random_params(blueprint.params), np.random.default_rng(2).integers(1, 300, (2, 16))
    batch = batch_of(ids, np.ones((2, 16)))

    def loss(params, compute):
        model = blueprint.model(params)
        return jnp.square(model.encoder(batch, key=jax.random.key(0), compute=compute, decoder=model.mask_decoder)).mean()

    values = [jit(jax.value_and_grad(functools.partial(loss, compute=compute)))(params) for compute in (Compute(), Compute(remat="full", unroll=2))]
    np.testing.assert_allclose(values[0][0], values[1][0], rtol=1e-6)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4), values[0][1], values[1][1])


@pytest.mark.parametrize("length", [7, 12, 13, 24])
@pytest.mark.parametrize("alibi", [False, True])
def test_a_window_in_blocks_is_the_full_attention_with_a_mask(length, alibi):
    """Also at the edges of rows and documents, and where the length is no multiple of the block."""
    kind = AttentionSpec(num_heads=2, head_dim=4, dropout=0.0, alibi=alibi, window=6)
    random = np.random.default_rng(length)
    query, key, value = random.normal(size=(3, 2, length, 2, 4)).astype(np.float32)
    segments = np.sort(random.integers(1, 3, (2, length)), axis=1)
    segments[1, -2:] = 0
    near = np.abs(np.arange(length)[:, None] - np.arange(length)) <= 3
    bias = alibi_bias(2, length) if alibi else None
    expected = attend(query, key, value, segment_mask(segments) & near, 0.0, None, bias)
    found = attend_in_window(query, key, value, jnp.asarray(segments), kind, None)
    real = segments > 0
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(expected)[real], atol=1e-5)


def test_a_window_never_makes_a_matrix_of_length_by_length():
    kind, length = AttentionSpec(num_heads=2, head_dim=4, dropout=0.0, window=8), 512
    shaped = jax.ShapeDtypeStruct((1, length, 2, 4), jnp.float32)
    run = functools.partial(attend_in_window, kind=kind, dropout_key=None)
    jaxpr = jax.make_jaxpr(run)(shaped, shaped, shaped, jax.ShapeDtypeStruct((1, length), jnp.int32))
    largest = max(variable.aval.size for equation in jaxpr.jaxpr.eqns for variable in equation.outvars)
    assert largest <= length * 2 * 3 * 4 * 4  # keys of three blocks for each head, or their features


def test_rotary_scores_depend_on_distance_alone():
    random, rope = np.random.default_rng(3), RopeSpec(100.0)
    query, key = (np.tile(random.normal(size=(1, 1, 1, 8)).astype(np.float32), (1, 20, 1, 1)) for _ in range(2))
    scores = np.einsum("bqhc,bkhc->qk", rotate(query, rope), rotate(key, rope))
    for shift in (1, 5, -3):
        diagonal = np.diagonal(scores, shift)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.ptp(scores[0]) > 0.1


def test_slopes_are_the_published_ones():
    np.testing.assert_allclose(alibi_slopes(8), 2.0 ** -np.arange(1, 9))
    np.testing.assert_allclose(alibi_slopes(12), [*2.0 ** -np.arange(1, 9), *2.0 ** -(np.arange(4) + 0.5)])


def test_rms_norm_does_not_centre():
    spec = build_spec(section_of("academic_bert"))
    encoder = dataclasses.replace(spec.encoder, norm=NormSpec(1e-6, "rms", bias=False), num_layers=1)
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Encoder(encoder, rngs=nnx.Rngs(params=0))))
    params = nnx.to_pure_dict(shapes)
    assert "bias" not in params["final_norm"]
    params = random_params(params) | {"final_norm": {"scale": np.full(32, 2.0, np.float32)}}
    last = np.asarray(nnx.merge(graphdef, params)(batch_of(np.ones((1, 8)), np.ones((1, 8)))))
    np.testing.assert_allclose(np.sqrt(np.square(last).mean(-1)), 2.0, rtol=1e-4)
    assert np.abs(last.mean(-1)).max() > 0.05


@functools.lru_cache
def shared(groups):
    spec = dataclasses.replace(build_spec(section_of("academic_bert")).encoder, num_layers=4, layer_groups=groups)
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Encoder(spec, rngs=nnx.Rngs(params=0))))
    return graphdef, random_params(nnx.to_pure_dict(shapes))


def test_layers_of_a_group_share_their_parameters():
    """Two groups of two layers are four layers of which two are copies."""
    graphdef, params = shared(2)
    whole, _ = shared(None)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(params["layers"])} == {2}
    copied = params | {"layers": jax.tree.map(lambda leaf: np.repeat(leaf, 2, axis=0), params["layers"])}
    batch = batch_of(np.random.default_rng(4).integers(1, 300, (2, 10)), np.ones((2, 10)))
    found, expected = (nnx.merge(*both).hidden_states(batch) for both in ((graphdef, params), (whole, copied)))
    assert found.shape[0] == 5
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_pattern_counts_from_the_first_layer():
    spec = build_spec(SIZES | {"family": "modernbert", "num_layers": 22, "window": 4}).encoder
    assert [kind.window for kind in spec.kinds] == [None, 4, 4] and spec.first_layers == 1
    assert spec.attended(40) == 8 * 40 + 14 * 5
    tree = make_blueprint(build_spec(SIZES | {"family": "modernbert", "num_layers": 22})).params["encoder"]
    assert "attention_norm" not in tree["first"]["0"] and "attention_norm" in tree["layers"]["blocks"]["0"]
    assert tree["layers"]["blocks"]["2"]["mlp"]["up"]["kernel"].shape == (7, 32, 2, 48)


# Mosaic's and ModernBERT's models on the Hugging Face hub have 137M and 150M/396M parameters, Cramming's about 120M (section 4.2).
@pytest.mark.parametrize(
    "family, sizes, millions",
    [
        ("mosaic_bert", (30_522, 768, 12, 12, 3072), 137.4),
        ("crammed_bert", (32_768, 768, 16, 12, 1536), 119.6),
        ("modernbert", (50_368, 768, 22, 12, 1152), 149.7),
        ("modernbert", (50_368, 1024, 28, 16, 2624), 395.9),
        ("academic_bert", (30_522, 1024, 24, 16, 4096), 335.2),
    ],
)
def test_published_sizes_give_the_published_parameters(family, sizes, millions):
    names = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
    assert round(make_blueprint(build_spec({"family": family} | dict(zip(names, sizes)))).num_params / 1e6, 1) == millions


def test_flops_count_gates_and_windows():
    base = SIZES | {"family": "modernbert", "num_layers": 2, "global_every": 2, "window": 4}
    flops = model_flops(build_spec(base), 32, 4)
    weights, seen, head = 2 * (4 * 32 * 32 + 3 * 32 * 48), 32 + 5, 4 * (32 * 32 + 32 * 300)
    assert flops == 6 * weights * 32 + 12 * 32 * 32 * seen + 6 * head


@pytest.mark.parametrize(
    "change, message",
    [
        ({"first_norm": False, "pre_norm": False}, "first_norm"),
        ({"layer_groups": 2, "num_layers": 3}, "layer_groups is 2"),
        ({"pattern": (AttentionSpec(2, 16, 0.0),)}, "differs"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(change, message):
    spec: EncoderSpec = build_spec(SIZES | {"family": "bert"}).encoder
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(spec, **change)
