"""The layers of an encoder one by one, wherever its parameters hold them: in a stack, in the stacks of a period, or apart.

Trees of a model's parameters enter and leave; a layer is a flat dict of its arrays by the names that they have within a layer, such as attention.query.kernel.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from bert_jax.model.spec import AnySpec

Layer = Mapping[str, jax.Array]


def holders(spec: AnySpec) -> list[tuple[str, tuple[int, ...], bool]]:
    """(prefix of paths, numbers of the layers, whether they are stacked) of every place that holds layers."""
    encoder = spec.encoder
    first, period, prefix = encoder.first_layers, len(encoder.kinds), "encoder.layers."
    apart = [(f"encoder.first.{layer}.", (layer,), False) for layer in range(first)]
    if encoder.layer_groups:
        return [(prefix, tuple(range(encoder.layer_groups)), True)]
    if period == 1:
        return [*apart, (prefix, tuple(range(first, encoder.num_layers)), True)]
    return apart + [(f"{prefix}blocks.{index}.", tuple(range(first + index, encoder.num_layers, period)), True) for index in range(period)]


def heights(params: dict, spec: AnySpec) -> dict:
    """Which layer from the last one, 1, each parameter is of, as a tree like the parameters: float64 numpy arrays, [layers] where layers are stacked, [] elsewhere. The
    embeddings below n layers have n + 1; all outside of them 0. Each of two encoders counts its own."""
    found = {path: np.zeros(()) for path in traverse_util.flatten_dict(params, sep=".")}
    generator = getattr(spec, "generator", None)
    for above, part in (("", spec), *([("generator.", generator)] if generator is not None else [])):
        places = [(f"{above}{prefix}", numbers, stacked) for prefix, numbers, stacked in holders(part)]
        count = 1 + max(number for _, numbers, _ in places for number in numbers)
        for path in found:
            if path.startswith(f"{above}encoder.embed."):
                found[path] = np.asarray(count + 1.0)
            for prefix, numbers, stacked in places:
                if path.startswith(prefix):
                    found[path] = count - np.asarray(numbers if stacked else numbers[0], np.float64)
    return traverse_util.unflatten_dict(found, sep=".")


def layers_of(params: dict, spec: AnySpec) -> list[Layer]:
    """The layers in order; where they share parameters, their groups."""
    flat = traverse_util.flatten_dict(params, sep=".")
    layers = {}
    for prefix, numbers, stacked in holders(spec):
        held = {path.removeprefix(prefix): leaf for path, leaf in flat.items() if path.startswith(prefix)}
        layers |= {number: {name: leaf[place] if stacked else leaf for name, leaf in held.items()} for place, number in enumerate(numbers)}
    return [layers[number] for number in sorted(layers)]


def outside_layers(params: dict, spec: AnySpec) -> Layer:
    """All other arrays, by their paths."""
    prefixes = tuple(prefix for prefix, _, _ in holders(spec))
    return {path: leaf for path, leaf in traverse_util.flatten_dict(params, sep=".").items() if not path.startswith(prefixes)}


def with_layers(params: dict, spec: AnySpec, layers: Sequence[Layer]) -> dict:
    """`params` with these layers in place of its own, in order; what a layer lacks stays as it is."""
    flat = traverse_util.flatten_dict(params, sep=".")
    for prefix, numbers, stacked in holders(spec):
        for path in [path for path in flat if path.startswith(prefix)]:
            name, own = path.removeprefix(prefix), flat[path]
            if stacked:
                flat[path] = jnp.stack([layers[number].get(name, own[place]) for place, number in enumerate(numbers)])
            else:
                flat[path] = layers[numbers[0]].get(name, own)
    return traverse_util.unflatten_dict(flat, sep=".")
