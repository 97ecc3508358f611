"""Which of a model's parameters are trained: all, or those above what is frozen, or little parts added to a frozen encoder, and the head.

Trees of parameters enter; the trained part of one leaves, as a smaller tree, for gradients, optimizer and moments; the whole is put together again.
A stack of layers whose lowest are frozen is cut, so that nothing of the frozen ones is computed, decayed or remembered.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from bert_jax.model.adapter_spec import BottleneckSpec
from bert_jax.model.adapters import is_added
from bert_jax.model.depth import holders
from bert_jax.model.spec import EncoderSpec, TaskSpec

Tree = Any
Path = tuple[str, ...]
LOWEST = re.compile(r"(\d+) layers?")


@dataclasses.dataclass(frozen=True)
class Trained:
    """starts: path of each trained parameter -> the first of its entries that is trained, above 0 in stacks whose lowest layers are frozen. None:
    everything is trained. layers: the lowest layers with nothing trained in or below them."""

    starts: Mapping[Path, int] | None = None
    layers: int = 0

    def names(self, tree: Tree) -> Tree:
        """The trained parameters' part of a tree like the parameters, of whatever leaves, which are not cut."""
        if self.starts is None:
            return tree
        return traverse_util.unflatten_dict({path: leaf for path, leaf in traverse_util.flatten_dict(tree).items() if path in self.starts})

    def of(self, params: Tree) -> Tree:
        """The trained part of parameters, arrays or ShapeDtypeStructs, whose shardings stay."""
        if self.starts is None:
            return params
        flat = traverse_util.flatten_dict(self.names(params))
        return traverse_util.unflatten_dict({path: _from(self.starts[path], leaf) for path, leaf in flat.items()})

    def put_into(self, params: Tree, trained: Tree) -> Tree:
        """`params` with this trained part in place of its own."""
        if self.starts is None:
            return trained
        flat = traverse_util.flatten_dict(params)
        for path, leaf in traverse_util.flatten_dict(trained).items():
            start = self.starts[path]
            flat[path] = jnp.concatenate([flat[path][:start], leaf]) if start else leaf
        return traverse_util.unflatten_dict(flat)


def _from(start: int, leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.Array | jax.ShapeDtypeStruct:
    if not start:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((leaf.shape[0] - start, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)
    return leaf[start:]


EVERYTHING = Trained()


def trained_part(spec: TaskSpec, params: Tree, freeze: str = "") -> Trained:
    """Of the parameters (or their shapes) of a spec. Of an encoder with LoRA only that, of one with bottlenecks these and the norms (Houlsby et al. 2019, section
    2.1), and the head; of any other all that `freeze` leaves.

    freeze: "embeddings"; "6 layers", the lowest, with the embeddings; "encoder"; or empty. ValueError names what does not fit the model.
    """
    adapter, paths = spec.encoder.adapter, list(traverse_util.flatten_dict(params))
    if adapter is not None:
        if freeze:
            raise ValueError(f"freeze is {freeze!r}, but adapt.kind={adapter.kind} freezes the whole encoder; leave one of them empty")
        norms = isinstance(adapter, BottleneckSpec)
        return Trained({path: 0 for path in paths if path[0] != "encoder" or is_added(path) or norms and any("norm" in name for name in path)})
    if not freeze:
        return EVERYTHING
    layers = frozen_layers(spec.encoder, freeze)
    starts = {path: _start(spec, path, layers) for path in paths}
    return Trained({path: start for path, start in starts.items() if start is not None}, layers)


def frozen_layers(encoder: EncoderSpec, freeze: str) -> int:
    """How many of the lowest: 0 if only embeddings are frozen."""
    if freeze == "embeddings":
        return 0
    if freeze == "encoder":
        return encoder.num_layers
    match = LOWEST.fullmatch(freeze)
    layers = int(match[1]) if match else 0
    if not 1 <= layers <= encoder.num_layers:
        raise ValueError(f"freeze is {freeze!r}; write embeddings, or '1 layers' to '{encoder.num_layers} layers' (the lowest, with the embeddings), or encoder, or nothing")
    shared = encoder.num_layers // encoder.layer_groups if encoder.layer_groups else 1
    if layers % shared:
        raise ValueError(f"freeze is {freeze!r}, but {shared} layers of this model share their parameters; take a multiple of {shared}, or embeddings, or encoder")
    return layers


def _start(spec: TaskSpec, path: Path, layers: int) -> int | None:
    """The first entry of a parameter that is trained when so many of the lowest layers are frozen; None if none is."""
    encoder = spec.encoder
    if path[0] != "encoder":
        return 0
    for prefix, numbers, stacked in holders(spec):
        if ".".join(path).startswith(prefix):
            groups = layers // (encoder.num_layers // encoder.layer_groups) if encoder.layer_groups else layers
            frozen = sum(number < groups for number in numbers)
            return None if frozen == len(numbers) else frozen
    above = {"final_norm": encoder.num_layers, "convolution": 1}  # frozen with so many layers; what else there is, the lowest layer reads
    return 0 if layers < above.get(path[1], 0) else None
