"""A task's examples in memory. Enters: `TaskData` and a path or `tfds:` name. Leaves: `Examples`, columns of texts and labels.

Nothing is left out in silence: a row that lacks what the task needs ends the reading with the file and the line.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipeline.tasks import rows, tfds_rows
from data_pipeline.tasks.task_data import TaskData, TaskDataError

Answer = tuple[int, str]  # where it starts in the passage, in characters, and its text


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """N examples. What a kind of task has none of is None.

    texts: the text, question or query. pairs: the text's pair, passage, or the text that belongs to it. negatives: those that do not.
    choices: of each example as many as of every other; `pairs` are then already in front of them. words: of each example, for "tokens".
    labels: int32 [N] for classes and "choice"; float32 [N] for "regression", "ranking" and scores; float32 [N, classes] of 0 and 1 for
      "multilabel"; a list of int32 arrays, one number for each word, for "tokens".
    answers: for "span"; empty where the passage has no answer.
    label_names: the classes in the order of their numbers. ids: as the data names the examples, or "0", "1", ...
    """

    kind: str
    ids: list[str]
    texts: list[str] | None = None
    pairs: list[str] | None = None
    negatives: list[str] | None = None
    choices: list[tuple[str, ...]] | None = None
    words: list[list[str]] | None = None
    labels: np.ndarray | list[np.ndarray] | None = None
    answers: list[tuple[Answer, ...]] | None = None
    label_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def read_examples(path_or_name: str, task: TaskData) -> Examples:
    """All examples of a file, a glob or `tfds:NAME:SPLIT`.

    Read the training data first; `dataclasses.replace(task, label_names=examples.label_names)` then reads other data with the same classes.
    Raises TaskDataError naming the file and line (the row in tables and TensorFlow data sets, the question in SQuAD's files)."""
    if path_or_name.startswith("tfds:") or task.format == "tfds":
        found, class_names = tfds_rows.read(f"tfds:{path_or_name.removeprefix('tfds:')}", task)
    else:
        found, class_names = rows.read(path_or_name, task), None
    reader = _Reader(task, task.label_names or class_names)
    for place, row in found:
        reader.add(place, row)
    if not reader.ids:
        raise TaskDataError(f"{path_or_name} holds no example")
    return reader.examples(path_or_name)


class _Reader:
    """Collects rows. Labels that are classes are kept as names until all are known."""

    def __init__(self, task: TaskData, label_names: tuple[str, ...] | None):
        self.task = task
        self.label_names = label_names
        self.ids: list[str] = []
        self._known_ids: set[str] = set()
        self._texts: dict[str, list] = {name: [] for name in ("texts", "pairs", "negatives", "choices", "words", "answers")}
        self._labels: list = []
        self._unlabelled = 0
        self._first_unlabelled = ""
        self._numbers: dict[str, int] = {name: number for number, name in enumerate(label_names or ())}
        self._label = {
            "regression": _number, "ranking": _number, "choice": self._choice, "multilabel": self._several, "tokens": self._tags,
            "embedding": self._class if task.label_type == "class" else _number,
        }.get(task.kind, self._class)  # fmt: skip

    def add(self, place: str, row: Mapping[str, Any]) -> None:
        task, texts = self.task, self._texts
        if task.kind == "tokens":
            texts["words"].append(_words(place, task.tokens, row[task.tokens]))
        else:
            texts["texts"].append(_text(place, task.text, row[task.text]))
            pair = None if task.text_pair is None else _text(place, task.text_pair, row[task.text_pair])
            if task.kind == "choice":
                texts["choices"].append(self._choices(place, row, pair))
            elif pair is not None:
                texts["pairs"].append(pair)
            if task.negative is not None:
                texts["negatives"].append(_text(place, task.negative, row[task.negative]))
        if task.label_column is not None:
            value = row[task.label_column]
            if task.kind == "span":
                texts["answers"].append(_answers(place, value, pair))
            elif value is None:
                self._unlabelled += 1
                self._first_unlabelled = self._first_unlabelled or place
            else:
                self._labels.append(self._label(place, value))
        self.ids.append(self._id(place, row))

    def examples(self, path: str) -> Examples:
        if self._labels and self._unlabelled:
            raise TaskDataError(f"{self._first_unlabelled}: no label, where other examples have one")
        texts = {name: values or None for name, values in self._texts.items()}
        return Examples(
            self.task.kind, self.ids, **texts, labels=self._all_labels() if self._labels else None, label_names=self.label_names
        )

    def _all_labels(self) -> np.ndarray | list[np.ndarray]:
        """Numbers in place of the classes, which are numbered in the order of their names where the data does not number them."""
        task = self.task
        if not task.has_classes:
            return np.array(self._labels, np.int32 if task.kind == "choice" else np.float32)
        order = np.arange(len(self._numbers), dtype=np.int32)
        if self.label_names is None:
            self.label_names = tuple(sorted(self._numbers, key=_sort_key))
            place_of = {name: place for place, name in enumerate(self.label_names)}
            order = np.array([place_of[name] for name in self._numbers], np.int32)
        if task.kind == "tokens":
            return [order[numbers] for numbers in self._labels]
        if task.kind == "multilabel":
            labels = np.zeros((len(self._labels), len(order)), np.float32)
            for row, numbers in zip(labels, self._labels):
                row[order[numbers]] = 1
            return labels
        return order[np.array(self._labels, np.int64)]

    def _id(self, place: str, row: Mapping[str, Any]) -> str:
        if self.task.id is None:
            return str(len(self.ids))
        value = row[self.task.id]
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise TaskDataError(f"{place}: the id in {self.task.id!r} is {_shown(value)}; it must be text or a whole number")
        if str(value) in self._known_ids:
            raise TaskDataError(f"{place}: the id {_shown(value)} stands here for the second time")
        self._known_ids.add(str(value))
        return str(value)

    def _choices(self, place: str, row: Mapping[str, Any], beginning: str | None) -> tuple[str, ...]:
        task = self.task
        values, names = [row[column] for column in task.choices], list(task.choices)
        if len(values) == 1 and isinstance(values[0], list):
            values, names = values[0], names * len(values[0])
        choices = [_text(place, name, value) for name, value in zip(names, values)]
        known = self._texts["choices"]
        if len(choices) < 2 or known and len(choices) != len(known[0]):
            wanted = f"{len(known[0])}, as the first example" if known else "2 or more"
            raise TaskDataError(f"{place}: {len(choices)} choices; an example must have {wanted}")
        return tuple(choices if beginning is None else [f"{beginning} {choice}" for choice in choices])

    def _choice(self, place: str, value: Any) -> int:
        count = len(self._texts["choices"][-1])
        number = self._numbers.get(_name(value)) if self._numbers else int(_name(value)) if _name(value).isdecimal() else None
        if number is None or number >= count:
            wanted = (
                f"one of {', '.join(self._numbers)}"
                if self._numbers
                else f"a number from 0 to {count - 1}; or give label_names, such as A,B,C,D"
            )
            raise TaskDataError(f"{place}: {self.task.label!r} is {_shown(value)}; it must be {wanted}")
        return number

    def _class(self, place: str, value: Any) -> int:
        name = _name(value)
        number = self._numbers.get(name)
        if number is not None:
            return number
        column = self.task.label_column
        if not isinstance(value, str | int | float) or not name:
            raise TaskDataError(f"{place}: the label in {column!r} is {_shown(value)}; it must be a name or a number")
        if self.label_names is not None:
            known = ", ".join(self.label_names[:20]) + ", ..." * (len(self.label_names) > 20)
            raise TaskDataError(f"{place}: the label {_shown(value)} in {column!r} is not known; known are {known}")
        return self._numbers.setdefault(name, len(self._numbers))

    def _several(self, place: str, value: Any) -> list[int]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(self.task.label_separator)] if value.strip() else []
        if not isinstance(value, list):
            raise TaskDataError(
                f"{place}: {self.task.label!r} is {_shown(value)}; it must be a list, or text with labels parted by a separator"
            )
        return [self._class(place, part) for part in value]

    def _tags(self, place: str, value: Any) -> np.ndarray:
        words = self._texts["words"][-1]
        if not isinstance(value, list) or len(value) != len(words):
            count = f"{len(value)} labels" if isinstance(value, list) else _shown(value)
            raise TaskDataError(f"{place}: {count} in {self.task.tags!r} for {len(words)} words")
        return np.array([self._class(place, part) for part in value], np.int32)


