"""Other people's weights: nothing in them runs, names what it must not, or fills the memory; every refusal names the file and what is wrong with it."""

import io
import json
import pickle
import shutil
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.interop import huggingface

KEY = jax.random.key(0)


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "model")


def refused(directory, *words: str) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        huggingface.load(directory, key=KEY)
    message = str(caught.value)
    assert all(word in message for word in words), message
    return message


# ---- code ----


def test_code_beside_the_weights_is_never_run(copy, canary):
    canary.plant(copy)
    config = json.loads((copy / "config.json").read_text())
    remote = {"auto_map": {"AutoModel": "modeling_evil.Evil", "AutoConfig": "configuration_evil.Evil"}, "trust_remote_code": True, "custom_pipelines": {"x": {"impl": "modeling_evil.py"}}}
    (copy / "config.json").write_text(json.dumps(config | remote))
    assert huggingface.load(copy, key=KEY).model_section["num_layers"] == 1
    assert not canary.path.exists()


def torch_file(content, **settings) -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


@pytest.mark.parametrize("form", ["pickle", "archive", "legacy"])
def test_a_pickle_in_the_weights_is_not_opened(copy, canary, form):
    pytest.importorskip("torch")
    (copy / "model.safetensors").unlink()
    content = {"bert.embeddings.LayerNorm.weight": canary.payload()}
    raw = pickle.dumps(content) if form == "pickle" else torch_file(content, _use_new_zipfile_serialization=form == "archive")
    (copy / "pytorch_model.bin").write_bytes(raw)
    message = refused(copy, "pytorch_model.bin", "never run")
    assert "weights_only" not in message, "no advice to run it"
    assert not canary.path.exists()
    pickle.loads(pickle.dumps(canary.payload()))
    assert canary.path.exists(), "the canary can sing"


def test_a_torch_file_of_something_else_is_refused(copy):
    torch = pytest.importorskip("torch")
    (copy / "model.safetensors").unlink()
    for content in ([1], {"a": {"b": 1}}, {3: torch.zeros(2)}, {"a": torch.eye(2).to_sparse()}, torch.zeros(2)):
        (copy / "pytorch_model.bin").write_bytes(torch_file(content))
        refused(copy, "pytorch_model.bin", "dict of tensors")
    for raw in (b"", b"\x80", torch_file({"a": torch.zeros(2)})[:-100]):
        (copy / "pytorch_model.bin").write_bytes(raw)
        refused(copy, "pytorch_model.bin", "cut short")


# ---- safetensors ----


def safetensors_file(header: dict | bytes, body: bytes = b"", size: int | None = None) -> bytes:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + body


def tensor(shape: list, end: int, begin: int = 0, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "empty": b"",
    "header beyond any memory": safetensors_file({}, size=2**63),
    "header beyond the file": safetensors_file({}, size=10**6),
    "header of no JSON": safetensors_file(b'{"a":'),
    "header of 60,000 brackets": safetensors_file(b"[" * 60_000),
    "data beyond the file": safetensors_file({"a": tensor([2**40], 2**42)}),
    "sizes that overflow": safetensors_file({"a": tensor([2**40, 2**40], 16)}, bytes(16)),
    "a negative size": safetensors_file({"a": tensor([-1], 4)}, bytes(4)),
    "overlapping data": safetensors_file({"a": tensor([4], 16), "b": tensor([4], 24, begin=8)}, bytes(24)),
    "an unknown type": safetensors_file({"a": tensor([4], 4, dtype="EVIL")}, bytes(4)),
    "a type that numpy lacks": safetensors_file({"a": tensor([4], 4, dtype="F8_E4M3")}, bytes(4)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_safetensors_file_is_refused(copy, kind):
    (copy / "model.safetensors").write_bytes(BROKEN[kind])
    refused(copy, str(copy / "model.safetensors"))


def test_an_index_names_files_beside_it_only(copy):
    (copy / "model.safetensors").rename(copy.parent / "outside.safetensors")
    index = copy / "model.safetensors.index.json"
    for name in ("../outside.safetensors", str(copy.parent / "outside.safetensors"), "..", "a/../../outside.safetensors", "", ".", "x\0.safetensors", "\x1b[2J", "\ud800", 3, None, ["x"]):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        refused(copy, str(index))
    for content in ("[]", "{}", '{"weight_map": []}', '{"weight_map": 3}', "{", "[" * 100_000, ""):
        index.write_text(content)
        refused(copy, str(index))


# ---- config.json ----


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"vocab_size": "30"}, "vocab_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"layer_norm_eps": float("nan")}, "norm_eps"),
        ({"layer_norm_eps": "1e-12"}, ""),
        ({"hidden_dropout_prob": [0.1]}, ""),
        ({"initializer_range": float("inf")}, "initializer_range"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"model_type": ["bert"]}, "model_type"),
    ],
)
def test_a_config_json_that_cannot_be_is_refused_with_its_field(copy, change, words):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    refused(copy, str(copy / "config.json"), words)


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, '{"vocab_size": ' + "9" * 5000 + "}"], ids=["empty", "list", "number", "deep", "digits"])
def test_a_config_json_that_is_none_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    refused(copy, str(copy / "config.json"))


# ---- TensorFlow ----


def test_a_cut_tensorflow_checkpoint_is_refused(tmp_path):
    tf = pytest.importorskip("tensorflow")
    from data_pipeline import tf_checkpoint

    path = tf.train.Checkpoint(a=tf.Variable(np.arange(5000, dtype=np.float32))).write(str(tmp_path / "model"))
    assert len(tf_checkpoint.read(path)) >= 1
    for name in ("model.data-00000-of-00001", "model.index"):
        whole = (tmp_path / name).read_bytes()
        for size in (0, 1, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(ValueError, match="not a readable TensorFlow checkpoint"):
                tf_checkpoint.read(path)
        flipped = bytearray(whole)
        flipped[20] ^= 1
        (tmp_path / name).write_bytes(flipped)
        with pytest.raises(ValueError, match="not a readable TensorFlow checkpoint"):
            tf_checkpoint.read(path)
        (tmp_path / name).write_bytes(whole)


def test_whole_weights_are_read(model):
    assert safetensors.numpy.load_file(model / "model.safetensors").keys()
    assert huggingface.load(model, key=KEY).notes == []
