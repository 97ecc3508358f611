"""What a fine-tuning task's data looks like: its kind, its files' format, and the names of its columns."""

import dataclasses

KINDS = {
    "classification": "one label for a text or a pair",
    "multilabel": "any number of labels for a text or a pair",
    "regression": "a number for a text or a pair",
    "tokens": "a label for each word",
    "span": "the answer to a question, a part of the passage, or none",
    "choice": "one of several continuations of a text",
    "embedding": "texts that belong together, perhaps with one that does not, a score, or a label",
    "ranking": "a query, a passage and how relevant it is",
}
FORMATS = ("auto", "csv", "tsv", "jsonl", "conll", "squad", "parquet", "arrow", "tfds")
LABEL_TYPES = ("class", "score")


class TaskDataError(ValueError):
    """A task's data cannot be used; the message names the file, the line (or row, or question) and the fix."""


@dataclasses.dataclass(frozen=True)
class TaskData:
    """The columns of a task's data. Raises TaskDataError for a value that makes no sense.

    A column is named as in the file's header, JSON object or schema; in a file without a header, and in CoNLL files, by its number, counted
    from "0", or from "-1" at the right end.

    kind: one of KINDS. format: one of FORMATS; "auto" goes by the file's name.
    text, text_pair: the text and what follows it in a pair; None: single texts. For "span" the question and the passage, for "ranking" the
      query and the passage, for "embedding" the two texts that belong together. For "choice" the text, and what every choice begins with
      (or None).
    negative: "embedding" only: a third text, which does not belong to the first. None: there is none.
    label: None where the data has none (to predict). A class; for "multilabel" several, a JSON list or parted by `label_separator`; for
      "regression" and "ranking" a number; for "choice" the number of the right one, from 0, or one of `label_names`; for "span" the
      answers, as SQuAD has them: {"text": [...], "answer_start": [...]}. For "embedding" a number or a class, as `label_type` says. For
      "tokens" see `tags`.
    choices: the columns of the choices, or the only one, which then holds a list of them.
    tokens, tags: "tokens" only: lists of words and of their labels. In CoNLL files "tokens" and "tags" stand for the first and the last
      column; tags None: no labels.
    id: names the examples in predictions; None: their numbers.
    label_names: all classes in the order of their numbers; None: those of the TensorFlow data set, or those found, sorted.
    has_header: of CSV and TSV.
    """

    kind: str
    format: str = "auto"
    text: str = "text"
    text_pair: str | None = None
    negative: str | None = None
    label: str | None = "label"
    label_type: str = "score"
    label_separator: str = ","
    choices: tuple[str, ...] = ()
    tokens: str = "tokens"
    tags: str | None = "tags"
    id: str | None = None
    label_names: tuple[str, ...] | None = None
    has_header: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, KINDS),
            ("format", self.format, FORMATS),
            ("label_type", self.label_type, LABEL_TYPES),
        ):
            if value not in known:
                raise TaskDataError(f"{name}={value!r} is unknown; known: {', '.join(known)}")
        if self.kind in ("span", "ranking", "embedding") and self.text_pair is None:
            what = {"span": "the passage", "ranking": "the passage", "embedding": "the text that belongs to the first"}[self.kind]
            raise TaskDataError(f"kind={self.kind!r} needs text_pair, the column of {what}")
        if (self.kind == "choice") != bool(self.choices):
            raise TaskDataError(
                f"kind={self.kind!r} with choices={self.choices!r}: the columns of the choices belong to kind='choice', and only there"
            )
        if self.negative is not None and self.kind != "embedding":
            raise TaskDataError(f"kind={self.kind!r} has no negative={self.negative!r}; leave it None")
        if self.format == "squad" and self.kind != "span" or self.format == "conll" and self.kind != "tokens":
            raise TaskDataError(f"format={self.format!r} does not hold data of kind={self.kind!r}")
        if self.label_names is not None and (len(set(self.label_names)) < len(self.label_names) or not self.label_names):
            raise TaskDataError(f"label_names={self.label_names!r} must be different names, at least one")

    @property
    def has_classes(self) -> bool:
        """Whether labels are names that are numbered."""
        return self.kind in ("classification", "multilabel", "tokens") or self.kind == "embedding" and self.label_type == "class"

    @property
    def label_column(self) -> str | None:
        return self.tags if self.kind == "tokens" else self.label

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        texts = [self.tokens] if self.kind == "tokens" else [self.text, self.text_pair, self.negative, *self.choices]
        return [column for column in (*texts, self.label_column, self.id) if column is not None]
