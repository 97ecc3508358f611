"""The other side of benchmarks/finetune_comparison.py, in a process of its own: transformers' Trainer, or sentence-transformers', as they come.

    python benchmarks/finetune_comparison_torch.py train TASK MODEL DATA OUTPUT --seed 0
    python benchmarks/finetune_comparison_torch.py predict TASK MODEL DATA OUTPUT

DATA is the task's folder of `finetune_comparison_data`. Into OUTPUT go eval_scores.npz, as `ragged` has them: the logits of every evaluation row's real
tokens, or its logits (of answers: start and end; of retrieval: queries.npy and corpus.npy); train_ids.npz, train_labels.npz and so on, what went in;
seconds.json.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from finetune_comparison_data import read_jsonl
from finetune_comparison_tasks import EVALUATION_BATCH, RECIPE, TASKS, Task, training_arguments

IGNORED = -100
CLASSES = {
    "classification": transformers.AutoModelForSequenceClassification, "tokens": transformers.AutoModelForTokenClassification,
    "span": transformers.AutoModelForQuestionAnswering,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("train", "predict"))
    parser.add_argument("task", choices=TASKS)
    for name in ("model", "data", "output"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    arguments.output.mkdir(parents=True, exist_ok=True)
    task = TASKS[arguments.task]
    run = of_sentences if task.kind == "embedding" else of_rows
    seconds = run(task, arguments)
    (arguments.output / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    return 0


def of_rows(task: Task, arguments: argparse.Namespace) -> dict[str, float]:
    labels = json.loads((arguments.data / "labels.json").read_text(encoding="utf-8"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    features = {part: ENCODERS[task.kind](task, read_jsonl(arguments.data / f"{part}.jsonl"), tokenizer, labels) for part in ("train", "eval")}
    for part, rows in features.items():
        save_ragged(arguments.output / f"{part}_ids.npz", [row["input_ids"] for row in rows])
        save_ragged(arguments.output / f"{part}_labels.npz", [labels_of(row) for row in rows])
    settings = {}
    if arguments.action == "train":
        transformers.set_seed(arguments.seed)
        settings = {"hidden_dropout_prob": RECIPE.dropout, "attention_probs_dropout_prob": RECIPE.dropout}
        settings |= {"num_labels": len(labels)} if labels else {}
    model = CLASSES[task.kind].from_pretrained(arguments.model, dtype=torch.float32, **settings)
    assert task.kind == "span" or arguments.action == "predict" or model.dropout.p == task.head_dropout
    collator = (transformers.DataCollatorForTokenClassification if task.kind == "tokens" else transformers.DataCollatorWithPadding)(tokenizer)
    trainer = transformers.Trainer(
        model, transformers.TrainingArguments(str(arguments.output / "run"), **training_arguments(task, arguments.seed)),
        train_dataset=features["train"], eval_dataset=features["eval"], data_collator=collator,
    )  # fmt: skip
    seconds = timed(trainer.train) if arguments.action == "train" else {}
    trainer.args.dataloader_drop_last = False  # it holds for evaluation as well
    scores = trainer.predict(features["eval"]).predictions
    scores = np.stack(scores, -1) if task.kind == "span" else scores
    lengths = [1 if task.kind == "classification" else len(row["input_ids"]) for row in features["eval"]]
    scores = scores[:, None] if task.kind == "classification" else scores
    save_ragged(arguments.output / "eval_scores.npz", [row[:length] for row, length in zip(scores, lengths)])
    return seconds


def of_sentences(task: Task, arguments: argparse.Namespace) -> dict[str, float]:
    import datasets
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    seconds = {}
    if arguments.action == "train":
        transformers.set_seed(arguments.seed)
        dropout = {"hidden_dropout_prob": RECIPE.dropout, "attention_probs_dropout_prob": RECIPE.dropout}
        encoder = Transformer(str(arguments.model), max_seq_length=task.length, config_kwargs=dropout, model_kwargs={"dtype": torch.float32})
        model = SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension(), pooling_mode="mean")], device="cpu")
        parts = {part: datasets.Dataset.from_list(read_jsonl(arguments.data / f"{part}.jsonl")) for part in ("train", "eval")}
        settings = SentenceTransformerTrainingArguments(str(arguments.output / "run"), **training_arguments(task, arguments.seed))
        trainer = SentenceTransformerTrainer(
            model, settings, train_dataset=parts["train"], eval_dataset=parts["eval"], loss=MultipleNegativesRankingLoss(model)
        )
        seconds = timed(trainer.train)
        for part, rows in parts.items():
            save_ragged(arguments.output / f"{part}_ids.npz", [ids for column in ("text", "pair") for ids in ids_of(model, rows[column])])
    else:
        model = SentenceTransformer(str(arguments.model), device="cpu")
    for name in ("queries", "corpus"):
        lines = (arguments.data / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        np.save(arguments.output / f"{name}.npy", model.encode(lines, batch_size=EVALUATION_BATCH, show_progress_bar=False))
    return seconds


def ids_of(model, texts: list[str]) -> list[list[int]]:
    return [model.preprocess([text])["input_ids"][0].tolist() for text in texts]


def timed(train) -> dict[str, float]:
    """All updates, one evaluation and one checkpoint."""
    wall, cpu = time.perf_counter(), time.process_time()
    train()
    return {"train_wall": time.perf_counter() - wall, "train_cpu": time.process_time() - cpu}


def encode_texts(task: Task, rows: list[dict], tokenizer, labels: list[str]) -> list[dict]:
    encoded = tokenizer(
        [row["text"] for row in rows], [row["pair"] for row in rows] if task.pair else None, truncation="longest_first", max_length=task.length
    )
    return [{name: encoded[name][number] for name in encoded} | {"labels": labels.index(row["label"])} for number, row in enumerate(rows)]


def encode_words(task: Task, rows: list[dict], tokenizer, labels: list[str]) -> list[dict]:
    """The first piece of a word has its tag."""
    encoded = tokenizer([row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=task.length)
    features = []
    for number, row in enumerate(rows):
        words = encoded.word_ids(number)
        tags = [
            IGNORED if word is None or place and word == words[place - 1] else labels.index(row["tags"][word]) for place, word in enumerate(words)
        ]
        features.append({name: encoded[name][number] for name in encoded} | {"labels": tags})
    return features


def encode_passages(task: Task, rows: list[dict], tokenizer, _: list[str]) -> list[dict]:
    """Windows of the passage. An answer that is not wholly in a window is none: both ends at [CLS]."""
    encoded = tokenizer(
        [row["question"] for row in rows], [row["context"] for row in rows], truncation="only_second", max_length=task.length, stride=task.stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    features = []
    for window, number in enumerate(encoded["overflow_to_sample_mapping"]):
        answers, offsets, sides = rows[number]["answers"], encoded["offset_mapping"][window], encoded.sequence_ids(window)
        start = end = 0
        if answers["text"]:
            begin, stop = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
            passage = [column for column, side in enumerate(sides) if side == 1]
            if passage and offsets[passage[0]][0] <= begin and offsets[passage[-1]][1] >= stop:
                touched = [column for column in passage if offsets[column][1] > begin and offsets[column][0] < stop]
                start, end = touched[0], touched[-1]
        features.append({name: encoded[name][window] for name in ("input_ids", "token_type_ids", "attention_mask")} | {"start_positions": start, "end_positions": end})
    return features


ENCODERS = {"classification": encode_texts, "tokens": encode_words, "span": encode_passages}


def labels_of(row: dict) -> list[int]:
    if "labels" not in row:
        return [row["start_positions"], row["end_positions"]]
    return row["labels"] if isinstance(row["labels"], list) else [row["labels"]]


def save_ragged(path: Path, rows: list) -> None:
    """Rows of several lengths: `values`, one behind the other, and `lengths`."""
    np.savez(path, values=np.concatenate([np.asarray(row) for row in rows]), lengths=np.array([len(row) for row in rows]))


if __name__ == "__main__":
    sys.exit(main())
