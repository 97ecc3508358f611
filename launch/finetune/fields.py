"""The fields of a fine-tuning config (`configs/finetune/`), in the one config system."""

from launch.fields import FIELDS as PRETRAINING_FIELDS
from launch.fields import NAMED_SECTIONS, Schema

SHARED = ("compute.", "optimizer.", "schedule.", "bad_steps.", "mesh.", "batch_size", "accumulate", "log_every")
FIELDS: dict[str, tuple[type, str]] = {
    "seeds": (tuple, "each is a run of its own, from the head's first weights to the order of the data; scores are told with mean and spread"),
    "steps": (int, "optimizer updates of a run, or a length such as '3 epochs'"),
    "length": (int, "tokens of the longest input, special tokens included; longer ones are cut, passages taken in windows"),
    "task.kind": (str, "classification, multilabel, regression, tokens, span, choice, ranking or embedding"),
    "task.train": (str, "a file of examples, a quoted glob, or tfds:NAME:SPLIT"),
    "task.eval": (str, "examples by which checkpoints are chosen"),
    "task.test": (str, "examples scored once, with the chosen checkpoint; empty: none"),
    "task.format": (str, "csv, tsv, jsonl, parquet, arrow, conll, squad, tfds, or auto: by the file's name"),
    "task.has_header": (bool, "of CSV and TSV; without one columns are named by their numbers, from 0"),
    "task.text": (str, "column of the text; of the question, of the query"),
    "task.text_pair": (str, "column of the second text, the passage; empty: single texts"),
    "task.negative": (str, "of embedding: column of a text that does not belong to the first; empty: none"),
    "task.label": (str, "column of the label, number or answers"),
    "task.label_type": (str, "of embedding: what a label is, score or class"),
    "task.label_separator": (str, "of multilabel: between labels in one column"),
    "task.label_names": (tuple, "all classes in the order of their numbers; empty: those of the training data, sorted"),
    "task.choices": (tuple, "of choice: columns of the choices, or the one that holds a list of them"),
    "task.tokens": (str, "of tokens: column of the words"),
    "task.tags": (str, "of tokens: column of their labels"),
    "task.id": (str, "column that names the examples in predictions; empty: their numbers"),
    "task.metric": (str, "by which the best checkpoint and seed are chosen; empty: the first of the kind's"),
    "task.class_weights": (tuple, "of each class in the loss of classification; the word balanced: the inverse of its share; empty: all alike"),
    "task.loss": (str, "of embedding: multiple_negatives, triplet, cosine or softmax; empty elsewhere"),
    "task.stride": (int, "of span: tokens that two windows of a long passage share"),
    "task.answer_length": (int, "of span: tokens in the longest answer"),
    "head.pooling": (str, "the vector of a sequence: cls, mean or max"),
    "head.dropout": (float, "before the classifier"),
    "model.dropout": (float, "after embeddings, attention output and MLP; -1: as pretrained"),
    "model.attention_dropout": (float, "on attention probabilities; -1: as pretrained"),
    **{field: about for field, about in PRETRAINING_FIELDS.items() if field.startswith(SHARED)},
    "eval.every": (int, "steps between evaluations; 0: after every epoch"),
    "eval.batch_size": (int, "examples per batch of evaluation, over all devices"),
    "eval.patience": (int, "evaluations without a better score after which a run ends; 0: none does"),
    "checkpoint.keep": (int, "newest checkpoints of a run that are kept beside the best, at least 2"),
}
FINETUNING = Schema(FIELDS, {name: NAMED_SECTIONS[name] for name in ("schedule", "optimizer")}, "finetune", folder="finetune")
