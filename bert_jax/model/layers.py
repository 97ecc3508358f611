"""The small parts every block is made of: Project, Norm, Embedding, and stacking of layers.

Parameters are float32 and carry their logical axes in metadata (`axes`), which `sharding.py` maps to mesh axes. The compute dtype is the dtype
of the activations: each part casts its parameters to it.

Einsum letters, the same everywhere: b batch, l length (q and k: query and key positions), d hidden size, h heads, c head size,
f intermediate size, g the two halves of a gated MLP, e the width of factorised embeddings, p prediction slots, v vocabulary, a size of a bottleneck,
r rank of a low-rank change.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.remat import kept, rematerialised
from bert_jax.model.spec import NormSpec

PyTree = Any


def truncated_normal(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
    """Normal of standard deviation `std` before truncation at two of them, as BERT's `truncated_normal_initializer`."""
    return std * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


class Project(nnx.Module):
    """A linear map over named axes, by einsum: `equation` is "input,kernel->output"; the bias, if any, has the kernel's output axes.

    Where the equation has one letter for several input or output axes of the kernel, these are merged for the computation."""

    def __init__(self, equation: str, axes: dict[str, int], num_inputs: int, *, std: float, bias: bool = True, rngs: nnx.Rngs):
        """axes: logical name -> size, in the kernel's order, the `num_inputs` contracted ones first."""
        names, shape = tuple(axes), tuple(axes.values())
        self.equation, self.num_inputs = equation, num_inputs
        merged = len(equation.split("->")[0].split(",")[1]) < len(shape)
        self.matrix = (math.prod(shape[:num_inputs]), math.prod(shape[num_inputs:])) if merged else shape
        self.kernel = nnx.Param(truncated_normal(rngs.params(), shape, std), axes=names)
        self.bias = nnx.Param(jnp.zeros(shape[num_inputs:], jnp.float32), axes=names[num_inputs:]) if bias else None
        self.lora = None  # what is added to the kernel (`adapters.LowRank`)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.einsum(self.equation, x, self.kernel[...].astype(x.dtype).reshape(self.matrix))
        y = y if self.lora is None else y + self.lora(x)
        if self.bias is not None:
            bias = self.bias[...].astype(x.dtype)
            y = _add_bias(y, bias.reshape(-1) if bias.ndim > 1 and len(self.matrix) == 2 else bias)
        return kept(y)


@jax.custom_vjp
def _add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y [..., *bias.shape]."""
    return y + bias


def _bias_gradient(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    over = range(gradient.ndim - bias.ndim)
    total = jax.lax.platform_dependent(
        gradient, tpu=functools.partial(sum_by_product, count=len(over)), default=lambda gradient: gradient.astype(jnp.float32).sum(tuple(over))
    )
    return gradient, total.astype(bias.dtype)


def sum_by_product(x: jax.Array, count: int) -> jax.Array:
    """Over the first axes, `count` of them, in float32: by a TPU's matrix unit, since its vector unit takes four times as long."""
    ones = jnp.ones((8, *x.shape[:count]), x.dtype)  # a tile's height; a compiler would turn one row back into a sum
    over = (tuple(range(1, count + 1)), tuple(range(count))), ((), ())
    return jax.lax.dot_general(ones, x, over, precision="highest", preferred_element_type=jnp.float32)[0]


_add_bias.defvjp(lambda y, bias: (y + bias, bias), _bias_gradient)


class Norm(nnx.Module):
    """Normalisation over the last axis; statistics in float32 whatever the input, in one pass: to some 1e-7 (1 + m^2) where the mean is m deviations from 0."""

    def __init__(self, size: int, spec: NormSpec):
        self.eps = spec.eps
        self.centre = spec.kind == "layer"
        self.scale = nnx.Param(jnp.ones((size,), jnp.float32), axes=("hidden",))
        self.bias = nnx.Param(jnp.zeros((size,), jnp.float32), axes=("hidden",)) if spec.bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        square = jnp.square(wide).mean(-1, keepdims=True)
        if self.centre:
            mean = kept(wide.mean(-1, keepdims=True))
            wide, square = wide - mean, jnp.maximum(square - jnp.square(mean), 0.0)
        normal = wide * kept(jax.lax.rsqrt(square + self.eps)) * self.scale[...]
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
    return take_layers(stacked, slice(None, -1)), take_layers(stacked, -1)


def take_layers(stacked: nnx.Module, which: slice | int, passed: Callable[[jax.Array], jax.Array] = lambda leaf: leaf) -> nnx.Module:
    """Some layers of the stack, or one. passed: what is made of their parameters."""
    graphdef, state = nnx.split(stacked)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: passed(leaf[which]), nnx.to_pure_dict(state)))


def scan_layers(
    module: nnx.Module, body: Callable, carry: jax.Array, own: PyTree, *, uses: int = 1, remat: str = "none", unroll: int = 1, untrained: int = 0
):
    """Runs `body(layer, carry, own) -> (carry, out)` over the layers of a stacked module, each `uses` times in a row; returns (carry, stacked outs).

    own: arrays [layers x uses, ...], of which the body gets each layer's. remat: as in `Compute`.
    untrained: layers of the stack, from its beginning, that are scanned by themselves, for no gradient of theirs is wanted.
    """
    if untrained:
        below, above = take_layers(module, slice(None, untrained), jax.lax.stop_gradient), take_layers(module, slice(untrained, None))
        own_below, own_above = (jax.tree.map(lambda leaf: leaf[part], own) for part in (slice(None, untrained * uses), slice(untrained * uses, None)))
        carry, out_below = scan_layers(below, body, carry, own_below, uses=uses, remat=remat, unroll=unroll)
        carry, out_above = scan_layers(above, body, carry, own_above, uses=uses, remat=remat, unroll=unroll)
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), out_below, out_above)
    graphdef, state = nnx.split(module)
    state = _with_matrices(module, nnx.to_pure_dict(state))

    def step(carry, layer):
        parameters, layer_own = layer
        return body(nnx.merge(graphdef, parameters), carry, layer_own)

    count = jax.tree.leaves(state)[0].shape[0]
    step = rematerialised(step, remat, in_loop=unroll < uses or (count > 1 if uses > 1 else unroll < count))
    if uses == 1:
        return jax.lax.scan(step, carry, (state, own), unroll=unroll)

    def again(carry, layer):
        parameters, layer_own = layer
        return jax.lax.scan(lambda carry, own: step(carry, (parameters, own)), carry, layer_own, length=uses, unroll=min(unroll, uses))

    grouped = jax.tree.map(lambda leaf: leaf.reshape(-1, uses, *leaf.shape[1:]), own)
    return jax.lax.scan(again, carry, (state, grouped))


def _with_matrices(module: nnx.Module, state: PyTree) -> PyTree:
    """A stack's state with kernels as the matrices of the computation. Of kernels whose last axis is a head's few features, TPUs would keep gradients with another
    axis last, and turn all activations that they are made of."""
    for path, part in nnx.iter_graph(module):
        if isinstance(part, Project):
            held = functools.reduce(lambda held, name: held[name], path, state)
            held["kernel"] = held["kernel"].reshape(-1, *part.matrix)
    return state
