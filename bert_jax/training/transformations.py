"""Steps of optimizers that optax lacks, or has for single tensors only: here layers are stacked, and each layer of a stack is a tensor of
its own.

`stacked` is a tree of booleans like the parameters: does the leaf's first axis run over layers. `axes` is a tree of logical axis names
(`Blueprint.axes`). Everything is computed over whole stacks: no loop over layers or tensors is left in the compiled program. Initial states
are made with maps over the parameters alone, as `optax.tree.map_params` needs it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any
Axes = tuple[str, ...]


def is_axes(node: Any) -> bool:
    return isinstance(node, tuple)


def path_names(path: tuple) -> tuple[str, ...]:
    return tuple(str(part.key) for part in path)


def layer_mean_square(x: jax.Array, is_stacked: bool) -> jax.Array:
    """The mean square of the tensor, or of each layer of the stack: x's shape with ones for the axes averaged over."""
    return jnp.square(x).mean(tuple(range(1 if is_stacked else 0, x.ndim)), keepdims=True)


def _stateless(update: Callable) -> optax.GradientTransformation:
    """`update(updates, params) -> updates` as a transformation without state."""
    return optax.GradientTransformation(
        lambda params: optax.EmptyState(), lambda updates, state, params=None: (update(updates, params), state)
    )


class UncorrectedAdamState(NamedTuple):
    mu: Tree
    nu: Tree


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps) with moments that start at zero and are not corrected for it; optax has no such switch."""

    def init(params):
        return UncorrectedAdamState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(updates, state, params=None):
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), UncorrectedAdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_layer_trust_ratio(adapted: Tree, stacked: Tree) -> optax.GradientTransformationExtraArgs:
    """Multiplies each layer's update by |w| / |update|, or by 1 where either is 0 (LAMB, algorithm 2); only where `adapted` is true.

    update's extra argument `report`: a dict, in which the ratios are left under "trust_ratios", float32 [adapted tensors], each layer's for itself.
    """

    def update(updates, state, params, *, report=None, **_):
        ratios = []

        def scale(update, param, is_adapted, is_stacked):
            if not is_adapted:
                return update
            param_square, update_square = layer_mean_square(param, is_stacked), layer_mean_square(update, is_stacked)
            usable = (param_square > 0) & (update_square > 0)
            ratio = jnp.where(usable, jnp.sqrt(param_square / jnp.where(usable, update_square, 1.0)), 1.0)
            ratios.append(ratio.ravel())
            return update * ratio

        scaled = jax.tree.map(scale, updates, params, adapted, stacked)
        if report is not None and ratios:
            report["trust_ratios"] = jnp.concatenate(ratios)
        return scaled, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def scale_by_stable_adamw(
    b1: float, b2: float, eps: float, weight_decay: float, adapted: Tree, stacked: Tree
) -> optax.GradientTransformation:
    """AdamW whose rate is divided, per tensor, by max(1, RMS) with RMS^2 the mean of g^2 / max(v, eps^2), v the corrected second moment.

    Wortsman et al. 2023 (arXiv 2304.13013, algorithm 2), as optimi's StableAdamW has it, which ModernBERT was trained with: the decay is
    clipped along with the update. weight_decay: only where `adapted` is true.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(gradients, state, params):
        updates, state = adam.update(gradients, state)

        def clip(update, gradient, nu, param, is_adapted, is_stacked):
            square = layer_mean_square(gradient * jax.lax.rsqrt(jnp.maximum(nu, eps * eps)), is_stacked)
            decayed = update + weight_decay * param if is_adapted else update
            return decayed * jax.lax.rsqrt(jnp.maximum(square, 1.0))

        corrected = optax.tree.bias_correction(state.nu, b2, state.count)
        return jax.tree.map(clip, updates, gradients, corrected, params, adapted, stacked), state

    return optax.GradientTransformation(adam.init, update)


def clip_by_layer_rms(threshold: float, stacked: Tree) -> optax.GradientTransformation:
    """Divides each layer's update by max(1, RMS / threshold) (Adafactor, section 6)."""

    def clip(update, is_stacked):
        return update * jax.lax.rsqrt(jnp.maximum(layer_mean_square(update, is_stacked) / threshold**2, 1.0))

    return _stateless(lambda updates, params: jax.tree.map(clip, updates, stacked))


def scale_by_layer_rms(least: float, stacked: Tree) -> optax.GradientTransformation:
    """Multiplies each layer's update by max(least, RMS of its weights): a rate relative to the weights' size (Adafactor, section 8)."""

    def scale(update, param, is_stacked):
        return update * jnp.maximum(jnp.sqrt(layer_mean_square(param, is_stacked)), least)

    return _stateless(lambda updates, params: jax.tree.map(scale, updates, params, stacked))


