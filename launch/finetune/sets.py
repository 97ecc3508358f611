"""A fine-tuning config's data: training, evaluation and test examples, as token ids."""

import dataclasses
import hashlib
import logging
from typing import Any

import numpy as np

from data_pipeline.tasks.encode import Features, encode
from data_pipeline.tasks.examples import Examples, read_examples
from data_pipeline.tasks.task_data import TaskData
from launch.config import ConfigError

BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # lengths to which batches are padded, so that few shapes are compiled
log = logging.getLogger("bert_jax")


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSet:
    """One file's examples, and their features."""

    source: str
    examples: Examples
    features: Features


@dataclasses.dataclass(frozen=True, eq=False)
class TaskSets:
    """All of a run's examples. task: with the classes of the training data. lengths: to which batches are padded."""

    task: TaskData
    train: TaskSet
    eval: TaskSet
    test: TaskSet | None
    lengths: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...] | None:
        return self.train.examples.label_names

    @property
    def fingerprint(self) -> str:
        """Of all token ids and labels."""
        sums = hashlib.sha256()
        for part in filter(None, (self.train, self.eval, self.test)):
            for tower in part.features.towers.values():
                sums.update(np.ascontiguousarray(tower.ids).tobytes())
            for labels in (part.features.labels, part.features.start_positions, part.features.end_positions):
                sums.update(b"-" if labels is None else np.ascontiguousarray(labels).tobytes())
        return sums.hexdigest()[:16]


def columns_of(section: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `TaskData` in a config's `task` section; an empty name is none."""
    names = {field.name for field in dataclasses.fields(TaskData)} & section.keys()
    optional = {"text_pair", "negative", "label", "tags", "id", "label_names"}
    columns = {name: (section[name] or None) if name in optional else section[name] for name in names}
    return columns | {name: tuple(columns[name]) for name in ("choices", "label_names") if columns.get(name) is not None}


def open_sets(config: dict[str, Any], tokenizer) -> TaskSets:
    """ConfigError or TaskDataError naming the field, or the file and line."""
    section = config["task"]
    task = TaskData(**columns_of(section))
    for name in ("train", "eval"):
        if not section[name]:
            raise ConfigError(f"task.{name} is empty; set --config.task.{name}=FILE")
    train = open_set(section["train"], task, tokenizer, config)
    if train.features.labels is None and train.features.start_positions is None and not unlabelled(section):
        raise ConfigError(f"{section['train']} has no labels (task.label={section['label']!r}), and there is nothing to learn without")
    task = dataclasses.replace(task, label_names=train.examples.label_names)
    test = open_set(section["test"], task, tokenizer, config) if section["test"] else None
    return TaskSets(task, train, open_set(section["eval"], task, tokenizer, config), test, lengths_up_to(config["length"]))


def open_set(source: str, task: TaskData, tokenizer, config: dict[str, Any]) -> TaskSet:
    examples = read_examples(source, task)
    features = encode(examples, tokenizer, task, config["length"], **({"doc_stride": config["task"]["stride"]} if task.kind == "span" else {}))
    if features.truncated:
        log.warning("%s: %d of %d examples are longer than length %d and were cut", source, features.truncated, len(examples), config["length"])
    return TaskSet(source, examples, features)


def unlabelled(section: dict[str, Any]) -> bool:
    """Whether the task learns from texts alone."""
    return section["kind"] == "embedding" and section["loss"] in ("multiple_negatives", "triplet")


def lengths_up_to(longest: int) -> tuple[int, ...]:
    return (*(size for size in BUCKETS if size < longest), longest)
