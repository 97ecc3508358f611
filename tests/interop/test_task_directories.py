"""Exports of fine-tuned models in the hands of others: sentence-transformers computes the same vectors and scores, and the code on the card runs."""

import contextlib
import dataclasses
import io
import json

import jax
import numpy as np
import pytest
import sentence_transformers

from bert_jax.interop import huggingface
from bert_jax.interop.tasks import Task
from bert_jax.interop.verify import VECTORS, our_outputs, verify
from tests.interop.test_task_heads import TASKS, exported, random_params, section_of, tokenizer_dir  # noqa: F401

LENGTH = 16  # shorter than the texts


@pytest.mark.parametrize(("family", "pooling"), [("bert", "mean"), ("bert", "cls"), ("modernbert", "max")])
def test_sentence_transformers_makes_the_same_vectors(exported, texts, family, pooling):  # noqa: F811
    task = Task("embedding", 1, pooling, 0.0, None, LENGTH)
    directory, section, params = exported(family, task)
    assert verify(directory, params, section, texts, task=task).comparisons[-1].name == VECTORS

    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu", local_files_only=True)
    assert model.max_seq_length == LENGTH and model[1].get_config_dict()["pooling_mode"] == pooling
    encoded = model.tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    assert encoded["attention_mask"].all(1).any()  # some texts are cut
    _, heads = our_outputs(params, task.spec(section), encoded)
    np.testing.assert_allclose(model.encode(texts), heads[VECTORS], atol=1e-5, rtol=0)
    assert huggingface.load(directory, key=jax.random.key(0), with_task=True).task == dataclasses.replace(task, dropout=task.spec(section).encoder.dropout)


def test_what_training_alone_has_stays_beside(exported):  # noqa: F811
    task = Task("embedding", 3, "mean", 0.0, None, LENGTH)
    directory, section, params = exported("bert", task)
    assert (directory / "extra_weights.safetensors").is_file()
    imported = huggingface.load(directory, key=jax.random.key(0), with_task=True)
    assert imported.task.outputs == 3 and imported.notes == []
    np.testing.assert_array_equal(imported.params["classifier"]["kernel"], params["classifier"]["kernel"])


def test_cross_encoder_gives_the_same_scores(exported, texts):  # noqa: F811
    directory, section, params = exported("bert", TASKS["ranking"])
    model = sentence_transformers.CrossEncoder(str(directory), device="cpu", local_files_only=True)
    pairs = [(texts[0], text) for text in texts]
    length = TASKS["ranking"].length
    encoded = model.tokenizer([one for one, _ in pairs], [other for _, other in pairs], padding="max_length", truncation=True, max_length=length, return_tensors="np")
    _, heads = our_outputs(params, TASKS["ranking"].spec(section), encoded)
    np.testing.assert_allclose(model.predict(pairs), heads["scores"][:, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("pooling_mode_lasttoken", True, "one pooling of cls, mean, max"),
    ("pooling_mode_cls_token", True, "one pooling of cls, mean, max"),
])  # fmt: skip
def test_a_pooling_that_we_lack_is_refused(section_of, tokenizer_dir, tmp_path, field, value, message):  # noqa: F811
    task, section = Task("embedding", 1, "mean", 0.0, None, LENGTH), section_of("bert")
    huggingface.export(random_params(section, task), section, tokenizer_dir, tmp_path / "model", task=task)
    path = tmp_path / "model" / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=message):
        huggingface.load(tmp_path / "model", key=jax.random.key(0), with_task=True)


@pytest.mark.parametrize("kind", ["classification", "regression", "ranking", "tokens", "span", "choice", "embedding"])
def test_the_code_on_the_card_runs(exported, monkeypatch, kind):  # noqa: F811
    task = TASKS.get(kind) or Task("embedding", 1, "mean", 0.0, None, LENGTH)
    directory, _, _ = exported("bert", task)
    card = (directory / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(directory.parent)  # so that the model's name is that of a directory
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().strip()
    assert all(f"`{label}`" in card for label in task.labels or ())


def test_a_config_that_lies_is_refused(exported, tmp_path, section_of, tokenizer_dir):  # noqa: F811
    section = section_of("bert")
    directory = tmp_path / "model"
    huggingface.export(random_params(section, TASKS["classification"]), section, tokenizer_dir, directory, task=TASKS["classification"])
    config = json.loads((directory / "config.json").read_text())
    for changes, message in (
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "expected names of the labels 0, 1, 2"),
        ({"id2label": {"0": "a", "1": "a", "2": "c"}}, "different printable texts"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.weight has shape"),
        ({"problem_type": "regression"}, "problem_type is 'regression' with 3 labels"),
        ({"problem_type": "other"}, "problem_type is 'other'"),
        ({"classifier_dropout": "0.1"}, "classifier_dropout is '0.1'"),
    ):
        (directory / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message):
            huggingface.load(directory, key=jax.random.key(0), with_task=True)
