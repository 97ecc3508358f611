"""DeBERTa: each version leaves as a directory that stock transformers loads whole, with what transformers lacks beside it, and comes back; version 3 as two."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
import transformers
from flax import nnx, traverse_util

from bert_jax.interop import architectures, huggingface, weights
from bert_jax.interop.verify import VerifyError, verify
from bert_jax.model.families import build_spec
from bert_jax.model.heads import build

SIZES = {"num_layers": 2, "max_distance": 20}
SECTIONS = {
    "deberta": SIZES | {"family": "deberta", "input_positions": True, "mask_decoder": False, "type_vocab_size": 2},
    "deberta_v2": SIZES | {"family": "deberta_v2", "position_buckets": 8, "mask_decoder": True},
    "deberta_v3": SIZES | {"family": "deberta_v3", "position_buckets": 8, "convolution": 3, "mask_decoder": False, "generator_layers": 1, "detection_weight": 50.0},
}
CLASSES = {"deberta": "DebertaForMaskedLM", "deberta_v2": "DebertaV2ForMaskedLM", "deberta_v3_discriminator": "DebertaV2Model"}
MASK_DECODER = "deberta.embeddings.position_embeddings.weight"


@pytest.fixture(scope="module", params=SECTIONS)
def exported(request, base_section, tokenizer_dir, tmp_path_factory):
    """(directory, section, params, parts)."""
    section = base_section | SECTIONS[request.param]
    shapes = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: build(build_spec(section), rngs=nnx.Rngs(params=0))))[1])
    random = np.random.default_rng(0)
    params = jax.tree.map_with_path(lambda path, leaf: random.normal(float(path[-1].key == "scale"), 0.2, leaf.shape).astype(np.float32), shapes)
    directory, parts = tmp_path_factory.mktemp(request.param), architectures.parts_of(section, params)
    for name, (own, arrays) in parts.items():
        huggingface.export(arrays, own, tokenizer_dir, directory / name)
    return directory, section, params, parts


def load(directory):
    def part(name):
        imported = huggingface.load(directory / name, key=jax.random.key(0))
        assert imported.notes == []
        return imported.model_section, imported.params

    return part


def assert_same(found, expected, vocab_size, tolerance=0.0):
    found, expected = (traverse_util.flatten_dict(tree, sep=".") for tree in (found, expected))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        rows = vocab_size if name.endswith(("embed.tokens.embedding", "mlm_head.bias")) else None  # padding rows are not exported
        np.testing.assert_allclose(found[name][:rows], array[:rows], rtol=0, atol=tolerance, err_msg=name)


def test_true_exports_pass(exported, texts):
    directory, _, _, parts = exported
    for name, (section, params) in parts.items():
        report = verify(directory / name, params, section, texts)
        heads = [] if section["family"] == "deberta_v3_discriminator" else ["MLM logits"]
        assert [one.name for one in report.comparisons] == ["embeddings", *(f"layer {index}" for index in range(section["num_layers"])), *heads]
        assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)


def test_stock_transformers_loads_every_weight(exported):
    """With the class that config.json names and, of those without it, with AutoModel; what no class has lies beside."""
    directory, _, _, parts = exported
    for name, (section, _) in parts.items():
        class_name = CLASSES[section["family"]]
        model, info = getattr(transformers, class_name).from_pretrained(directory / name, output_loading_info=True)
        assert not any(info.values()) and model.config.architectures == [class_name]
        beside = directory / name / weights.BESIDE_FILE
        found = set(safetensors.numpy.load_file(beside)) if beside.exists() else set()
        expected = {MASK_DECODER} if section.get("mask_decoder") else set()
        if class_name == "DebertaV2Model":
            expected |= {f"detection_head.{layer}.{part}" for layer in ("dense", "classifier") for part in ("weight", "bias")}
        assert found == expected
        card = (directory / name / "README.md").read_text()
        assert ("fill-mask" in card) == (class_name != "DebertaV2Model") and class_name in card
        assert ("replaced-token detection" in card) == (class_name == "DebertaV2Model") and (weights.BESIDE_FILE in card) == bool(expected)


def test_it_comes_back(exported):
    """Exactly, but for the sum of the tables of version 3, from which the generator's is taken away again."""
    directory, section, params, parts = exported
    if "" in parts:
        found_section, found = load(directory)("")
        assert_same(found, params, section["vocab_size"])
    else:
        found_section, found = architectures.whole_of(load(directory))
        assert_same(found, params, section["vocab_size"], tolerance=1e-6)
    assert build_spec(found_section) == build_spec(section) and found_section["family"] == section["family"]


