"""Scores of benchmarks/finetune_comparison.py: the metrics of both sides by the same code, from what each wrote; whether both read the same tokens; and how
far two sets of predictions of one model lie apart. Neither jax nor torch is loaded.

Both sides' answers become those of the data: a label for each example, tags for its words, (answer, best span) for its question, the first "" where none is thought to
be there; vectors of queries and passages. "span f1" is of the best span, for questions that have an answer, whether or not it is thought to be there.
"""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from finetune_comparison_data import read_jsonl
from finetune_comparison_tasks import Task, columns_of

from data_pipeline.tasks import metrics, squad
from data_pipeline.tasks.answers import best_answers, tags_of_examples, tags_of_words
from data_pipeline.tasks.encode import Features, encode
from data_pipeline.tasks.entities import entity_f1
from data_pipeline.tasks.examples import Examples, read_examples
from data_pipeline.tasks.task_data import TaskData
from data_pipeline.tokenization import tokenizers

ANSWER_LENGTH = 30  # configs/finetune/squad.py
TOP = 100  # passages of a query that are ranked


@dataclasses.dataclass(frozen=True)
class Part:
    """A task's training or evaluation set as bert_jax reads it."""

    examples: Examples
    features: Features


def read_part(task: Task, directory: Path, name: str, tokenizer_dir: Path) -> Part:
    labels = tuple(json.loads((directory / "labels.json").read_text(encoding="utf-8"))) or None
    data = TaskData(task.kind, format="jsonl", label_names=labels, **columns_of(task))
    examples = read_examples(str(directory / f"{name}.jsonl"), data)
    stride = {"doc_stride": task.stride} if task.kind == "span" else {}
    return Part(examples, encode(examples, tokenizers.load(tokenizer_dir), data, task.length, **stride))


def check_same_tokens(part: Part, path: Path) -> int:
    """How many there are. SystemExit unless the other side's token ids, in `path`, are those of bert_jax."""
    theirs = np.load(path)
    towers = part.features.towers.values()
    ids, lengths = np.concatenate([tower.ids for tower in towers]), np.concatenate([tower.lengths for tower in towers])
    if not np.array_equal(lengths, theirs["lengths"]) or not np.array_equal(ids, theirs["values"]):
        raise SystemExit(f"{path} holds other token ids than bert_jax reads")
    return len(ids)


def ragged(path: Path) -> list[np.ndarray]:
    held = np.load(path)
    return np.split(held["values"], np.cumsum(held["lengths"])[:-1])


def answers_of_torch(task: Task, part: Part, output: Path) -> Any:
    """From OUTPUT of finetune_comparison_torch.py."""
    if task.kind == "embedding":
        return {name: np.load(output / f"{name}.npy") for name in ("queries", "corpus")}
    scores, names = ragged(output / "eval_scores.npz"), part.examples.label_names
    if task.kind == "classification":
        return [names[row[0].argmax()] for row in scores]
    if task.kind == "tokens":
        return tags_of_words([row.argmax(-1) for row in scores], part.features, part.examples, names)
    found = found_of_torch(part, scores)
    return {name: (of_question.text, best_text([answer.text for answer in of_question.best])) for name, of_question in found.items()}


def found_of_torch(part: Part, scores: list[np.ndarray]) -> dict:
    starts, ends = ([row[:, end] for row in scores] for end in (0, 1))
    return best_answers(starts, ends, part.features, part.examples, max_answer_length=ANSWER_LENGTH, null_threshold=0.0)


def answers_of_ours(task: Task, predictions: Path) -> Any:
    """From the lines of `bert-jax predict` (or a run's predictions-eval.jsonl); of retrieval: from the folder with both sets of vectors."""
    if task.kind == "embedding":
        return {name: np.load(predictions / f"{name}.npy") for name in ("queries", "corpus")}
    rows = read_jsonl(predictions)
    if task.kind == "span":
        return {row["id"]: (row["answer"], best_text([answer["text"] for answer in row["best"]])) for row in rows}
    return [row["tags" if task.kind == "tokens" else "label"] for row in rows]


def best_text(texts: list[str]) -> str:
    """The first that is an answer."""
    return next(filter(None, texts), "")


