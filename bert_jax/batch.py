"""The batch contract: every field's name, shape, dtype and meaning. numpy only, imported by both sides.

A batch is a dict of numpy arrays. B is this process's share of the global batch, L the sequence length, K the number of
prediction slots (static, so that the vocabulary projection runs on K positions and not on L).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Field:
    shape: tuple[str, ...]  # letters: "B", "L", "K"
    dtype: type
    meaning: str
    optional: bool = False
    host_only: bool = False  # never sent to the devices


FIELDS = {
    "input_ids": Field(("B", "L"), np.int32, "token ids after masking"),
    "token_type_ids": Field(("B", "L"), np.int32, "1 for segment B and its [SEP], else 0"),
    "segment_ids": Field(("B", "L"), np.int32, "0 at padding; k >= 1 for the row's k-th document; attention stays within equal ids"),
    "position_ids": Field(("B", "L"), np.int32, "positions; absent means 0..L-1", optional=True),
    "global_tokens": Field(("B", "L"), np.int32, "1 where a token attends to its whole document and is attended to by it; absent: the model's", optional=True),
    "mlm_positions": Field(("B", "K"), np.int32, "positions to predict, ascending; unused slots hold 0"),
    "mlm_targets": Field(("B", "K"), np.int32, "original ids at those positions; unused slots hold 0"),
    "mlm_weights": Field(("B", "K"), np.float32, "1.0 for used slots, 0.0 for unused"),
    "nsp_labels": Field(("B",), np.int32, "0: segment B follows A; 1: B is random", optional=True),
    "sop_labels": Field(("B",), np.int32, "0: segments A and B are in order; 1: they are swapped", optional=True),
    "source_ids": Field(("B",), np.int32, "which source of a mixture, for the metrics", optional=True, host_only=True),
    "example_ids": Field(("B",), np.int64, "global example id, for tracing", optional=True, host_only=True),
}


def check(batch: dict[str, np.ndarray]) -> None:
    """Raises ValueError naming the field, what it holds and what fits. Shapes and dtypes only, so it costs nothing per step."""
    sizes: dict[str, tuple[int, str]] = {}
    for name in batch:
        if name not in FIELDS:
            raise ValueError(f"batch field {name!r} is not in the contract; known fields: {', '.join(FIELDS)}")
    for name, field in FIELDS.items():
        if name not in batch:
            if field.optional:
                continue
            raise ValueError(f"batch lacks the field {name!r} ({field.meaning})")
        array = batch[name]
        if array.ndim != len(field.shape):
            raise ValueError(f"batch field {name!r} has shape {array.shape}; expected [{', '.join(field.shape)}]")
        if array.dtype != np.dtype(field.dtype):
            raise ValueError(f"batch field {name!r} is {array.dtype}; expected {np.dtype(field.dtype)}")
        for letter, size in zip(field.shape, array.shape):
            known, owner = sizes.setdefault(letter, (size, name))
            if known != size:
                raise ValueError(f"batch field {name!r} has {letter}={size}, but {owner!r} has {letter}={known}")


def device_fields(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The fields that the train step reads."""
    return {name: array for name, array in batch.items() if name not in FIELDS or not FIELDS[name].host_only}


def zeros(batch_size: int, length: int, predictions: int, *, nsp: bool) -> dict[str, np.ndarray]:
    """A batch of the right shapes and dtypes, all zero: for shape inference and warm-up. NSP labels only if `nsp`."""
    sizes = {"B": batch_size, "L": length, "K": predictions}
    wanted = {"example_ids"} | ({"nsp_labels"} if nsp else set())
    return {
        name: np.zeros([sizes[letter] for letter in field.shape], field.dtype)
        for name, field in FIELDS.items()
        if not field.optional or name in wanted
    }