def test_a_damaged_export_is_found(exported, texts):
    directory, _, _, parts = exported
    name, (section, params) = next(iter(parts.items()))
    relative = params["encoder"]["relative"]
    wrong = params | {"encoder": params["encoder"] | {"relative": jax.tree.map(lambda leaf: leaf[::-1], relative)}}
    with pytest.raises(VerifyError, match="first output that is off is layer 0"):
        verify(directory / name, wrong, section, texts)


@pytest.fixture(scope="module")
def second(base_section, tokenizer_dir, make_params, tmp_path_factory):
    """(directory, section, params) of a version 2 with a mask decoder."""
    section = base_section | SECTIONS["deberta_v2"]
    params = make_params(section)
    directory = tmp_path_factory.mktemp("second") / "model"
    huggingface.export(params, section, tokenizer_dir, directory)
    return directory, section, params


def test_a_published_checkpoint_is_understood(second, tmp_path):
    """Its config has neither `architectures` nor `legacy`, says -1 for the longest distance and nothing of the mask decoder, whose positions are among the
    weights, beside a head for replaced tokens that is not ours."""
    directory, section, params = second
    tensors = {name: array for file in (huggingface.WEIGHTS, weights.BESIDE_FILE) for name, array in safetensors.numpy.load_file(directory / file).items()}
    tensors["mask_predictions.dense.weight"] = np.zeros((32, 32), np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / huggingface.WEIGHTS)
    config = json.loads((directory / "config.json").read_text())
    for field in ("architectures", "legacy", "enhanced_mask_decoder"):
        del config[field]
    config |= {"max_relative_positions": -1, "max_position_embeddings": 64, "pos_att_type": "p2c|c2p", "attention_head_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = huggingface.load(tmp_path, key=jax.random.key(0))
    assert imported.model_section == imported.model_section | {"mask_decoder": True, "max_distance": 64, "position_buckets": 8}
    assert [note.split(":")[0] for note in imported.notes] == ["left out, for a pretraining model has no place for them"]
    assert_same(imported.params, params, section["vocab_size"])


def test_the_older_head_of_transformers_is_understood(second, tmp_path):
    """`legacy`, the default there: other names for the same head, whose decoder is tied."""
    directory, section, params = second
    config = transformers.AutoConfig.from_pretrained(directory)
    config.legacy, config.enhanced_mask_decoder = True, False
    model = transformers.DebertaV2ForMaskedLM(config)
    model.deberta.load_state_dict(transformers.DebertaV2Model.from_pretrained(directory).state_dict())
    model.save_pretrained(tmp_path)
    imported = huggingface.load(tmp_path, key=jax.random.key(0))
    assert imported.notes == [] and imported.params.keys() == {"encoder", "mlm_head"}
    assert_same(imported.params["encoder"], params["encoder"], section["vocab_size"])
    np.testing.assert_array_equal(imported.params["mlm_head"]["transform"]["kernel"], model.cls.predictions.transform.dense.weight.detach().numpy().T)


def test_the_encoder_alone_is_imported(second, tmp_path):
    """As transformers saves a DebertaV2Model."""
    directory, section, params = second
    transformers.DebertaV2Model.from_pretrained(directory).save_pretrained(tmp_path)
    imported = huggingface.load(tmp_path, key=jax.random.key(0))
    assert imported.model_section["family"] == "deberta_v3_discriminator"
    assert_same(imported.params["encoder"], params["encoder"], section["vocab_size"])
    assert [note.split(":")[0] for note in imported.notes] == ["detection_head"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"share_att_key": False}, "share_att_key is False"),
        ({"norm_rel_ebd": "none"}, "norm_rel_ebd is 'none'"),
        ({"pos_att_type": ["c2p"]}, r"pos_att_type is \['c2p'\]"),
        ({"relative_attention": False}, "relative_attention is False"),
        ({"conv_kernel_size": 3}, "conv_act is 'tanh'"),
        ({"position_buckets": -1}, "position_buckets is -1"),
        ({"attention_head_size": 16}, "attention_head_size is 16"),
        ({"max_relative_positions": "many"}, "max_relative_positions is 'many'"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(second, change, message):
    config = json.loads((second[0] / "config.json").read_text()) | change
    with pytest.raises(ValueError, match=message):
        architectures.section_from_config(config, nsp=False, source="config.json")


def test_parts_of_different_models_are_refused(base_section, make_params):
    """A generator of other sizes, and parts of different families."""
    section = base_section | SECTIONS["deberta_v2"]
    discriminator = {name: value for name, value in section.items() if name != "mask_decoder"} | {"family": "deberta_v3_discriminator"}
    held = {"discriminator": (discriminator, {}), "generator": (section | {"position_buckets": 4}, {})}
    with pytest.raises(ValueError, match=r"differ in position_buckets \(8 and 4\)"):
        architectures.whole_of(held.get)
    with pytest.raises(ValueError, match="discriminator is of the family bert"):
        architectures.whole_of((held | {"discriminator": (base_section, {})}).get)
