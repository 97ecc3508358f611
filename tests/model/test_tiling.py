"""A larger model that begins as a smaller one tiled: what lies in the middle, what around it, and which layer is which."""

import jax
import numpy as np
import pytest

from bert_jax.model.depth import layers_of, outside_layers
from bert_jax.model.families import build_spec
from bert_jax.model.tiling import layer_sources, tile, tiled_params
from bert_jax.training.state import make_blueprint

SMALL = {"family": "modernbert", "vocab_size": 200, "hidden_size": 24, "num_layers": 4, "num_heads": 3, "intermediate_size": 20, "max_positions": 32}
LARGE = SMALL | {"hidden_size": 40, "num_layers": 6, "num_heads": 5, "intermediate_size": 36}


def drawn(section, seed):
    blueprint, random = make_blueprint(build_spec(section)), np.random.default_rng(seed)
    return blueprint.spec, jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), blueprint.params)


@pytest.fixture(scope="module")
def grown():
    """(smaller spec and parameters, larger spec, its fresh parameters, and the tiled ones)."""
    smaller_spec, smaller = drawn(SMALL, 0)
    spec, fresh = drawn(LARGE, 1)
    return smaller_spec, smaller, spec, fresh, tiled_params(fresh, spec, smaller, smaller_spec)


def middle(array, shape):
    """The part of `array`, of this shape, in its middle."""
    return array[tuple(slice((size - part) // 2, (size - part) // 2 + part) for size, part in zip(array.shape, shape))]


def test_edges_continue_the_middle_around():
    np.testing.assert_array_equal(tile(np.arange(4), (9,)), [2, 3, 0, 1, 2, 3, 0, 1, 2])
    square = np.arange(12).reshape(3, 4)
    tiled = tile(square, (6, 7))
    np.testing.assert_array_equal(middle(tiled, (3, 4)), square)
    np.testing.assert_array_equal(tiled[:3, 1:5], square[[2, 0, 1]])
    np.testing.assert_array_equal(tiled[3:], tiled[:3])
    with pytest.raises(ValueError, match="no axis may become shorter"):
        tile(square, (6, 3))


def test_layers_of_large_are_mapped_as_published():
    """As AnswerDotAI/ModernBERT's round(i * 22 / 28)."""
    assert layer_sources(22, 28) == [0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12, 13, 13, 14, 15, 16, 16, 17, 18, 19, 20, 20, 21]
    assert layer_sources(2, 12)[-1] == 1 and layer_sources(3, 3) == [0, 1, 2]


def test_every_array_has_the_smaller_models_in_its_middle(grown):
    smaller_spec, smaller, spec, fresh, tiled = grown
    assert jax.tree.map(np.shape, tiled) == jax.tree.map(np.shape, fresh)
    before, after = layers_of(smaller, smaller_spec), layers_of(tiled, spec)
    pairs = [(name, after[layer][name], before[source][name]) for layer, source in enumerate(layer_sources(4, 6)) for name in after[layer] if name in before[source]]
    outside = outside_layers(smaller, smaller_spec)
    pairs += [(name, leaf, outside[name]) for name, leaf in outside_layers(tiled, spec).items()]
    assert len(pairs) > 40
    for name, large, small in pairs:
        np.testing.assert_array_equal(middle(large, small.shape), small, err_msg=name)
        assert set(np.unique(large)) == set(np.unique(small)), name


def test_heads_stay_whole(grown):
    """Query, key and value of head j are those of head j - 1 of the smaller model, around."""
    smaller_spec, smaller, spec, _, tiled = grown
    large, small = layers_of(tiled, spec)[0], layers_of(smaller, smaller_spec)[0]
    for name in ("attention.query.kernel", "attention.key.kernel", "attention.value.kernel"):
        for head in range(5):
            np.testing.assert_array_equal(large[name][8:32, head], small[name][:, (head - 1) % 3])


def test_a_norm_that_the_first_layer_lacks_stays_fresh():
    """Where a layer of the larger model begins as the smaller one's first, which has no norm before its attention."""
    smaller_spec, smaller = drawn(SMALL | {"num_layers": 1, "global_every": 1}, 0)
    spec, fresh = drawn(LARGE | {"num_layers": 2, "global_every": 1}, 1)
    tiled = layers_of(tiled_params(fresh, spec, smaller, smaller_spec), spec)
    assert "attention_norm.scale" not in tiled[0]
    np.testing.assert_array_equal(tiled[1]["attention_norm.scale"], layers_of(fresh, spec)[1]["attention_norm.scale"])


def test_what_cannot_be_tiled_is_refused(grown):
    smaller_spec, smaller, _, _, _ = grown
    for changes, words in (({"vocab_size": 201}, "the vocabulary stays"), ({"num_layers": 3}, "as many layers or more"), ({"num_heads": 10}, "heads are tiled whole")):
        spec, fresh = drawn(LARGE | changes, 1)
        with pytest.raises(ValueError, match=words):
            tiled_params(fresh, spec, smaller, smaller_spec)
