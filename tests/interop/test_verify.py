"""Verification passes on a true export, and catches each way of being wrong."""

import json
import shutil
import sys

import numpy as np
import pytest
import safetensors.numpy

from bert_jax.interop import huggingface
from bert_jax.interop.verify import VerifyError, verify


@pytest.fixture(scope="module")
def exported(base_section, make_params, tokenizer_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "model"
    params = make_params(base_section)
    huggingface.export(params, base_section, tokenizer_dir, directory)
    return directory, params


@pytest.fixture
def damage(exported, tmp_path):
    """Copies the export, with its tensors changed."""

    def copy(change):
        shutil.copytree(exported[0], tmp_path / "model")
        path = tmp_path / "model" / "model.safetensors"
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
        return tmp_path / "model"

    return copy


@pytest.mark.parametrize(
    "changes", [{}, {"nsp": False, "activation": "gelu_tanh"}, {"max_positions": 40, "num_heads": 2, "activation": "relu"}], ids=str
)
def test_a_true_export_passes(base_section, make_params, tokenizer_dir, texts, tmp_path, changes):
    section = base_section | changes
    params = make_params(section, seed=2)
    huggingface.export(params, section, tokenizer_dir, tmp_path / "model")
    report = verify(tmp_path / "model", params, section, texts)
    heads = ["MLM logits", "NSP logits"] if section.get("nsp", True) else ["MLM logits"]
    assert [one.name for one in report.comparisons] == ["embeddings", "layer 0", "layer 1", "layer 2", *heads]
    assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)
    assert report.rows == 2 * len(texts)
    assert "layer 2" in str(report) and "tolerance 0.0001" in str(report)


@pytest.mark.parametrize(
    ("tensor", "first"),
    [
        ("bert.embeddings.token_type_embeddings.weight", "embeddings"),
        ("bert.encoder.layer.1.attention.self.value.bias", "layer 1"),
        ("bert.encoder.layer.2.output.LayerNorm.weight", "layer 2"),
        ("cls.predictions.bias", "MLM logits"),
        ("cls.seq_relationship.weight", "NSP logits"),
    ],
)
def test_a_changed_tensor_is_found_where_it_acts(exported, base_section, texts, damage, tensor, first):
    def change(tensors):
        tensors[tensor] = tensors[tensor] + np.linspace(0, 1, tensors[tensor].size, dtype=np.float32).reshape(tensors[tensor].shape)

    with pytest.raises(VerifyError, match=f"first output that is off is {first}, by") as caught:
        verify(damage(change), exported[1], base_section, texts)
    assert caught.value.report.first_off.name == first


def test_not_a_number_is_a_mismatch(exported, base_section, texts, damage):
    with pytest.raises(VerifyError, match="off is layer 1"):
        verify(damage(lambda t: t["bert.encoder.layer.1.output.dense.bias"].fill(np.nan)), exported[1], base_section, texts)


def test_missing_extra_and_misshapen_tensors_are_named(exported, base_section, texts, damage, tmp_path):
    def change(tensors):
        del tensors["bert.encoder.layer.1.output.dense.bias"]
        tensors["bert.encoder.layer.1.output.dense.bia"] = np.zeros(32, np.float32)
        tensors["bert.pooler.dense.bias"] = np.zeros(31, np.float32)

    with pytest.raises(VerifyError) as caught:
        verify(damage(change), exported[1], base_section, texts)
    for kind in ("missing keys: bert.encoder.layer.1.output.dense.bias", "unexpected keys: bert.encoder", "mismatched keys: ('bert.pooler"):
        assert kind in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("hidden_act", "gelu_new"), ("layer_norm_eps", 1e-5), ("num_attention_heads", 2)])
def test_a_changed_config_is_found(exported, base_section, texts, tmp_path, field, value):
    """An epsilon or a kind of GELU can hide below the tolerance, so the numbers are compared as well as the outputs."""
    shutil.copytree(exported[0], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(VerifyError, match=f"{path} describes"):
        verify(tmp_path / "model", exported[1], base_section, texts)


def test_without_torch_the_extra_is_named(exported, base_section, texts, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(VerifyError, match=r"pip install 'bert-jax\[torch\]'"):
        verify(exported[0], exported[1], base_section, texts)
