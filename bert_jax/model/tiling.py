"""A larger model begins as a smaller one, tiled (Warner et al. 2024, arXiv 2412.13663, section 2.2: ModernBERT-large from base).

Layers are spread over the depth as Gopher's (Rae et al. 2021, arXiv 2112.11446, appendix G.3.3), and every matrix lies in the middle of the larger one, whose
edges continue it around: "centre tiling", after Phi-2. In AnswerDotAI/ModernBERT it is `tile_weights_from_middle`.
"""

import numpy as np
from flax import traverse_util

from bert_jax.model.depth import layers_of, outside_layers, with_layers
from bert_jax.model.spec import AnySpec


def layer_sources(smaller: int, larger: int) -> list[int]:
    """The smaller model's layer that each layer of the larger one begins as: round(i x smaller / larger), halves to even."""
    return [min(round(layer * smaller / larger), smaller - 1) for layer in range(larger)]


def tile(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array in the middle of a larger one, repeated around it: along each axis place j holds what the array has at (j - half of what is added) modulo its length."""
    if array.ndim != len(shape) or any(new < old for old, new in zip(array.shape, shape)):
        raise ValueError(f"an array of shape {list(array.shape)} cannot be tiled to {list(shape)}; no axis may become shorter")
    for axis, (old, new) in enumerate(zip(array.shape, shape)):
        array = np.take(array, (np.arange(new) - (new - old) // 2) % old, axis)
    return array


def tiled_params(fresh: dict, spec: AnySpec, smaller: dict, smaller_spec: AnySpec) -> dict:
    """Parameters of the larger model: `fresh`, with the smaller one's tiled in their place. numpy arrays.

    Queries, keys, values and the halves of a gated MLP are tiled each for itself, and heads whole: they are axes of their own here. What the smaller model lacks (a norm
    of a layer that begins as the first one, which has none) stays fresh. The final norm is tiled too; the published code leaves it fresh. ValueError names what does not fit.
    """
    ours, theirs = spec.encoder, smaller_spec.encoder
    if ours.embedding.vocab_size != theirs.embedding.vocab_size or ours.num_layers < theirs.num_layers:
        raise ValueError(
            f"a model of {theirs.num_layers} layers and {theirs.embedding.vocab_size} entries cannot become one of {ours.num_layers} and {ours.embedding.vocab_size}: "
            "the vocabulary stays, and there are as many layers or more"
        )
    if ours.attention.head_dim != theirs.attention.head_dim:
        raise ValueError(f"the smaller model's heads have {theirs.attention.head_dim} entries, the larger one's {ours.attention.head_dim}; heads are tiled whole")

    def grown(own: dict, given: dict) -> dict:
        return {name: tile(np.asarray(given[name]), own[name].shape) for name in own if name in given}

    own_layers, given_layers = layers_of(fresh, spec), layers_of(smaller, smaller_spec)
    layers = [grown(own, given_layers[source]) for own, source in zip(own_layers, layer_sources(len(given_layers), len(own_layers)))]
    outside = grown(outside_layers(fresh, spec), outside_layers(smaller, smaller_spec))
    return with_layers(traverse_util.unflatten_dict(traverse_util.flatten_dict(fresh, sep=".") | outside, sep="."), spec, layers)