def score(task: Task, part: Part, answers: Any, directory: Path) -> dict[str, float]:
    """The task's metrics and, where the code has more, those."""
    examples = part.examples
    if task.kind == "classification":
        number = {name: place for place, name in enumerate(examples.label_names)}
        return metrics.classification(np.array([number[label] for label in answers]), examples.labels, ("accuracy", "f1_macro"))
    if task.kind == "tokens":
        truth = tags_of_examples(examples)
        if task.metrics == ("accuracy",):
            return {"accuracy": float(np.mean([one == other for ours, tags in zip(answers, truth) for one, other in zip(ours, tags, strict=True)]))}
        return {name: value for name, value in entity_f1(answers, truth).items() if name in task.metrics}
    if task.kind == "span":
        found = squad.squad({name: answer for name, (answer, _) in answers.items()}, examples)
        spans = [
            max(squad.f1(answers[name][1], text) for _, text in given) for name, given in zip(examples.ids, examples.answers, strict=True) if given
        ]
        return {name: value / 100 for name, value in found.items()} | {"span f1": float(np.mean(spans))}
    wanted = json.loads((directory / "qrels.json").read_text(encoding="utf-8"))
    found = nearest(answers["queries"], answers["corpus"])
    run = {str(query): {str(passage): float(value) for passage, value in row} for query, row in enumerate(found)}
    return metrics.retrieval(run, {query: {str(passage): 1} for query, passage in wanted.items()})


def nearest(queries: np.ndarray, corpus: np.ndarray) -> list[list[tuple[int, float]]]:
    """(passage, cosine) of each query's nearest."""
    queries, corpus = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (queries, corpus))
    cosines = queries @ corpus.T
    return [[(int(passage), row[passage]) for passage in np.argsort(-row, kind="stable")[:TOP]] for row in cosines]


def baseline(task: Task, part: Part, directory: Path) -> dict[str, float]:
    """The score of what needs no model: always the commonest class of these very examples, no name, no answer. Nothing for retrieval."""
    examples = part.examples
    if task.kind == "embedding":
        return {}
    if task.kind == "span":
        return score(task, part, dict.fromkeys(examples.ids, ("", "")), directory)
    numbers = examples.labels if task.kind == "classification" else np.concatenate(examples.labels)
    commonest = examples.label_names[Counter(numbers.tolist()).most_common(1)[0][0]]
    answers = [commonest] * len(examples) if task.kind == "classification" else [[commonest] * len(words) for words in examples.words]
    return score(task, part, answers, directory)


def difference(task: Task, part: Part, ours: Path, theirs: Path) -> dict[str, Any]:
    """Two sets of predictions of one model, ours by `bert-jax predict` (retrieval: `bert-jax embed`), theirs by transformers. compared: answers, or numbers
    of vectors. agreement: the share of answers that are the same. largest: difference of what is told with them (`of`), which `predict` rounds to 4 digits."""
    one, other = answers_of_ours(task, ours), answers_of_torch(task, part, theirs)
    if task.kind == "embedding":
        gaps = [np.abs(one[name] - other[name]) for name in one]
        top = [[row[0][0] for row in nearest(side["queries"], side["corpus"])] for side in (one, other)]
        return {
            "compared": len(top[0]), "answers": "nearest passages", "agreement": float(np.mean(np.equal(*top))),
            "largest": float(max(gap.max() for gap in gaps)), "of": "a vector's numbers",
        }  # fmt: skip
    if task.kind == "tokens":
        same = [left == right for ours_, theirs_ in zip(one, other, strict=True) for left, right in zip(ours_, theirs_, strict=True)]
        return {"compared": len(same), "answers": "tags", "agreement": float(np.mean(same)), "largest": None, "of": ""}
    rows, scores = read_jsonl(ours), ragged(theirs / "eval_scores.npz")
    if task.kind == "span":
        found = found_of_torch(part, scores)
        gaps = [abs(row["null_difference"] - found[row["id"]].null_difference) for row in rows]
        gaps += [abs(row["best"][0]["score"] - found[row["id"]].best[0].score) for row in rows]
        same, about = [one[name] == other[name] for name in one], "scores of the best answer and of none"
        return {"compared": len(same), "answers": "answers", "agreement": float(np.mean(same)), "largest": float(max(gaps)), "of": about}
    logits = np.concatenate(scores).astype(np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    same = [left == right for left, right in zip(one, other, strict=True)]
    gap = np.abs(np.array([row["probability"] for row in rows]) - shares.max(-1)).max()
    return {"compared": len(same), "answers": "labels", "agreement": float(np.mean(same)), "largest": float(gap), "of": "the label's probability"}
