"""The small parts every block is made of: Project, Norm, Embedding, and stacking of layers.

Parameters are float32 and carry their logical axes in metadata (`axes`), which `sharding.py` maps to mesh axes. The compute dtype is the dtype
of the activations: each part casts its parameters to it.

Einsum letters, the same everywhere: b batch, l length (q and k: query and key positions), d hidden size, h heads, c head size,
f intermediate size, g the two halves of a gated MLP, e the width of factorised embeddings, p prediction slots, v vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.spec import NormSpec

PyTree = Any

ACTIVATION_FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


def truncated_normal(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
    """Normal of standard deviation `std` before truncation at two of them, as BERT's `truncated_normal_initializer`."""
    return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


class Project(nnx.Module):
    """A linear map over named axes, by einsum: `equation` is "input,kernel->output"; the bias, if any, has the kernel's output axes.

    Where the equation has one letter for several input or output axes of the kernel, these are merged for the computation."""

    def __init__(self, equation: str, axes: dict[str, int], num_inputs: int, *, std: float, bias: bool = True, rngs: nnx.Rngs):
        """axes: logical name -> size, in the kernel's order, the `num_inputs` contracted ones first."""
        names, shape = tuple(axes), tuple(axes.values())
        self.equation = equation
        merged = len(equation.split("->")[0].split(",")[1]) < len(shape)
        self.matrix = (math.prod(shape[:num_inputs]), math.prod(shape[num_inputs:])) if merged else shape
        self.kernel = nnx.Param(truncated_normal(rngs.params(), shape, std), axes=names)
        self.bias = nnx.Param(jnp.zeros(shape[num_inputs:], jnp.float32), axes=names[num_inputs:]) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.einsum(self.equation, x, self.kernel[...].astype(x.dtype).reshape(self.matrix))
        if self.bias is None:
            return y
        bias = self.bias[...].astype(x.dtype)
        return y + (bias.reshape(-1) if bias.ndim > 1 and len(self.matrix) == 2 else bias)


class Norm(nnx.Module):
    """Normalisation over the last axis; statistics in float32 whatever the input."""

    def __init__(self, size: int, spec: NormSpec):
        self.eps = spec.eps
        self.centre = spec.kind == "layer"
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32), axes=("hidden",))
        self.bias = nnx.Param(jnp.zeros((size,), jnp.float32), axes=("hidden",)) if spec.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        if self.centre:
            wide = wide - wide.mean(-1, keepdims=True)
        normal = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps) * self.scale[...]
        return (normal if self.bias is None else normal + self.bias[...]).astype(x.dtype)


class Embedding(nnx.Module):
    """A table [rows, hidden], looked up by integer ids."""

    def __init__(self, rows: int, size: int, axis: str, *, std: float, used_rows: int | None = None, rngs: nnx.Rngs):
        """used_rows: rows beyond it are padding and start at zero."""
        table = truncated_normal(rngs.params(), (rows, size), std)
        if used_rows is not None:
            table = jnp.where(jnp.arange(rows)[:, None] < used_rows, table, 0.0)
        self.embedding = nnx.Param(table, axes=(axis, "embed"))

    def __call__(self, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
        return self.embedding[...].astype(dtype)[ids]


def stack_layers(make: Callable[[nnx.Rngs], nnx.Module], count: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """One module whose every parameter holds `count` layers along a new first axis, `layers`."""

    def pure(key: jax.Array) -> dict:
        return nnx.to_pure_dict(nnx.split(make(nnx.Rngs(params=key)))[1])

    stacked = jax.vmap(pure)(jax.random.split(rngs.params(), count))
    module = nnx.eval_shape(lambda: make(nnx.Rngs(params=0)))
    for path, parameter in nnx.iter_graph(module):
        if isinstance(parameter, nnx.Param):
            value = stacked
            for name in path:
                value = value[name]
            parameter.set_metadata(axes=("layers", *parameter.get_metadata("axes")))
            parameter.set_value(value)
    return module


def part_last(stacked: nnx.Module) -> tuple[nnx.Module, nnx.Module]:
    """(the stack without its last layer, that layer)."""
    graphdef, state = nnx.split(stacked)
    return tuple(nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[which], nnx.to_pure_dict(state))) for which in (slice(None, -1), -1))


def scan_layers(
    module: nnx.Module, body: Callable, carry: jax.Array, own: PyTree, *, uses: int = 1, wrap: Callable = lambda f: f, unroll: int = 1
):
    """Runs `body(layer, carry, own) -> (carry, out)` over the layers of a stacked module, each `uses` times in a row; returns (carry, stacked outs).

    own: arrays [layers x uses, ...], of which the body gets each layer's. wrap: applied to the scanned function, for rematerialisation.
    """
    graphdef, state = nnx.split(module)

    def step(carry, layer):
        parameters, layer_own = layer
        return body(nnx.merge(graphdef, parameters), carry, layer_own)

    if uses == 1:
        return jax.lax.scan(wrap(step), carry, (nnx.to_pure_dict(state), own), unroll=unroll)

    def again(carry, layer):
        parameters, layer_own = layer
        return jax.lax.scan(lambda carry, own: wrap(step)(carry, (parameters, own)), carry, layer_own, length=uses, unroll=min(unroll, uses))

    grouped = jax.tree.map(lambda leaf: leaf.reshape(-1, uses, *leaf.shape[1:]), own)
    return jax.lax.scan(again, carry, (nnx.to_pure_dict(state), grouped))
