"""What the report page tells of a fine-tuned model besides its scores: counts of labels, always the commonest answer, which classes are taken for which, and
the worst of its mistakes. Enter: scores of a set with labels. Leaves: plain JSON values of a size that does not grow with the set."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_pipeline.tasks.answers import tags_of_examples
from data_pipeline.tasks.entities import entities
from data_pipeline.tasks.squad import exact_match
from launch.finetune.outputs import Scores
from launch.finetune.scoring import answers_of, has_entities, metric_names, metrics_of, probabilities_of, words_of
from launch.finetune.sets import TaskSet, TaskSets
from launch.finetune.task_file import TaskFile

NAME = "outcome.json"
MISTAKES = 8
CONFUSED = 12  # pairs of classes
MATRIX = 12  # classes at most, for a table of all pairs
CLASSES = 100
CHARACTERS = 600  # of a text that is shown


def facts_of_sets(sets: TaskSets) -> dict[str, Any]:
    """Of each set: how many examples, rows and tokens there are, how many lost tokens to the length, and how often each label occurs."""
    return {name: facts_of_set(part, sets.labels) for name, part in (("train", sets.train), ("eval", sets.eval), ("test", sets.test)) if part is not None}


def facts_of_set(part: TaskSet, labels: tuple[str, ...] | None) -> dict[str, Any]:
    counts = counts_of(part, labels)
    facts = {"examples": len(part.examples), "rows": len(part.features), "mean_length": float(part.features.lengths().mean()), "cut": part.features.truncated}
    return facts | ({} if counts is None else {"labels": dict(zip(labels, counts.tolist()))})


def counts_of(part: TaskSet, labels: tuple[str, ...] | None) -> np.ndarray | None:
    """int64 [classes]: how often each is a label; None where labels are no classes."""
    held = part.examples.labels
    if not labels or held is None:
        return None
    if isinstance(held, list):
        held = np.concatenate(held)
    return held.sum(0).astype(np.int64) if held.ndim == 2 else np.bincount(held.astype(np.int64), minlength=len(labels))


def outcome_of(task: TaskFile, scores: Scores, sets: TaskSets) -> dict[str, Any]:
    """Of the evaluation set, which the scores are of."""
    part = sets.eval
    found: dict[str, Any] = {"baseline": baseline_of(task, sets)}
    if task.kind == "classification":
        found |= classes_of(task.labels, part.examples.labels, scores.argmax(-1))
    elif task.kind == "multilabel":
        found["classes"] = class_scores(task.labels, *(array.sum(0) for array in ((scores > 0) & (part.examples.labels > 0), scores > 0, part.examples.labels)))
    elif task.kind == "tokens":
        predicted, tags = words_of(task, scores, part), tags_of_examples(part.examples)
        if has_entities(task):
            counts = [Counter(kind for *_, kind in entities_of(*sides)) for sides in ((predicted, tags), (predicted,), (tags,))]
            names = sorted({*counts[1], *counts[2]})
            found["classes"] = class_scores(names, *([count[name] for name in names] for count in counts))
        else:
            place = {label: number for number, label in enumerate(task.labels)}
            right, given = (np.array([place[tag] for line in side for tag in line]) for side in (tags, predicted))
            found |= classes_of(task.labels, right, given)
    wrong = MISTAKES_OF.get(task.kind, lambda *_: [])(task, scores, part)
    count = None if task.kind in ("regression", "ranking") else len(wrong)
    return found | {"wrong": count, "mistakes": sorted(wrong, key=lambda one: -one["sure"])[:MISTAKES]}


def baseline_of(task: TaskFile, sets: TaskSets) -> dict[str, Any] | None:
    """The scores of an answer that is always the same, the commonest of the training data; None where there is no such answer."""
    examples, counts = sets.eval.examples, counts_of(sets.train, sets.labels)
    if task.kind == "span":
        empty = [not answers for answers in examples.answers or []]
        return {"answer": "no answer", "scores": dict.fromkeys(("f1", "exact"), float(np.mean(empty)))} if any(empty) else None
    if task.kind == "choice":
        commonest = int(np.bincount(sets.train.examples.labels).argmax())
        return {"answer": f"choice {commonest}", "scores": {"accuracy": float(np.mean(examples.labels == commonest))}}
    if counts is None or task.kind not in ("classification", "tokens"):
        return None
    commonest = int(counts.argmax())
    if task.kind == "tokens":
        words = np.concatenate(examples.labels)
        nothing = dict.fromkeys(set(metric_names(task)) - {"accuracy"}, 0.0) if task.labels[commonest] == "O" else {}
        return {"answer": task.labels[commonest], "scores": {"accuracy": float(np.mean(words == commonest))} | nothing}
    always = np.zeros((len(examples), task.outputs), np.float32)
    always[:, commonest] = 1
    return {"answer": task.labels[commonest], "scores": metrics_of(task, always, sets.eval)}


def classes_of(labels: tuple[str, ...], right: np.ndarray, given: np.ndarray) -> dict[str, Any]:
    """right, given: classes, int [N]. Of each class its scores; which are taken for which."""
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (right, given), 1)
    off = counts * (1 - np.eye(len(labels), dtype=np.int64))
    worst = [divmod(int(place), len(labels)) for place in np.argsort(-off, axis=None, kind="stable")[:CONFUSED]]
    confused = [{"right": labels[one], "given": labels[other], "count": int(off[one, other])} for one, other in worst if off[one, other]]
    matrix = {"labels": list(labels), "counts": counts.tolist()} if len(labels) <= MATRIX else None
    return {"classes": class_scores(labels, counts.diagonal(), counts.sum(0), counts.sum(1)), "confused": confused, "matrix": matrix}


def class_scores(names: Iterable[str], hits: Iterable[int], guesses: Iterable[int], wanted: Iterable[int]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of the commonest classes. wanted: how often each is the label; guesses: the answer; hits: both."""
    rows = [
        {"name": name, "count": int(count), "precision": hit / max(guess, 1), "recall": hit / max(count, 1), "f1": 2 * hit / max(guess + count, 1)}
        for name, hit, guess, count in zip(names, *(map(float, side) for side in (hits, guesses, wanted)))
    ]
    return sorted(rows, key=lambda row: -row["count"])[:CLASSES]


