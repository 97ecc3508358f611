"""Reads a TensorFlow checkpoint into numpy arrays. What the names mean is `bert_jax/interop/tf_bert.py`'s knowledge."""

import os

import numpy as np
import tensorflow as tf


def read(prefix: str | os.PathLike) -> dict[str, np.ndarray]:
    """Every variable of the checkpoint PREFIX.index, PREFIX.data-*, by name. ValueError names the prefix if it cannot be read."""
    prefix = os.fspath(prefix)
    try:
        reader = tf.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:  # IndexError: the data is shorter than the index says
        raise ValueError(f"{prefix} is not a readable TensorFlow checkpoint ({error}); give PREFIX of PREFIX.index") from None
