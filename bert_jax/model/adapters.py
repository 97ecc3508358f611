"""Small trained parts in a pretrained encoder's layers: LoRA beside matrices, bottlenecks behind attention and MLP. Both begin as if they were not there.

LoRA is found by the names that matrices have within a layer, so that every family has it; parameters of it lie beside their kernel, as `lora.a` and `lora.b`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from bert_jax.model.activations import ACTIVATION_FUNCTIONS
from bert_jax.model.adapter_spec import LoraSpec
from bert_jax.model.layers import Project
from bert_jax.model.remat import kept
from bert_jax.model.spec import EncoderSpec

LORA, ADAPTER = "lora", "_adapter"  # in paths of parameters


class LowRank(nnx.Module):
    """scale x (x A) B: A [inputs..., rank], drawn as in Hugging Face's PEFT (uniform, up to 1 / sqrt(inputs)), and B [rank, outputs...], 0 at first."""

    def __init__(self, project: Project, spec: LoraSpec, *, rngs: nnx.Rngs):
        names, shape, inputs = project.kernel.get_metadata("axes"), project.kernel.shape, project.num_inputs
        letters, output = project.equation.split("->")
        letters, kernel = letters.split(",")
        contracted, left = ([letter for letter in kernel if (letter in output) == in_output] for in_output in (False, True))
        rows = "".join(letter for letter in letters if letter not in contracted)
        self.inward, self.outward = f"{letters},{''.join(contracted)}r->{rows}r", f"{rows}r,r{''.join(left)}->{output}"
        self.inward_shape = (*project.matrix[: len(contracted)], spec.rank)
        self.outward_shape = (spec.rank, *project.matrix[len(contracted) :])
        self.scale = spec.scale
        fan_in = math.prod(shape[:inputs])
        drawn = jax.random.uniform(rngs.params(), (*shape[:inputs], spec.rank), jnp.float32, -(fan_in**-0.5), fan_in**-0.5)
        self.a = nnx.Param(drawn, axes=(*names[:inputs], "rank"))
        self.b = nnx.Param(jnp.zeros((spec.rank, *shape[inputs:]), jnp.float32), axes=("rank", *names[inputs:]))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of the project's input, what is added to its output."""
        a, b = (part[...].astype(x.dtype).reshape(shape) for part, shape in ((self.a, self.inward_shape), (self.b, self.outward_shape)))
        return jnp.einsum(self.outward, kept(jnp.einsum(self.inward, x, a)) * jnp.asarray(self.scale, x.dtype), b)


class Bottleneck(nnx.Module):
    """x + up(activation(down(x))), with the activation of the encoder's MLPs; up is 0 at first."""

    def __init__(self, spec: EncoderSpec, *, rngs: nnx.Rngs):
        hidden, size = spec.hidden_size, spec.adapter.size
        self.activation = spec.mlp.activation
        self.down = Project("bld,da->bla", {"embed": hidden, "adapter": size}, 1, std=spec.initializer_range, rngs=rngs)
        self.up = Project("bla,ad->bld", {"adapter": size, "embed": hidden}, 1, std=0.0, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.up(ACTIVATION_FUNCTIONS[self.activation](self.down(x)))


def matrices(layer: nnx.Module) -> dict[str, Project]:
    """The matrices of a layer by their names in it, such as attention.query."""
    found = {".".join(map(str, path)): part for path, part in nnx.iter_graph(layer) if isinstance(part, Project)}
    return dict(sorted(found.items()))


def add_lora(layer: nnx.Module, spec: LoraSpec, *, rngs: nnx.Rngs) -> None:
    """ValueError if a target names none of the layer's matrices."""
    held = matrices(layer)
    named = {target: [name for name in held if f".{target}." in f".{name}."] for target in spec.targets}
    for target, names in named.items():
        if not names:
            raise ValueError(f"adapt.targets names {target!r}, but the matrices of a layer are {', '.join(held)}; name these, or parts such as query or mlp")
    for name, project in held.items():
        if any(name in names for names in named.values()):
            project.lora = nnx.data(LowRank(project, spec, rngs=rngs))


def is_added(path: tuple[str, ...]) -> bool:
    """Whether a parameter with this path is of LoRA or a bottleneck."""
    return LORA in path or any(name.endswith(ADAPTER) for name in path)


def with_lora_merged(params: dict[str, Any], spec: LoraSpec) -> dict[str, Any]:
    """The parameters of the same model without LoRA: kernels are W + scale x A B, whether stacked or of one layer."""
    flat = traverse_util.flatten_dict(params)
    plain = {path: leaf for path, leaf in flat.items() if LORA not in path}
    for path, a in flat.items():
        if path[-2:] != (LORA, "a"):
            continue
        kernel, b = (*path[:-2], "kernel"), flat[*path[:-1], "b"]
        change = jax.vmap(_product) if a.ndim + b.ndim > plain[kernel].ndim + 2 else _product
        plain[kernel] = plain[kernel] + spec.scale * change(a, b)
    return traverse_util.unflatten_dict(plain)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.tensordot(a, b, axes=1, precision="highest")
