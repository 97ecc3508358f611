"""Fine-tuning makes the updates that transformers' Trainer makes: same model with its head, same batches, no dropout, the same losses update by update."""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest
import tokenizers

from bert_jax.interop import huggingface
from bert_jax.interop.tasks import Task
from bert_jax.model.families.tasks import task_spec
from bert_jax.training.state import make_blueprint

pytest.importorskip("torch")
pytest.importorskip("accelerate")  # transformers' Trainer asks for it
MODEL = {
    "family": "bert", "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "max_positions": 32, "vocab_size": 300,
    "initializer_range": 0.2, "dropout": 0.1, "attention_dropout": 0.1,
}  # fmt: skip
SENTENCES = re.findall(r"[^.]{30,90}\.", " ".join(" ".join(topics[name].split()) for name in ("assert", "if", "while", "import")))[:24]
LABELS = {"classification": ["long", "short"], "tokens": ["function", "other"]}
OF_KINDS = {"classification": "mr_sentences", "tokens": "pos_ewt", "span": "squad2_cs224n", "embedding": "ir_squad"}


@pytest.fixture(scope="module")
def steps():
    """The script as a module: it finds its neighbours where Python finds them when it runs as a script."""
    directory = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, directory)
    try:
        module = importlib.import_module("finetune_comparison_steps")
        module.UPDATES = 10
        yield module
    finally:
        sys.path.remove(directory)


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(SENTENCES, vocab_size=MODEL["vocab_size"], min_frequency=1, show_progress=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def row_of(kind: str, number: int, sentence: str) -> dict:
    words = sentence.split()
    if kind == "classification":
        return {"text": sentence, "label": LABELS[kind][len(sentence) < 60]}
    if kind == "tokens":
        return {"tokens": words, "tags": [LABELS[kind][len(word) > 3] for word in words]}
    if kind == "embedding":
        return {"text": " ".join(words[:4]), "pair": " ".join(words[4:])}
    answers = {"text": [words[2]], "answer_start": [sentence.index(words[2])]} if number % 3 else {"text": [], "answer_start": []}
    return {"id": str(number), "question": "which", "context": sentence, "answers": answers}


@pytest.mark.parametrize("kind", OF_KINDS)
def test_updates_are_those_of_trainer(steps, tokenizer_dir, tmp_path, kind):
    rows = [row_of(kind, number, " ".join(sentence.split())) for number, sentence in enumerate(SENTENCES)]
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = dataclasses.replace(steps.TASKS[OF_KINDS[kind]], length=32, batch_size=8, peak=1e-2, rows=0, stride=8 if kind == "span" else 0)
    outputs = {"span": 2, "embedding": 1}.get(kind, 2)
    head = Task(kind, outputs, "mean" if kind == "embedding" else "cls", task.head_dropout, LABELS.get(kind) and tuple(LABELS[kind]), 32)
    params = make_blueprint(task_spec(MODEL, kind=kind, outputs=outputs, pooling=head.pooling, dropout=head.dropout)).init(jax.random.key(0))
    huggingface.export(jax.device_get(params), MODEL, tokenizer_dir, tmp_path / "model", task=head)
    job, sets, held = steps.open_job(task, tmp_path / "model", tmp_path)
    source = steps.TaskBatches(sets.train.features, batch_size=8, lengths=(32,), seed=0)
    batches = [source.batch(step) for step in range(10)]
    ours = steps.our_losses(job, held, batches)
    theirs, as_it_comes = steps.torch_losses(task, tmp_path / "model", batches)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert abs(ours[-1] - ours[0]) > 0.05  # something was learnt, or any two would agree
    if kind == "span":
        assert as_it_comes[0] > theirs[0] + 1e-3  # padding counts there
