"""A model's scores -> the metrics of its kind of task, and its answers in the words of the data."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipeline.tasks import metrics, squad
from data_pipeline.tasks.answers import OUTSIDE, best_answers, tags_of_examples, tags_of_words
from data_pipeline.tasks.entities import entity_f1
from launch.finetune.outputs import Scores
from launch.finetune.sets import TaskSet
from launch.finetune.task_file import TaskFile

RANKS = ("ndcg@10", "mrr@10", "map")
NAMES = {
    "multilabel": ("f1_micro", "f1_macro", "f1_samples", "accuracy"),
    "regression": ("pearson", "spearman"),
    "span": ("f1", "exact"),
    "choice": ("accuracy",),
    "ranking": RANKS,
}
NEAREST = 512  # rows of a matrix of similarities at a time


def metric_names(task: TaskFile) -> tuple[str, ...]:
    """What evaluations of a task give; the first decides unless the config says otherwise."""
    if task.kind == "classification":
        return ("accuracy", "matthews", "f1_macro", *(("f1",) if task.outputs == 2 else ()))
    if task.kind == "tokens":
        return ("f1", "precision", "recall", "accuracy") if has_entities(task) else ("accuracy",)
    if task.kind == "embedding":
        return ("spearman", "pearson") if has_similarities(task) else ("accuracy", "mrr@10")
    return NAMES[task.kind]


def check_libraries(task: TaskFile) -> None:
    """ImportError, before the first step, where the library of a task's metrics is not installed."""
    of_kinds = {"classification": "sklearn", "choice": "sklearn", "multilabel": "sklearn", "regression": "scipy", "ranking": "pytrec_eval"}
    needed = "scipy" if task.kind == "embedding" and has_similarities(task) else of_kinds.get(task.kind)
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise ImportError(f"the metrics of task.kind={task.kind} need {needed}: pip install 'bert-jax[finetune]'")


def has_entities(task: TaskFile) -> bool:
    """Whether the labels of tokens are those of entities, in IOB."""
    return OUTSIDE in task.labels and all(label == OUTSIDE or label[:2] in ("B-", "I-") for label in task.labels)


def has_similarities(task: TaskFile) -> bool:
    return task.columns["label"] is not None and task.columns["label_type"] == "score"


def metrics_of(task: TaskFile, scores: Scores, part: TaskSet) -> dict[str, float]:
    """Of a set with labels, under `metric_names`."""
    examples, names = part.examples, metric_names(task)
    if task.kind == "classification":
        return metrics.classification(scores.argmax(-1), examples.labels, names)
    if task.kind == "choice":
        return metrics.classification(scores.argmax(-1), examples.labels)
    if task.kind == "multilabel":
        return metrics.multilabel(scores > 0, examples.labels)
    if task.kind == "regression":
        return metrics.correlation(scores[:, 0], examples.labels)
    if task.kind == "tokens":
        predicted, tags = words_of(task, scores, part), tags_of_examples(examples)
        if has_entities(task):
            return {name: value for name, value in entity_f1(predicted, tags).items() if name in names}
        pairs = [(one, other) for ours, theirs in zip(predicted, tags) for one, other in zip(ours, theirs)]
        return {"accuracy": float(np.mean([one == other for one, other in pairs]))}
    if task.kind == "span":
        found = squad.squad({name: answer.text for name, answer in answers_of(task, scores, part).items()}, examples)
        return {name: value / 100 for name, value in found.items()}
    if task.kind == "ranking":
        return ranking(scores[:, 0], examples)
    if has_similarities(task):
        return metrics.similarity(scores[""], scores["pair_"], examples.labels)
    return pairing(scores[""], scores["pair_"])


def answers_of(task: TaskFile, scores: Scores, part: TaskSet):
    has_none = part.examples.answers is None or any(not answers for answers in part.examples.answers)
    return best_answers(
        [row[:, 0] for row in scores], [row[:, 1] for row in scores], part.features, part.examples,
        max_answer_length=task.answer_length, null_threshold=0.0 if has_none else None,
    )  # fmt: skip


def words_of(task: TaskFile, scores: Scores, part: TaskSet) -> list[list[str]]:
    return tags_of_words([row.argmax(-1) for row in scores], part.features, part.examples, task.labels)


def ranking(scores: np.ndarray, examples) -> dict[str, float]:
    """Each query's passages in the order of their scores; those of relevance 0.5 or more are relevant."""
    run: dict[str, dict[str, float]] = {}
    relevance: dict[str, dict[str, int]] = {}
    for number, (query, score, label) in enumerate(zip(examples.texts, scores.tolist(), examples.labels.tolist())):
        run.setdefault(query, {})[str(number)] = score
        relevance.setdefault(query, {})[str(number)] = int(label >= 0.5)
    found = metrics.retrieval(run, relevance)
    return {name: found[name] for name in RANKS}


def pairing(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How near each text's own partner is among all partners, by cosine: the nearest (accuracy), and the mean reciprocal rank among the first ten."""
    first, second = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (first, second))
    own = (first * second).sum(1)
    ranks = np.concatenate([(first[at : at + NEAREST] @ second.T > own[at : at + NEAREST, None] + 1e-6).sum(1) + 1 for at in range(0, len(first), NEAREST)])
    return {"accuracy": float((ranks == 1).mean()), "mrr@10": float(np.where(ranks <= 10, 1 / ranks, 0).mean())}


def probabilities_of(kind: str, scores: np.ndarray) -> np.ndarray:
    """float64, of classes over the last axis: of several labels each by itself, of any others together 1."""
    scores = np.asarray(scores, np.float64)
    if kind == "multilabel":
        return 1 / (1 + np.exp(-scores))
    powers = np.exp(scores - np.max(scores, -1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def predictions_of(task: TaskFile, scores: Scores, part: TaskSet) -> Iterator[dict[str, Any]]:
    """A JSON object for each example: its id, the answer, and how sure the model is."""
    examples = part.examples
    if task.kind == "span":
        for name, found in answers_of(task, scores, part).items():
            best = [{"text": answer.text, "start": answer.start, "score": round(answer.score, 4)} for answer in found.best[:5]]
            yield {"id": name, "answer": found.text, "null_difference": round(found.null_difference, 4), "best": best}
        return
    if task.kind == "tokens":
        for name, words, tags in zip(examples.ids, examples.words, words_of(task, scores, part)):
            yield {"id": name, "words": words, "tags": tags}
        return
    if task.kind == "embedding":
        first, second = (scores[side] / np.linalg.norm(scores[side], axis=1, keepdims=True) for side in ("", "pair_"))
        for name, cosine in zip(examples.ids, (first * second).sum(1).tolist()):
            yield {"id": name, "similarity": round(cosine, 4)}
        return
    for name, row in zip(examples.ids, np.asarray(scores, np.float64)):
        if task.kind in ("classification", "choice"):
            shares = probabilities_of(task.kind, row)
            label = int(row.argmax()) if task.kind == "choice" else task.labels[row.argmax()]
            yield {"id": name, "label": label, "probability": round(float(shares.max()), 4)}
        elif task.kind == "multilabel":
            shares = probabilities_of(task.kind, row)
            yield {"id": name, "labels": [label for label, share in zip(task.labels, shares) if share > 0.5], "probabilities": dict(zip(task.labels, shares.round(4).tolist()))}
        else:
            yield {"id": name, "score": round(float(row[0]), 4)}


def shown(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
