"""The model computes what transformers' models compute, logits and gradients, in float32; how it is run changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from bert_jax.interop import architectures, weights
from bert_jax.model.families import build_spec
from bert_jax.model.heads import PretrainingModel
from bert_jax.model.spec import Compute

BASE = {
    "family": "bert",
    "vocab_size": 300,  # padded to 384 rows
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_positions": 40,
}
SHAPES = {
    "base": {},
    "tanh_gelu": {"activation": "gelu_tanh", "num_layers": 2},
    "wide_one_head": {"hidden_size": 64, "num_heads": 1, "intermediate_size": 96, "num_layers": 2, "vocab_size": 257},
    "mlm_only": {"nsp": False, "norm_eps": 1e-3, "activation": "relu", "num_layers": 2, "type_vocab_size": 3, "vocab_size": 256},
    "roberta": {"family": "roberta", "num_layers": 2},
    "xlm_roberta_xl": {"family": "xlm_roberta_xl", "num_layers": 2},
    "distilbert": {"family": "distilbert", "num_layers": 2},
    "electra_generator": {"family": "electra_generator", "num_layers": 2, "embedding_size": 16},
    "albert": {"family": "albert", "num_layers": 4, "layer_groups": 2, "embedding_size": 16},
    # Distances beyond 9 are clipped, those beyond 4 share buckets; rows have 23 tokens.
    "deberta": {"family": "deberta", "num_layers": 2, "max_distance": 9, "input_positions": True, "mask_decoder": False, "type_vocab_size": 2},
    "deberta_v2": {"family": "deberta_v2", "num_layers": 3, "max_distance": 20, "position_buckets": 8, "convolution": 3, "mask_decoder": False},
    # The first layer is held apart, the others are two periods of local, global; the window is shorter than the rows.
    "modernbert": {"family": "modernbert", "num_layers": 5, "global_every": 2, "window": 8, "local_rope_base": 100.0},
}

# Halves the time to compile; the tests run for milliseconds.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


@functools.lru_cache
def graph(spec):
    graphdef, state = nnx.split(nnx.eval_shape(lambda: PretrainingModel(spec, rngs=nnx.Rngs(params=0))))
    return graphdef, nnx.to_pure_dict(state)


def random_params(spec, seed: int = 0) -> dict:
    """Every parameter random, so that none is without effect; the padding rows of the vocabulary too, for they must not matter."""
    random = np.random.default_rng(seed)
    return jax.tree.map_with_path(
        lambda path, leaf: random.normal(float(path[-1].key == "scale"), 0.2, leaf.shape).astype(np.float32), graph(spec)[1]
    )


def random_batch(spec, rows: int = 5, length: int = 23, slots: int = 4, seed: int = 1) -> dict:
    """Rows of different lengths in two segments; unused prediction slots at the end of each row. No real token has the id of padding."""
    random = np.random.default_rng(seed)
    pad = max(spec.encoder.embedding.position_offset - 1, 0)
    lengths = np.linspace(6, length, rows).astype(int)
    place = np.arange(length)
    real = place < lengths[:, None]
    positions = np.stack([np.sort(random.choice(np.arange(1, n), slots, replace=False)) for n in lengths])
    weights = (np.arange(slots) < random.integers(1, slots + 1, rows)[:, None]).astype(np.float32)
    used = weights > 0
    return {
        "input_ids": np.where(real, random.integers(pad + 1, spec.encoder.embedding.vocab_size, (rows, length)), pad).astype(np.int32),
        "token_type_ids": (real & (place >= lengths[:, None] // 2)).astype(np.int32),
        "segment_ids": real.astype(np.int32),
        "mlm_positions": np.where(used, positions, 0).astype(np.int32),
        "mlm_targets": np.where(used, random.integers(1, spec.encoder.embedding.vocab_size, (rows, slots)), 0).astype(np.int32),
        "mlm_weights": weights,
        "nsp_labels": random.integers(0, 2, rows).astype(np.int32),
    }


def loss(params, batch, *, spec, compute=Compute(), key=None):
    """Sum of the cross entropies of all predictions and next-sentence labels, and the logits."""
    logits = nnx.merge(graph(spec)[0], params)(batch, key=key, compute=compute)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits["mlm"]), batch["mlm_targets"][:, :, None], axis=-1)[:, :, 0]
    total = -(chosen * batch["mlm_weights"]).sum()
    if spec.nsp:
        total -= jnp.take_along_axis(jax.nn.log_softmax(logits["nsp"]), batch["nsp_labels"][:, None], axis=-1).sum()
    return total, logits


@functools.lru_cache
def loss_and_gradients(spec, compute=Compute()):
    """Compiled (params, batch, key) -> ((loss, logits), gradients)."""
    return jit(jax.value_and_grad(lambda params, batch, key=None: loss(params, batch, spec=spec, compute=compute, key=key), has_aux=True))


def stock(section, params):
    """transformers' model with our parameters."""
    spec, architecture = build_spec(section), architectures.ARCHITECTURES[section["family"]]
    pad = max(spec.encoder.embedding.position_offset - 1, 0)
    config = architectures.config_from_section(section, pad=pad, cls=0, sep=2)
    config = transformers.AutoConfig.for_model(**config, attn_implementation="eager")
    model = getattr(transformers, config.architectures[0])(config).eval()
    tensors = {name: torch.from_numpy(array) for name, array in weights.to_tensors(params, spec, architecture.naming).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert set(missing) == architecture.naming.tied.keys() & model.state_dict().keys() and not unexpected
    model.tie_weights()
    return model


def architecture_of(model):
    return next(one for one in architectures.ARCHITECTURES.values() if one.model_type == model.config.model_type)


def pair_logits(model):
    return architecture_of(model).pair_logits


def inputs_of(batch, spec):
    """Token types only for a model that tells them apart; ours is given them all the same."""
    fields = {"input_ids": "input_ids", "attention_mask": "segment_ids"}
    fields |= {"token_type_ids": "token_type_ids"} if spec.encoder.embedding.type_vocab_size > 1 else {}
    return {name: torch.from_numpy(batch[field]).long() for name, field in fields.items()}


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def both(request):
    """(spec, batch, our result, their model after backward, their outputs, their loss)."""
    section = BASE | SHAPES[request.param]
    spec = build_spec(section)
    params, batch = random_params(spec), random_batch(spec)
    model = stock(section, params)
    outputs = model(**inputs_of(batch, spec))
    tensors = {name: torch.from_numpy(array).long() for name, array in batch.items() if name != "mlm_weights"}
    mlm = outputs.prediction_logits if spec.nsp else outputs.logits
    used = batch["mlm_weights"] > 0
    row, slot = np.nonzero(used)
    predictions = mlm[row, batch["mlm_positions"][row, slot]]
    total = torch.nn.functional.cross_entropy(predictions, tensors["mlm_targets"][row, slot], reduction="sum")
    if spec.nsp:
        total = total + torch.nn.functional.cross_entropy(outputs[pair_logits(model)], tensors["nsp_labels"], reduction="sum")
    total.backward()
    return spec, batch, loss_and_gradients(spec)(params, batch), model, outputs, total.item()


def test_logits(both):
    spec, batch, ((total, logits), _), model, outputs, expected = both
    vocab_size = spec.encoder.embedding.vocab_size
    mlm = (outputs.prediction_logits if spec.nsp else outputs.logits).detach().numpy()
    theirs = np.take_along_axis(mlm, batch["mlm_positions"][:, :, None], axis=1)
    assert np.abs(theirs).max() > 2  # far from a model that says nothing
    np.testing.assert_allclose(logits["mlm"][..., :vocab_size], theirs, atol=1e-4, rtol=0)
    assert ("nsp" in logits) == spec.nsp
    if spec.nsp:
        np.testing.assert_allclose(logits["nsp"], outputs[pair_logits(model)].detach().numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_gradients(both):
    """Of every parameter, through the name table; relative to the largest gradient of the tensor.

    A key's bias shifts all scores of a query alike, so that its gradient is zero but for rounding: it is judged by the query bias's size.
    """
    spec, _, (_, gradients), model, _, _ = both
    naming = architecture_of(model).naming
    ours, tied = weights.to_tensors(gradients, spec, naming), naming.tied
    theirs = {name: parameter.grad.numpy() for name, parameter in model.named_parameters(remove_duplicate=False) if name not in tied}
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = np.abs(theirs[name.replace("key.bias", "query.bias").replace("k_lin.bias", "q_lin.bias")]).max()
        assert scale > 1e-3, name
        assert np.abs(ours[name] - expected).max() / scale < 1e-4, name


def test_hidden_states(both):
    """The embeddings' output and every layer's, the last being the encoder's output."""
    spec, batch, _, model, _, _ = both
    ours = jit(lambda params: nnx.merge(graph(spec)[0], params).encoder.hidden_states(batch))(jax.device_put(random_params(spec)))
    assert ours.shape[0] == spec.encoder.num_layers + 1
    with torch.no_grad():
        theirs = model.base_model(**inputs_of(batch, spec), output_hidden_states=True)
    real = batch["segment_ids"] > 0
    for one, reference in zip(ours, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(np.asarray(one)[real], reference.numpy()[real], atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.asarray(ours[-1])[real], theirs.last_hidden_state.numpy()[real], atol=1e-4, rtol=0)


SPEC = build_spec(BASE)
PARAMS = random_params(SPEC)
BATCH = random_batch(SPEC)


@functools.lru_cache
def reference():
    return loss_and_gradients(SPEC)(PARAMS, BATCH)


def assert_trees_close(actual, expected, tolerance):
    """Relative to each leaf's largest value; a leaf of small ones (the key's bias, see above) to a tenth of the largest of all."""
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for (path, one), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        scale = max(float(np.abs(other).max()), 0.1 * largest)
        assert np.abs(np.asarray(one) - np.asarray(other)).max() / scale < tolerance, jax.tree_util.keystr(path)


def test_padding_rows_of_the_vocabulary_never_leak():
    (_, logits), gradients = reference()
    mlm = np.asarray(logits["mlm"])
    assert mlm.shape[-1] == 384
    np.testing.assert_array_equal(jax.nn.softmax(mlm)[..., 300:], 0.0)
    np.testing.assert_allclose(jax.nn.log_softmax(mlm)[..., :300], jax.nn.log_softmax(mlm[..., :300]), atol=1e-5)
    assert mlm.argmax(-1).max() < 300
    for gradient in (gradients["encoder"]["embed"]["tokens"]["embedding"], gradients["mlm_head"]["bias"]):
        np.testing.assert_array_equal(gradient[300:], 0.0)
        assert np.abs(gradient[:300]).max() > 0


@pytest.mark.parametrize("compute", [Compute(unroll=3), Compute(remat="elementwise"), Compute(remat="dots"), Compute(remat="full", unroll=2)], ids=str)
def test_how_it_is_run_changes_neither_logits_nor_gradients(compute):
    (total, logits), gradients = loss_and_gradients(SPEC, compute)(PARAMS, BATCH)
    (expected, expected_logits), expected_gradients = reference()
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    for name, array in expected_logits.items():
        np.testing.assert_allclose(logits[name], array, atol=1e-5)
    assert_trees_close(gradients, expected_gradients, 1e-5)


def test_bfloat16_is_close():
    """bfloat16 keeps 8 bits, so 1 part in 256 per rounding; logits and parameters' gradients are float32 all the same."""
    (total, logits), gradients = loss_and_gradients(SPEC, Compute(dtype="bfloat16"))(PARAMS, BATCH)
    (expected, expected_logits), expected_gradients = reference()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((logits, gradients)))
    np.testing.assert_allclose(total, expected, rtol=0.02)
    deviation = np.abs(logits["mlm"] - expected_logits["mlm"])[..., :300]
    assert deviation.max() > 1e-4  # it did compute in bfloat16
    assert deviation.mean() / np.abs(expected_logits["mlm"][..., :300]).mean() < 0.03
    flat, flat_expected = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (gradients, expected_gradients))
    assert flat @ flat_expected / np.linalg.norm(flat) / np.linalg.norm(flat_expected) > 0.99


def test_dropout_needs_a_key_and_follows_it():
    run = loss_and_gradients(SPEC)
    assert run(PARAMS, BATCH)[0][0] == reference()[0][0]
    first, again, other = (run(PARAMS, BATCH, jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert first[0][0] != other[0][0] and first[0][0] != reference()[0][0]


SILENT = {  # parameters that, at zero, leave dropout in one place only
    "attention probabilities": ("embed.norm", "layers.mlp.down"),
    "attention output": ("embed.norm", "layers.mlp.down"),
    "MLP output": ("embed.norm", "layers.attention.output"),
    "embeddings": ("layers.attention.output", "layers.mlp.down"),
}


@pytest.mark.parametrize("place", SILENT)
def test_dropout_acts_in_each_of_its_four_places(place):
    rates = {"dropout": 0.0, "attention_dropout": 0.5} if place == "attention probabilities" else {"dropout": 0.5, "attention_dropout": 0.0}
    spec = build_spec(BASE | rates)
    encoder = jax.tree.map_with_path(
        lambda path, leaf: leaf * 0 if ".".join(part.key for part in path).startswith(SILENT[place]) else leaf, PARAMS["encoder"]
    )
    run = jit(functools.partial(loss, spec=spec))
    totals = {float(run(PARAMS | {"encoder": encoder}, BATCH, key=key)[0]) for key in (None, *jax.random.split(jax.random.key(0), 2))}
    assert len(totals) == 3


def test_without_dropout_a_key_changes_nothing():
    spec = build_spec(BASE | {"dropout": 0.0, "attention_dropout": 0.0})
    total, _ = jit(functools.partial(loss, spec=spec))(PARAMS, BATCH, key=jax.random.key(0))
    np.testing.assert_allclose(total, reference()[0][0], rtol=1e-6)


def test_remat_draws_the_same_dropout():
    key = jax.random.key(3)
    (total, _), gradients = loss_and_gradients(SPEC)(PARAMS, BATCH, key)
    (remat_total, _), remat_gradients = loss_and_gradients(SPEC, Compute(remat="full"))(PARAMS, BATCH, key)
    np.testing.assert_allclose(remat_total, total, rtol=1e-6)
    assert_trees_close(remat_gradients, gradients, 1e-5)


@functools.lru_cache
def encode():
    run = jit(lambda params, batch: nnx.merge(graph(SPEC)[0], params).encoder.hidden_states(batch))
    return functools.partial(run, PARAMS)


def test_packed_documents_do_not_see_each_other():
    """A row of two documents with restarted positions equals the two run alone; so do their lengths' padding and neighbours."""
    random = np.random.default_rng(4)
    first, second, length = 9, 11, 23
    ids = random.integers(1, 300, first + second).astype(np.int32)
    types = random.integers(0, 2, first + second).astype(np.int32)

    def row(parts):
        batch = {name: np.zeros((1, length), np.int32) for name in ("input_ids", "token_type_ids", "segment_ids", "position_ids")}
        start = 0
        for number, (begin, end) in enumerate(parts, 1):
            place = slice(start, start + end - begin)
            batch["input_ids"][0, place], batch["token_type_ids"][0, place] = ids[begin:end], types[begin:end]
            batch["segment_ids"][0, place], batch["position_ids"][0, place] = number, np.arange(end - begin)
            start += end - begin
        return batch

    packed = encode()(row([(0, first), (first, first + second)]))
    np.testing.assert_allclose(packed[:, 0, :first], encode()(row([(0, first)]))[:, 0, :first], atol=1e-5)
    np.testing.assert_allclose(packed[:, 0, first : first + second], encode()(row([(first, first + second)]))[:, 0, :second], atol=1e-5)
    joined = row([(0, first), (first, first + second)])
    joined["segment_ids"] = np.minimum(joined["segment_ids"], 1)
    assert np.abs(packed - encode()(joined))[-1, 0, : first + second].max() > 0.1  # the segments did something


def test_what_stands_at_padding_does_not_matter():
    changed = dict(BATCH) | {"input_ids": np.where(BATCH["segment_ids"] > 0, BATCH["input_ids"], 77).astype(np.int32)}
    (total, _), _ = loss_and_gradients(SPEC)(PARAMS, changed)
    np.testing.assert_allclose(total, reference()[0][0], rtol=1e-6)


def test_positions_default_to_the_row_and_are_bounded():
    fields = {name: BATCH[name] for name in ("input_ids", "token_type_ids", "segment_ids")}
    explicit = fields | {"position_ids": np.broadcast_to(np.arange(23, dtype=np.int32), (5, 23))}
    np.testing.assert_allclose(encode()(fields), encode()(explicit), atol=1e-6)
    with pytest.raises(ValueError, match="length 41 is over the model's max_positions 40"):
        encode()({name: np.zeros((1, 41), np.int32) for name in fields})


def test_positions_begin_at_the_offset_and_packed_documents_restart_there():
    spec = build_spec(BASE | {"family": "roberta", "position_offset": 3})
    assert spec.encoder.embedding.position_rows == 43
    embed = nnx.merge(graph(spec)[0], random_params(spec)).encoder.embed

    def table_rows(count, position_ids):
        """The row of the position table that each place has."""
        ids = jnp.zeros((1, count), jnp.int32)
        embed.norm = lambda x: x  # the plain sum
        rows = embed(ids, ids, position_ids, None, jnp.float32)[0] - embed.tokens(ids, jnp.float32)[0] - embed.token_types.embedding[...][0]
        return np.abs(np.asarray(rows)[:, None] - np.asarray(embed.positions.embedding[...])).max(-1).argmin(1).tolist()

    assert table_rows(40, None) == list(range(3, 43))
    assert table_rows(5, jnp.array([[0, 1, 2, 0, 1]])) == [3, 4, 5, 3, 4]
    with pytest.raises(ValueError, match="length 41 is over the model's max_positions 40"):
        table_rows(41, None)
