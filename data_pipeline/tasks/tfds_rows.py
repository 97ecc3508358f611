"""Reads a task's examples from a TensorFlow data set that is prepared on disk.

Enters: `tfds:NAME[/CONFIG][:VERSION]:SPLIT`, or the directory of a version in place of the name, and the `TaskData`. Leaves: rows as in
rows.py, with the names of classes in place of their numbers, and the names of the label column's classes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipeline.sources import tfds_shards
from data_pipeline.tasks.rows import Row
from data_pipeline.tasks.task_data import TaskData, TaskDataError

_NO_LABEL = -1  # of every example in the test splits of GLUE


def read(item: str, task: TaskData) -> tuple[Iterator[Row], tuple[str, ...] | None]:
    """The rows, placed by shard and number, and the label column's classes, None if it has numbers or text.

    Raises TaskDataError for a column that is missing, CorpusError if the data set is not on disk, ImportError without
    tensorflow-datasets."""
    builder, name, _ = tfds_shards.open_builder(item)
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
    features = builder.info.features
    for column in task.columns:
        if column not in features:
            raise TaskDataError(f"{item}: no column {column!r}; {name} has {', '.join(map(repr, sorted(features)))}")
    label_names = None if task.label_column is None else _class_names(features[task.label_column])
    return _rows(item, task, features), label_names


def _class_names(feature: Any) -> tuple[str, ...] | None:
    feature = getattr(feature, "feature", feature)  # of a sequence: its elements'
    return tuple(feature.names) if hasattr(feature, "names") and feature.names is not None else None


def _rows(item: str, task: TaskData, features: Any) -> Iterator[Row]:
    names = {column: _class_names(features[column]) for column in task.columns}
    for source in tfds_shards.expand(item):
        number = source.rows[0]
        try:
            for record in tfds_shards.records(source):
                place = f"{source.name}, row {number}"
                try:
                    values = features.deserialize_example_np(record)
                except Exception as error:  # of protobuf and of each feature
                    raise TaskDataError(
                        f"{place}: no such example as dataset_info.json describes ({error}); prepare the data set again"
                    ) from None
                yield place, {column: _plain(values[column], names[column]) for column in task.columns}
                number += 1
        except tfds_shards.ShardDamaged as error:
            raise TaskDataError(
                f"{source.name}, row {number}: the shard is cut short or damaged ({error}); prepare the data set again"
            ) from None
        if number < source.rows[1]:
            raise TaskDataError(f"{source.name}, row {number}: {source.rows[1] - number} records are missing; prepare the data set again")


def _plain(value: Any, class_names: tuple[str, ...] | None) -> Any:
    """As JSON would have it: str, numbers, lists, dicts; a class by its name, None where it has none."""
    if isinstance(value, dict):
        return {name: _plain(part, None) for name, part in value.items()}
    if isinstance(value, np.ndarray) and value.ndim:
        return [_plain(part, class_names) for part in value]
    if isinstance(value, list):
        return [_plain(part, class_names) for part in value]
    value = value.item() if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="surrogateescape")  # broken UTF-8 is refused with all text that is none
    if class_names is not None:
        return None if value == _NO_LABEL else class_names[value]
    return value
