"""What a model's outputs say in the words of the data. Enters: `Features`, `Examples` and the outputs. Leaves: answers in text, tags of
words.

numpy only. The best answers over the windows of a passage are found as in BERT (Devlin et al. 2018, sections 4.2 and 4.3).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline.tasks.encode import Features
from data_pipeline.tasks.examples import Examples

OUTSIDE = "O"


@dataclasses.dataclass(frozen=True)
class Answer:
    """text is "" for "there is none"; start: its first character in the passage, -1 without an answer. score: the sum of its two logits."""

    text: str
    start: int
    score: float


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer to a question. best: up to n_best, by falling score, the empty one among them. null_difference: the score of no answer
    less that of the best answer; high where the passage seems to hold none."""

    text: str
    best: tuple[Answer, ...]
    null_difference: float


def best_answers(
    start_logits: Sequence[np.ndarray] | np.ndarray,
    end_logits: Sequence[np.ndarray] | np.ndarray,
    features: Features,
    examples: Examples,
    n_best: int = 20,
    max_answer_length: int = 30,
    null_threshold: float | None = 0.0,
) -> dict[str, Found]:
    """The answer to each question, by its id.

    start_logits, end_logits: of feature i, from its first column on; float [R, L], or R arrays [L]; padding is not read.
    max_answer_length: in tokens.
    null_threshold: there is no answer where null_difference is above it; None: there always is one (SQuAD 1.1).

    An answer lies in one window; the score of no answer is the lowest of the windows' [CLS], for the passage holds an answer if one window
    does."""
    tower = features.towers[""]
    by_example: list[list[Answer]] = [[] for _ in range(len(examples))]
    null_scores = np.full(len(examples), np.inf)
    for window, example in enumerate(features.examples.tolist()):
        offsets = features.offsets[tower.bounds[window] : tower.bounds[window + 1]]
        starts = np.asarray(start_logits[window], np.float64)[: len(offsets)]
        ends = np.asarray(end_logits[window], np.float64)[: len(offsets)]
        null_scores[example] = min(null_scores[example], starts[0] + ends[0])
        is_passage = offsets[:, 0] >= 0
        by_example[example] += _of_window(
            starts, ends, offsets, np.flatnonzero(is_passage), examples.pairs[example], n_best, max_answer_length
        )
    found = {}
    for number, name in enumerate(examples.ids):
        ranked = sorted(by_example[number], key=lambda answer: -answer.score)[:n_best]
        null = Answer("", -1, float(null_scores[number]))
        difference = null.score - ranked[0].score if ranked else np.inf
        text = "" if not ranked or null_threshold is not None and difference > null_threshold else ranked[0].text
        if null_threshold is not None:
            ranked = sorted([*ranked, null], key=lambda answer: -answer.score)
        found[name] = Found(text, tuple(ranked), float(difference))
    return found


def _of_window(
    starts: np.ndarray, ends: np.ndarray, offsets: np.ndarray, columns: np.ndarray, passage: str, n_best: int, max_answer_length: int
) -> list[Answer]:
    """The n_best spans among the n_best starts and ends of the window's passage, whose columns are `columns`."""
    if not len(columns):
        return []
    first = columns[np.argsort(-starts[columns], kind="stable")[:n_best]]
    last = columns[np.argsort(-ends[columns], kind="stable")[:n_best]]
    begin, end = (grid.reshape(-1) for grid in np.meshgrid(first, last, indexing="ij"))
    fits = (begin <= end) & (end - begin < max_answer_length)
    begin, end = begin[fits], end[fits]
    scores = starts[begin] + ends[end]
    answers = []
    for place in np.argsort(-scores, kind="stable")[:n_best]:
        text = passage[offsets[begin[place], 0] : offsets[end[place], 1]]
        stripped = text.strip()
        if stripped:
            start = int(offsets[begin[place], 0]) + len(text) - len(text.lstrip())
            answers.append(Answer(stripped, start, float(scores[place])))
    return answers


def tags_of_words(
    predicted: Sequence[np.ndarray] | np.ndarray, features: Features, examples: Examples, label_names: Sequence[str]
) -> list[list[str]]:
    """A tag for each word of each example: what was predicted at its first sub-word.

    predicted: classes of feature i's tokens, from its first column on; int [R, L], or R arrays [L].

    Words that the length cut off, and words without a token (control characters), count as OUTSIDE: they are not left out of a score."""
    tower = features.towers[""]
    tags = [[OUTSIDE] * len(words) for words in examples.words]
    for row, example in enumerate(features.examples.tolist()):
        words = features.first_words[tower.bounds[row] : tower.bounds[row + 1]]
        columns = np.flatnonzero(words >= 0)
        for word, number in zip(words[columns].tolist(), np.asarray(predicted[row])[columns].tolist()):
            tags[example][word] = label_names[number]
    return tags


def tags_of_examples(examples: Examples) -> list[list[str]]:
    """The tags that the data has."""
    return [[examples.label_names[number] for number in labels] for labels in examples.labels]