def _text(place: str, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TaskDataError(f"{place}: {column!r} is {_shown(value)}; it must be text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TaskDataError(f"{place}: {column!r} holds no valid Unicode at character {error.start}") from None
    return value


def _words(place: str, column: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise TaskDataError(f"{place}: {column!r} is {_shown(value)}; it must be a list of words")
    return [_text(place, column, word) for word in value]


def _number(place: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise TaskDataError(f"{place}: the label is {_shown(value)}; it must be a number")
    return number


def _answers(place: str, value: Any, passage: str) -> tuple[Answer, ...]:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), list) for name in ("text", "answer_start")):
        raise TaskDataError(f'{place}: the answers are {_shown(value)}; they must be {{"text": [...], "answer_start": [...]}}')
    if len(value["text"]) != len(value["answer_start"]):
        raise TaskDataError(f"{place}: {len(value['text'])} texts of answers, but {len(value['answer_start'])} starts")
    for text, start in zip(value["text"], value["answer_start"]):
        if not isinstance(start, int) or isinstance(start, bool) or not isinstance(text, str) or not text.strip():
            raise TaskDataError(f"{place}: the answer {_shown(text)} at {_shown(start)} is no text at a character's number")
        if start < 0 or passage[start : start + len(text)] != text:
            there = passage[max(0, start) : max(0, start) + len(text)]
            raise TaskDataError(
                f"{place}: the answer {_shown(text)} is not at its answer_start {start}, where the passage has {_shown(there)}"
            )
    return tuple(zip(value["answer_start"], value["text"]))


def _name(value: Any) -> str:
    """A class's name: text as it is, numbers in digits."""
    return value.strip() if isinstance(value, str) else str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _sort_key(name: str) -> tuple:
    """Whole numbers by their size, before other names."""
    return (0, int(name), name) if name.removeprefix("-").isdecimal() else (1, 0, name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
