"""A model for long inputs begins as one for short inputs, and computes the same while these are short."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from bert_jax.model.families import build_spec
from bert_jax.model.lengthening import differences, lengthened_params
from bert_jax.training.state import make_blueprint
from tests.model.test_long_attention import batch_of, jit

SIZES = {"vocab_size": 300, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
ROBERTA = SIZES | {"family": "roberta", "max_positions": 20}
BERT = SIZES | {"family": "bert", "max_positions": 20, "nsp": False}
CASES = {
    "longformer": (ROBERTA, SIZES | {"family": "longformer", "max_positions": 50, "window": 40, "global_tokens": 1}),
    "big_bird": (BERT, SIZES | {"family": "big_bird", "max_positions": 50, "block_size": 4, "activation": "gelu"}),
}


@pytest.fixture(scope="module", params=CASES)
def models(request):
    """(blueprint, parameters) of the short model and of the long one that begins as it."""
    short, long = (make_blueprint(build_spec(section)) for section in CASES[request.param])
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32), short.params)
    fresh = jax.tree.map(lambda leaf: random.normal(0.0, 0.3, leaf.shape).astype(np.float32), long.params)
    assert differences(long.spec, short.spec) == []
    return (short, params), (long, lengthened_params(fresh, long.spec, params, short.spec)), fresh


def test_positions_are_tiled_and_projections_copied(models):
    (short, params), (long, begun), fresh = models
    shapes = jax.tree.map(lambda leaf: leaf.shape, begun)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, long.params)
    ours, theirs, others = (traverse_util.flatten_dict(tree, sep=".") for tree in (begun, params, fresh))
    rows, held = ours.pop("encoder.embed.positions.embedding"), theirs["encoder.embed.positions.embedding"]
    offset = short.spec.encoder.embedding.position_offset
    np.testing.assert_array_equal(rows[long.spec.encoder.embedding.position_offset :], np.concatenate([held[offset:]] * 3)[:50])
    for path, array in ours.items():
        if path in theirs or "_global" in path:
            np.testing.assert_array_equal(array, theirs[path.replace("_global", "")], err_msg=path)
        else:
            assert path.startswith("pooler")
            np.testing.assert_array_equal(array, others[path], err_msg=path)


def test_a_short_input_gives_the_same(models):
    """All that the window or the blocks leave out lies beyond it, and a global token's projections begin as those of the others."""
    batch = batch_of(2, 20) | {"mlm_positions": np.arange(20)[None].repeat(2, axis=0)}
    found, expected = (jit(lambda params, model=model: model.model(params)(batch)["mlm"])(params) for model, params in models[:2])
    np.testing.assert_allclose(found[..., :300], expected[..., :300], atol=2e-5)


def test_what_stands_against_it_is_named():
    def stands(long, short):
        return " ".join(differences(*(build_spec(SIZES | section) for section in (long, short))))

    assert "embedding.type_vocab_size: 1, 2" in stands({"family": "longformer"}, {"family": "bert"})
    assert "num_layers: 3, 2" in stands({"family": "longformer", "num_layers": 3}, {"family": "roberta"})
    assert "MlpSpec" in stands({"family": "big_bird"}, {"family": "bert"})  # another activation
    assert "max_positions: 512, 512" in stands({"family": "longformer", "max_positions": 512}, {"family": "roberta"})
    assert "attention.rope" in stands({"family": "longformer"}, {"family": "modernbert"})
