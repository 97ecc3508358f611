"""A model goes on with a larger vocabulary. Its parameters enter and leave; new rows begin as the mean of the rows of the pieces that stood for them."""

from collections.abc import Sequence

import jax
import numpy as np

from bert_jax.training.state import Blueprint


def extend_vocabulary(params: dict, before: Blueprint, after: Blueprint, pieces: Sequence[Sequence[int]]) -> dict:
    """Parameters of `before` -> of `after`, which differ in their vocabulary alone, as float32 numpy arrays.

    pieces: of each new id, in order and to the last of the new vocabulary, the old ids that its text was cut into. Tables, biases and whatever else has a row for each id take
    the mean of those rows; the old ids keep theirs.
    """
    size = after.spec.encoder.embedding.vocab_size
    kept = size - len(pieces)

    def extended(axes: tuple[str, ...], shape: jax.ShapeDtypeStruct, leaf) -> np.ndarray:
        leaf = np.asarray(leaf, np.float32)
        if "vocab" not in axes:
            return leaf
        axis = axes.index("vocab")
        rows = np.moveaxis(leaf, axis, 0)
        whole = np.zeros((shape.shape[axis], *rows.shape[1:]), np.float32)
        whole[:kept] = rows[:kept]
        whole[kept:size] = [rows[list(ids)].mean(0) for ids in pieces]
        return np.moveaxis(whole, 0, axis)

    if not 0 < kept <= before.spec.encoder.embedding.vocab_size:
        raise ValueError(f"{len(pieces)} new ids of {size} leave {kept} old ones, but the model has {before.spec.encoder.embedding.vocab_size}")
    return jax.tree.map(extended, after.axes, after.params, params, is_leaf=lambda node: isinstance(node, tuple))