def entities_of(*sides: list[list[str]]) -> list[tuple]:
    """The entities that all sides have in a sentence, of all sentences."""
    return [entity for tags in zip(*sides) for entity in set.intersection(*map(entities, tags))]


# ---- mistakes: text, perhaps pair; given, right: answers in words; sure: by which they are ordered, a probability or how far off ----


def mistake(text: str, given: str, right: str, sure: float, pair: str | None = None, unit: str = "probability") -> dict[str, Any]:
    cut = lambda words: words if words is None or len(words) <= CHARACTERS else words[: CHARACTERS - 1] + "…"  # noqa: E731
    return {"text": cut(text), "pair": cut(pair), "given": cut(given), "right": cut(right), "sure": float(sure), "unit": unit}


def of_classes(task: TaskFile, scores: np.ndarray, part: TaskSet) -> list[dict[str, Any]]:
    examples, choice = part.examples, task.kind == "choice"
    shares, given = probabilities_of(task.kind, scores), scores.argmax(-1)
    found = []
    for number in np.flatnonzero(given != examples.labels):
        right, answer = int(examples.labels[number]), int(given[number])
        names = examples.choices[number] if choice else task.labels
        pair = examples.pairs[number] if examples.pairs is not None and not choice else None
        found.append(mistake(examples.texts[number], names[answer], names[right], shares[number, answer], pair))
    return found


def of_several_labels(task: TaskFile, scores: np.ndarray, part: TaskSet) -> list[dict[str, Any]]:
    shares, wanted = probabilities_of(task.kind, scores), part.examples.labels > 0
    off = np.where(wanted != (scores > 0), np.abs(shares - 0.5) + 0.5, 0)
    names = lambda chosen: ", ".join(label for label, one in zip(task.labels, chosen) if one) or "none"  # noqa: E731
    return [
        mistake(part.examples.texts[number], names(scores[number] > 0), names(wanted[number]), off[number].max(), part.examples.pairs and part.examples.pairs[number])
        for number in np.flatnonzero(off.any(1))
    ]


def of_numbers(task: TaskFile, scores: np.ndarray, part: TaskSet) -> list[dict[str, Any]]:
    examples, given = part.examples, scores[:, 0]
    far = np.argsort(-np.abs(given - examples.labels), kind="stable")[:MISTAKES]
    return [
        mistake(examples.texts[at], f"{given[at]:.3g}", f"{examples.labels[at]:.3g}", abs(given[at] - examples.labels[at]), examples.pairs and examples.pairs[at], "off by")
        for at in far.tolist()
    ]


def of_words(task: TaskFile, scores: Scores, part: TaskSet) -> list[dict[str, Any]]:
    """Of each sentence with one the wrong word of which the model is surest."""
    features, found = part.features, []
    bounds, sure = features.towers[""].bounds, [np.zeros(len(words)) for words in part.examples.words]
    for row, example in enumerate(features.examples.tolist()):
        words = features.first_words[bounds[row] : bounds[row + 1]]
        sure[example][words[words >= 0]] = probabilities_of(task.kind, scores[row][words >= 0]).max(-1)
    for words, ours, theirs, shares in zip(part.examples.words, words_of(task, scores, part), tags_of_examples(part.examples), sure):
        wrong = [place for place, (one, other) in enumerate(zip(ours, theirs)) if one != other]
        if wrong:
            at = max(wrong, key=lambda place: shares[place])
            found.append(mistake(" ".join(words), f"{words[at]}: {ours[at]}", f"{words[at]}: {theirs[at]}", shares[at]))
    return found


def of_answers(task: TaskFile, scores: Scores, part: TaskSet) -> list[dict[str, Any]]:
    found, answers = [], answers_of(task, scores, part)
    for number, name in enumerate(part.examples.ids):
        wanted = [text for _, text in part.examples.answers[number]]
        given = answers[name]
        if not any(exact_match(given.text, text) for text in wanted or [""]):
            right, score = " / ".join(dict.fromkeys(wanted)) or "no answer", given.best[0].score if given.best else 0.0
            found.append(mistake(part.examples.texts[number], given.text or "no answer", right, score, part.examples.pairs[number], "score"))
    return found


def of_ranks(task: TaskFile, scores: np.ndarray, part: TaskSet) -> list[dict[str, Any]]:
    """Passages that are not relevant, and have the highest scores."""
    examples = part.examples
    wrong = [at for at in np.argsort(-scores[:, 0], kind="stable").tolist() if examples.labels[at] < 0.5][:MISTAKES]
    return [mistake(examples.texts[at], "ranked high", "not relevant", scores[at, 0], examples.pairs[at], "score") for at in wrong]


MISTAKES_OF = {
    "classification": of_classes, "choice": of_classes, "multilabel": of_several_labels, "regression": of_numbers, "tokens": of_words, "span": of_answers,
    "ranking": of_ranks,
}