def matrix_dimensions(axes: Axes) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The dimensions that are read from and those written to, or None unless the axes but `layers` are two groups.

    heads and head_dim are one group: [layers, embed, heads, head_dim] is a stack of matrices embed x (heads head_dim), and the output
    projection [layers, heads, head_dim, embed] one of (heads head_dim) x embed.
    """
    groups: list[list[int]] = []
    for dimension, name in enumerate(axes):
        if name == "head_dim" and dimension and axes[dimension - 1] == "heads":
            groups[-1].append(dimension)
        elif name != "layers":
            groups.append([dimension])
    return (tuple(groups[0]), tuple(groups[1])) if len(groups) == 2 else None


def on_matrices(inner: optax.GradientTransformation, axes: Tree) -> optax.GradientTransformation:
    """`inner` sees [layers, in, out] or [in, out] where `matrix_dimensions` knows them, and the parameter as it is elsewhere."""
    names = {path_names(path): leaf for path, leaf in jax.tree.leaves_with_path(axes, is_leaf=is_axes)}

    def view(path, leaf):
        dimensions = matrix_dimensions(names[path_names(path)])
        if dimensions is None:
            return leaf
        sizes = [int(np.prod([leaf.shape[dimension] for dimension in group])) for group in dimensions]
        return leaf.reshape(*leaf.shape[: dimensions[0][0]], *sizes)

    def views(tree):
        return jax.tree.map_with_path(view, tree)

    def update(updates, state, params):
        changed, state = inner.update(views(updates), state, views(params))
        return jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), changed, updates), state

    return optax.GradientTransformation(lambda params: inner.init(views(params)), update)


def scale_by_depth(layer_decay: float, heights: Tree) -> optax.GradientTransformation:
    """Multiplies the update of layer i (from 0) of n by layer_decay^(n - i), of the embeddings below them by layer_decay^(n + 1), of all
    else by 1. heights: those exponents (`bert_jax.model.depth.heights`), of whole stacks; updates may be of their highest layers alone.

    BEiT's convention (Bao et al. 2021); ELECTRA's code (Clark et al. 2020) has one power more for every layer and for the embeddings.
    """

    def scale(update, height):
        factors = (layer_decay**height).astype(np.float32)
        return update * (factors[factors.size - update.shape[0] :].reshape(-1, *[1] * (update.ndim - 1)) if factors.ndim else factors)

    return _stateless(lambda updates, params: jax.tree.map(scale, updates, heights))


def muon_matrices(axes: Tree) -> Tree:
    """The axes of the weight matrices inside layers, and `optax.MaskedNode` for every other parameter: embeddings, heads, norms, biases."""

    def choose(path, names):
        is_matrix = path_names(path)[-1] == "kernel" and "layers" in (*path_names(path), *names)
        if is_matrix and matrix_dimensions(names) is None:
            raise ValueError(f"Muon does not know which axes of {'/'.join(path_names(path))} {names} are inputs and which outputs")
        return names if is_matrix else optax.MaskedNode()

    return jax.tree.map_with_path(choose, axes, is_leaf=is_axes)


def scale_by_muon(momentum: float, matrices: Tree) -> optax.GradientTransformation:
    """optax's Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) of `muon_matrices`; to be used inside `optax.partition`.

    Nesterov momentum, then five quintic Newton-Schulz steps, for every matrix of a stack as `matrix_dimensions` gives it: all heads of a
    projection together, never one head alone. optax corrects the momentum's bias, which Jordan's code does not: in the first steps the mix
    of momentum and gradient differs. The update is scaled by 0.2 sqrt(max(in, out)), which gives it the RMS of an AdamW update, so that one
    learning rate and one weight decay serve both (Liu et al. 2025, arXiv 2502.16982, section 2.2).
    """

    def is_plain(node):
        return type(node) is tuple

    def scale(update, names):
        sizes = [np.prod([update.shape[dimension] for dimension in group]) for group in matrix_dimensions(names)]
        return update * float(0.2 * max(sizes) ** 0.5)

    dimensions = jax.tree.map(lambda names: optax.contrib.MuonDimensionNumbers(*matrix_dimensions(names)), matrices, is_leaf=is_plain)
    orthogonalize = optax.contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=dimensions)
    return optax.chain(orthogonalize, _stateless(lambda updates, params: jax.tree.map(scale, updates, matrices)))
