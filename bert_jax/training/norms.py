"""Norms of gradients, updates and parameters by group of parameters: what shows that a run is healthy, or which part of it is not.

Trees like the parameters enter, metrics leave: name -> (value, 1), to be averaged over steps. A stack of layers is squared and summed in one go.

They are taken in every step. Compiled for a TPU v4, BERT-base's update makes 10.2 passes over the parameters' bytes with AdamW and 13.0 with these norms, 12.7 and 12.8
with LAMB, which has most of them: 1 ms of a step on one v4, and its share of that on each device with ZeRO-1. Under a condition they cost more: every update is
then written to memory (17.5 and 21.0 passes, and room for two more copies of the parameters).
"""

import jax
import jax.numpy as jnp
import optax

from bert_jax.training.transformations import Tree, is_axes, path_names

PARTS = {"attention": "attention", "mlp": "mlp", "embed": "embeddings"}  # name of a module -> group of its matrices
GROUPS = (*PARTS.values(), "norms_and_biases", "heads")


def group_of(names: tuple[str, ...]) -> str:
    """The group of a parameter by its path: biases and norms wherever they stand, else the part of the model that it is of."""
    if names[-1] == "bias" or any("norm" in name for name in names):
        return "norms_and_biases"
    return next((group for part, group in PARTS.items() if part in names or f"{part}_adapter" in names), "heads")


def layer_of(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The path of the block (or the stack of blocks) that a parameter is of; None outside of the layers."""
    starts = [index for index, name in enumerate(names) if name.startswith(("attention", "mlp"))]
    return names[: starts[0]] if starts else None


def norm_metrics(gradients: Tree, updates: Tree, params: Tree, axes: Tree, trust_ratios: jax.Array | None) -> dict[str, tuple]:
    """Float32 scalars beside 1, under names such as these:

    grad_norm (of all) and grad_norm/attention: before clipping. param_norm/mlp. update_ratio/embeddings: |update| / |parameters|.
    grad_norm/layer_min, /layer_median, /layer_max and the same of update_ratio: over the layers. trust_ratio/min, /median, /max: over the tensors
    that LAMB adapts, each layer's for itself.

    updates: as they are added to the parameters, learning rate included. axes: `Blueprint.axes`. trust_ratios: float32 [tensors], None where
    the optimizer has none.
    """
    stacked = {path_names(path): names[0] == "layers" for path, names in jax.tree.leaves_with_path(axes, is_leaf=is_axes)}
    groups: dict[str, jax.Array] = {}
    layers: dict[tuple[str, ...], jax.Array] = {}
    for (path, gradient), update, param in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        names = path_names(path)
        squares = jnp.stack([_squares(leaf, stacked[names]) for leaf in (gradient, update, param)])
        groups[group_of(names)] = groups.get(group_of(names), 0.0) + squares.sum(1)
        if (layer := layer_of(names)) is not None:
            layers[layer] = layers.get(layer, 0.0) + squares
    values = {"grad_norm": optax.global_norm(gradients)}
    for group, squares in groups.items():
        gradient, update, param = jnp.sqrt(squares)
        values |= {f"grad_norm/{group}": gradient, f"param_norm/{group}": param, f"update_ratio/{group}": _ratio(update, param)}
    if layers:
        gradient, update, param = jnp.sqrt(jnp.concatenate(list(layers.values()), axis=1))
        values |= _spread("grad_norm/layer_", gradient) | _spread("update_ratio/layer_", _ratio(update, param))
    if trust_ratios is not None:
        values |= _spread("trust_ratio/", trust_ratios)
    return {name: (value, jnp.float32(1)) for name, value in values.items()}


def _squares(leaf: jax.Array, is_stacked: bool) -> jax.Array:
    """Float32 sums of squares, [layers] of a stack and [1] of one tensor."""
    return jnp.square(leaf.astype(jnp.float32)).sum(tuple(range(1 if is_stacked else 0, leaf.ndim))).reshape(-1)


def _ratio(update: jax.Array, param: jax.Array) -> jax.Array:
    return update / jnp.maximum(param, 1e-12)  # parameters may all be 0


def _spread(prefix: str, values: jax.Array) -> dict[str, jax.Array]:
    return {f"{prefix}min": values.min(), f"{prefix}median": jnp.median(values), f"{prefix}max": values.max()}
