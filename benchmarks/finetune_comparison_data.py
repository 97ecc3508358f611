"""Data of benchmarks/finetune_comparison.py: seven public sets, each in the files of its source, as JSON lines that both sides read. Standard library only.

A set becomes a folder: train.jsonl and eval.jsonl (columns: `finetune_comparison_tasks.COLUMNS`), labels.json (the classes in their order) and, for
retrieval, queries.txt and corpus.txt (a text in each line) and qrels.json ({query's line: passage's line}). Sets without a split of their own are split by
article, never by row.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from finetune_comparison_tasks import TASKS, Task

NER_EVERY, SQUAD_EVERY, RETRIEVAL_EVERY = 5, 8, 4  # every so many articles, one is held out
Row = dict[str, object]
Parts = tuple[list[Row], list[Row]]  # training, evaluation


def prepare(task: Task, data: Path, directory: Path) -> str:
    """Writes the task's folder, whole or not at all, unless it is there; returns the digest of its files. SystemExit naming a set that is not there."""
    source, place = data / task.name, directory / task.name
    if not source.is_dir():
        raise SystemExit(f"{source} is not there; docs/results.md says where the sets come from and which files a folder holds, or leave the task out with --tasks")
    if not place.is_dir():
        temporary = place.with_name(place.name + ".tmp")
        temporary.mkdir(parents=True, exist_ok=True)
        train, evaluation = READERS[task.name](source, temporary)
        train = train[: task.rows] if task.rows else train
        for name, rows in (("train", train), ("eval", evaluation)):
            with open(temporary / f"{name}.jsonl", "w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_json(temporary / "labels.json", labels_of(task, train))
        os.replace(temporary, place)
    sums = hashlib.sha256()
    for path in sorted(place.iterdir()):
        sums.update(path.name.encode() + b"\0" + path.read_bytes())
    return sums.hexdigest()[:16]


def labels_of(task: Task, rows: list[Row]) -> list[str]:
    """The classes in the order of their names, as `bert-jax finetune` numbers them."""
    if task.kind == "classification":
        return sorted({str(row["label"]) for row in rows})
    return sorted({tag for row in rows for tag in row["tags"]}) if task.kind == "tokens" else []


def read_jsonl(path: Path) -> list[Row]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def sentiment(source: Path, _: Path) -> Parts:
    train, evaluation = (
        [{"text": row["text"], "label": str(row["label"])} for row in read_jsonl(source / f"{part}.jsonl")] for part in ("train", "dev")
    )
    return train, evaluation


def intents(source: Path, _: Path) -> Parts:
    def rows(name: str) -> list[Row]:
        with open(source / name, encoding="utf-8", newline="") as file:
            return [{"text": " ".join(row["text"].split()), "label": row["category"]} for row in csv.DictReader(file)]

    return rows("train.csv"), rows("test.csv")


def inference(source: Path, _: Path) -> Parts:
    def rows(name: str) -> list[Row]:
        lines = (source / name).read_text(encoding="utf-8-sig").splitlines()[1:]
        return [dict(zip(("text", "pair", "label"), line.split("\t"), strict=True)) for line in lines]

    return rows("adversarial_train_15k.tsv"), rows("conj_dev.tsv")


def sentences(lines: Iterator[str], separator: str | None) -> Iterator[Row]:
    """Of words and tags in the first and last column, blank lines between sentences."""
    words: list[list[str]] = []
    for line in [*lines, ""]:
        if line.strip():
            words.append(line.rstrip("\n").split(separator))
        elif words:
            yield {"tokens": [word[0] for word in words], "tags": [word[-1] for word in words]}
            words = []


def parts_of_speech(source: Path, _: Path) -> Parts:
    train, evaluation = (list(sentences(open(source / f"{part}.tsv", encoding="utf-8"), "\t")) for part in ("train", "dev"))
    return train, evaluation


def names(source: Path, _: Path) -> Parts:
    """Tags stay IOB1, as the set has them: scores count entities, however they are written."""
    rows = list(sentences(open(source / "wikigold.conll.txt", encoding="utf-8"), None))
    parts: Parts = ([], [])
    article = 0
    for row in rows:
        if row["tokens"] == ["-DOCSTART-"]:
            article += 1
        else:
            parts[article % NER_EVERY == NER_EVERY - 1].append(row)
    return parts


def answers(source: Path, _: Path) -> Parts:
    articles = json.loads((source / "dev-v2.0.json").read_text(encoding="utf-8"))["data"]
    parts: Parts = ([], [])
    for number, article in enumerate(articles):
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                found = {name: [answer[name] for answer in question["answers"]] for name in ("text", "answer_start")}
                row = {"id": question["id"], "question": question["question"], "context": paragraph["context"], "answers": found}
                parts[number % SQUAD_EVERY == SQUAD_EVERY - 1].append(row)
    return parts


def retrieval(source: Path, directory: Path) -> Parts:
    """Queries about every so many articles are held out, and look for their passage among all."""
    corpus, queries = (read_jsonl(source / f"{name}.jsonl") for name in ("corpus", "queries"))
    place = {document["_id"]: number for number, document in enumerate(corpus)}
    with open(source / "qrels" / "dev.tsv", encoding="utf-8", newline="") as file:
        relevant = {row["query-id"]: place[row["corpus-id"]] for row in csv.DictReader(file, delimiter="\t")}
    articles = {title: number for number, title in enumerate(dict.fromkeys(document["title"] for document in corpus))}
    texts = [" ".join(document["text"].split()) for document in corpus]
    parts: Parts = ([], [])
    wanted: dict[int, int] = {}
    for query in queries:
        passage = relevant[query["_id"]]
        is_held_out = articles[corpus[passage]["title"]] % RETRIEVAL_EVERY == RETRIEVAL_EVERY - 1
        if is_held_out:
            wanted[len(parts[1])] = passage
        parts[is_held_out].append({"text": " ".join(query["text"].split()), "pair": texts[passage]})
    for name, lines in (("queries", [row["text"] for row in parts[1]]), ("corpus", texts)):
        (directory / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    write_json(directory / "qrels.json", wanted)
    return parts


READERS: dict[str, Callable[[Path, Path], Parts]] = dict(zip(TASKS, (sentiment, intents, inference, parts_of_speech, names, answers, retrieval), strict=True))
