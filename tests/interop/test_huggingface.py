"""Export and import of Hugging Face directories."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx, traverse_util
from safetensors.torch import save_file as save_torch_file

from bert_jax.interop import architectures, huggingface, weights
from bert_jax.model.families import build_spec
from bert_jax.model.heads import PretrainingModel

KEY = jax.random.key(11)
CARD = {"step": 1000, "config": {"seed": 3, "optimizer": {"learning_rate": 0.0001}}, "evaluation": {"mlm_loss": 1.23456}}
HEADS = {
    "cls.predictions.bias",
    "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.LayerNorm.bias",
}
NSP_HEAD = {"cls.seq_relationship.weight", "cls.seq_relationship.bias"}
POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


@pytest.fixture(scope="module", params=[True, False], ids=["nsp", "mlm_only"])
def section(request, base_section):
    return base_section | {"nsp": request.param}


@pytest.fixture(scope="module")
def exported(section, make_params, tokenizer_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "model"
    params = make_params(section)
    huggingface.export(params, section, tokenizer_dir, directory, card=CARD)
    return directory, params


def without_padding(params: dict) -> dict:
    """The parameters as an export keeps them: padding rows of the vocabulary zero."""
    flat = traverse_util.flatten_dict(params, sep=".")
    for name in ("encoder.embed.tokens.embedding", "mlm_head.bias"):
        flat[name] = np.concatenate([flat[name][:300], np.zeros_like(flat[name][300:])])
    return traverse_util.unflatten_dict(flat, sep=".")


def assert_same(actual: dict, expected: dict):
    actual, expected = (traverse_util.flatten_dict(tree, sep=".") for tree in (actual, expected))
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == np.float32
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def edit(directory, target, change):
    """A copy of an export whose tensors went through `change`."""
    shutil.copytree(directory, target)
    tensors = safetensors.numpy.load_file(target / "model.safetensors")
    safetensors.numpy.save_file(change(tensors), target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_import_after_export_is_exact(exported, section):
    directory, params = exported
    imported = huggingface.load(directory, key=KEY)
    assert build_spec(imported.model_section) == build_spec(section)
    assert imported.notes == []
    assert imported.tokenizer_dir == directory
    assert_same(imported.params, without_padding(params))
    assert jax.tree.map(np.shape, imported.params) == jax.tree.map(np.shape, params)


def load_stock(auto_class, directory, caplog, **settings):
    """(model, loading info without empty entries, warnings) of stock transformers."""
    transformers.utils.logging.enable_propagation()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model, info = auto_class.from_pretrained(directory, output_loading_info=True, **settings)
    return model, {kind: set(found) for kind, found in info.items() if found}, [record.getMessage() for record in caplog.records]


def test_the_trained_class_loads_without_a_remark(exported, section, caplog):
    directory, params = exported
    auto_class = transformers.AutoModelForPreTraining if section["nsp"] else transformers.AutoModelForMaskedLM
    model, info, warnings = load_stock(auto_class, directory, caplog)
    assert type(model).__name__ == json.loads((directory / "config.json").read_text())["architectures"][0]
    assert info == {} and warnings == []
    assert model.dtype == torch.float32
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    np.testing.assert_array_equal(model.cls.predictions.decoder.bias.detach().numpy(), params["mlm_head"]["bias"][:300])


def test_narrower_classes_miss_nothing_and_report_only_heads(exported, section, caplog):
    """What google-bert/bert-base-uncased gives too: unused heads are listed as unexpected, and every weight of the class is there."""
    directory, _ = exported
    settings = {} if section["nsp"] else {"add_pooling_layer": False}
    _, info, _ = load_stock(transformers.AutoModel, directory, caplog, **settings)
    assert info == {"unexpected_keys": HEADS | (NSP_HEAD if section["nsp"] else set())}
    if section["nsp"]:
        _, info, _ = load_stock(transformers.AutoModelForMaskedLM, directory, caplog)
        assert info == {"unexpected_keys": NSP_HEAD | POOLER}


def test_the_config_is_complete_and_read_as_written(exported, section):
    written = json.loads((exported[0] / "config.json").read_text())
    read = transformers.AutoConfig.from_pretrained(exported[0]).to_dict()
    specific = transformers.BertConfig().to_dict().keys() & transformers.BertConfig.__dataclass_fields__.keys()
    specific -= transformers.PretrainedConfig.__dataclass_fields__.keys()
    assert specific <= written.keys() and "hidden_act" in specific
    assert written.pop("torch_dtype") == read["dtype"]
    assert {name: read[name] for name in written} == written


def test_the_tokenizer_comes_along(exported, tokenizer_dir, texts):
    ours = transformers.AutoTokenizer.from_pretrained(exported[0])
    original = transformers.AutoTokenizer.from_pretrained(tokenizer_dir)
    assert ours(texts)["input_ids"] == original(texts)["input_ids"]
    assert ours.mask_token == "[MASK]" and len(ours) == 300


def test_model_card(exported, section):
    card = (exported[0] / "README.md").read_text()
    assert "## Run\n\n| | |\n|---|---|\n| step | 1000 |" in card
    assert "| seed | 3 |\n| optimizer.learning_rate | 0.0001 |" in card and "## Evaluation" in card and "| mlm_loss | 1.235 |" in card
    assert ("next-sentence" in card) == section["nsp"]
    snippet = card.split("```python")[1].split("```")[0]
    compile(snippet, "README.md", "exec")


def test_export_again_replaces_and_leaves_nothing_behind(exported, section, make_params, tokenizer_dir, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(exported[0], target)
    params = make_params(section, seed=1)
    huggingface.export(params, section, tokenizer_dir, target)
    assert_same(huggingface.load(target, key=KEY).params, without_padding(params))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_export_refuses_what_is_not_its_own(exported, section, tokenizer_dir, tmp_path):
    directory, params = exported
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(ValueError, match="thesis.txt.*choose an empty"):
        huggingface.export(params, section, tokenizer_dir, notes)
    other = edit(directory, tmp_path / "other", lambda tensors: tensors)  # the same files, but not written by export
    with pytest.raises(ValueError, match="not an earlier export"):
        huggingface.export(params, section, tokenizer_dir, other)
    added = tmp_path / "added"
    shutil.copytree(directory, added)
    (added / "results.csv").write_text("irreplaceable")
    with pytest.raises(ValueError, match="results.csv"):
        huggingface.export(params, section, tokenizer_dir, added)
    assert (notes / "thesis.txt").exists() and (added / "results.csv").exists()


def test_a_failing_export_leaves_the_old_one(exported, section, tokenizer_dir, tmp_path, monkeypatch):
    directory, params = exported
    target = tmp_path / "model"
    shutil.copytree(directory, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    monkeypatch.setattr(huggingface.model_card, "render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        huggingface.export(params, section, tokenizer_dir, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_export_refuses_a_tokenizer_that_does_not_fit(base_section, make_params, tokenizer_dir, tmp_path):
    small = base_section | {"vocab_size": 299}
    with pytest.raises(ValueError, match="ids up to 299.*vocab_size 299"):
        huggingface.export(make_params(small), small, tokenizer_dir, tmp_path / "model")


@pytest.mark.parametrize("form", ["sharded", "pytorch_model.bin", "old_names", "decoder_repeated", "float16", "bfloat16"])
def test_other_forms_of_the_same_weights(exported, section, tmp_path, form):
    directory, params = exported
    target = tmp_path / "model"
    shutil.copytree(directory, target)
    path = target / "model.safetensors"
    tensors = {name: torch.from_numpy(array) for name, array in safetensors.numpy.load_file(path).items()}
    path.unlink()
    expected = without_padding(params)
    if form == "sharded":
        parts = {"model-00001-of-00002.safetensors": sorted(tensors)[::2], "model-00002-of-00002.safetensors": sorted(tensors)[1::2]}
        for file, part in parts.items():
            save_torch_file({name: tensors[name] for name in part}, target / file, metadata={"format": "pt"})
        weight_map = {name: file for file, part in parts.items() for name in part}
        (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    elif form == "pytorch_model.bin":
        torch.save(tensors | {"bert.embeddings.position_ids": torch.arange(64)[None]}, target / form)
    elif form == "old_names":
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
        save_torch_file(tensors, path)
    elif form == "decoder_repeated":
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
        save_torch_file(tensors, path)
    else:
        dtype = getattr(torch, form)
        save_torch_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)
        expected = jax.tree.map(lambda leaf: torch.from_numpy(leaf).to(dtype).float().numpy(), expected)
    imported = huggingface.load(target, key=KEY)
    assert_same(imported.params, expected)
    assert imported.notes == ([f"weights stored as {form} were converted to float32"] if form.endswith("16") else [])


@pytest.mark.parametrize("pooler", [True, False])
def test_encoder_only_checkpoints_get_heads_from_the_key(tmp_path, pooler):
    config = transformers.BertConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, max_position_embeddings=64
    )
    transformers.BertModel(config, add_pooling_layer=pooler).save_pretrained(tmp_path)
    assert "embeddings.word_embeddings.weight" in safetensors.numpy.load_file(tmp_path / "model.safetensors")
    imported = huggingface.load(tmp_path, key=KEY)
    assert imported.model_section["nsp"] is pooler and imported.tokenizer_dir is None
    initial = nnx.to_pure_dict(nnx.split(PretrainingModel(build_spec(imported.model_section), rngs=nnx.Rngs(params=KEY)))[1])
    drawn, expected = (traverse_util.flatten_dict(tree["mlm_head"], sep=".") for tree in (imported.params, initial))
    assert drawn.keys() == expected.keys()
    for name, array in expected.items():  # compiled in one piece or op by op, a draw may differ in its last bit
        np.testing.assert_allclose(drawn[name], array, rtol=1e-5, atol=1e-8, err_msg=name)
    fresh = {"mlm_head"} | ({"nsp_head"} if pooler else set())
    assert {note.split(":")[0] for note in imported.notes} == fresh
    assert all("initialised from the key" in note for note in imported.notes)
    assert "cls.predictions.transform.dense.weight" in imported.notes[0]
    stored = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    back = weights.to_tensors(imported.params, build_spec(imported.model_section), architectures.ARCHITECTURES["bert"].naming)
    for name, array in stored.items():
        np.testing.assert_array_equal(back[f"bert.{name}"], array)


def test_fine_tuning_heads_are_noted_and_left_out(exported, tmp_path):
    target = edit(exported[0], tmp_path / "model", lambda tensors: tensors | {"classifier.weight": np.zeros((3, 32), np.float32)})
    imported = huggingface.load(target, key=KEY)
    assert imported.notes == ["left out, for a pretraining model has no place for them: classifier.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n: a for n, a in t.items() if not n.endswith("layer.1.output.dense.bias")}, "lacks 1 weights.*1.output.dense.bias"),
        (lambda t: {n: a for n, a in t.items() if not n.endswith("transform.dense.bias")}, "mlm_head: cls.predictions.transform.dense.b"),
        (lambda t: t | {"bert.encoder.layer.3.output.dense.bias": np.zeros(32, np.float32)}, "no place for: bert.encoder.layer.3"),
        (lambda t: t | {"bert.embeddings.LayerNorm.weight": np.zeros(31, np.float32)}, r"weight has shape \[31\].*asks for \[32\]"),
        (lambda t: t | {"bert.embeddings.LayerNorm.weight": np.zeros(32, np.int8)}, "LayerNorm.weight is int8"),
        (lambda t: t | {"cls.predictions.decoder.weight": np.zeros((300, 32), np.float32)}, "decoder.weight differs"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(exported, tmp_path, change, message):
    target = edit(exported[0], tmp_path / "model", change)
    with pytest.raises(ValueError, match=message):
        huggingface.load(target, key=KEY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "xlnet"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
        ("embedding_size", 16),
        ("hidden_act", "silu"),
        ("tie_word_embeddings", False),
        ("num_attention_heads", 5),
        ("hidden_size", None),
    ],
)
def test_configs_of_other_models_are_refused_by_field(exported, tmp_path, field, value):
    target = tmp_path / "model"
    shutil.copytree(exported[0], target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ValueError, match="num_heads 5" if field == "num_attention_heads" else field) as caught:
        huggingface.load(target, key=KEY)
    assert str(target / "config.json") in str(caught.value)


def test_damaged_and_missing_files_are_named(exported, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(exported[0], target)
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors is not a whole"):
        huggingface.load(target, key=KEY)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="none of model.safetensors"):
        huggingface.load(target, key=KEY)
    (target / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    with pytest.raises(ValueError, match="../elsewhere"):
        huggingface.load(target, key=KEY)
    with pytest.raises(FileNotFoundError, match="config.json"):
        huggingface.load(tmp_path, key=KEY)
