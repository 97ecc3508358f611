"""RoBERTa and XLM-R: export, import and verification with the tokenizers that they come with."""

import io
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece
import torch
import transformers
from flax import traverse_util

from bert_jax.interop import architectures, huggingface
from bert_jax.interop.verify import VerifyError, verify
from bert_jax.model.families import build_spec
from data_pipeline.tokenization import tokenizers

KEY = jax.random.key(11)
# name -> (family, position_offset, layers): the offset follows the padding token's id, which is 0 in a SentencePiece model that we train.
KINDS = {"byte_bpe": ("roberta", 2, 2), "xlm_r_layout": ("xlm_roberta", 2, 1), "sentencepiece_unigram": ("xlm_roberta", 1, 1), "xlm_r_xl_layout": ("xlm_roberta_xl", 2, 1)}
MODEL_CLASSES = {
    "roberta": transformers.RobertaForMaskedLM, "xlm_roberta": transformers.XLMRobertaForMaskedLM, "xlm_roberta_xl": transformers.XLMRobertaXLForMaskedLM,
}  # fmt: skip


def train_tokenizer(kind, prose, directory):
    if kind not in ("xlm_r_layout", "xlm_r_xl_layout"):
        return tokenizers.train([prose], directory, kind=kind, vocab_size=400)[0]
    model = io.BytesIO()  # as fairseq's: <unk>, <s>, </s> and then pieces
    lines = iter(prose.split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, vocab_size=300, hard_vocab_limit=False, minloglevel=2)
    directory.mkdir()
    (directory / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    tokenizer = tokenizers.load(directory)
    tokenizer.save(directory)
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def exported(request, prose, base_section, make_params, tmp_path_factory):
    """(directory, section, params, tokenizer)."""
    root = tmp_path_factory.mktemp("roberta")
    family, offset, layers = KINDS[request.param]
    tokenizer = train_tokenizer(request.param, prose, root / "tokenizer")
    section = base_section | {"family": family, "position_offset": offset, "num_layers": layers, "vocab_size": tokenizer.vocab_size}
    params = make_params(section)
    huggingface.export(params, section, root / "tokenizer", root / "model")
    return root / "model", section, params, tokenizer


def test_a_true_export_passes(exported, texts):
    directory, section, params, _ = exported
    report = verify(directory, params, section, texts)
    layers = [f"layer {index}" for index in range(section["num_layers"])]
    assert [one.name for one in report.comparisons] == ["embeddings", *layers, "MLM logits"]
    assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)


def test_stock_transformers_loads_every_weight(exported):
    directory, section, _, _ = exported
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert type(model) is MODEL_CLASSES[section["family"]] and not any(info.values())
    assert model.lm_head.decoder.weight is model.base_model.embeddings.word_embeddings.weight
    # The encoder alone leaves out the head; a pooler there is none, as in transformers' own export of the class.
    _, info = transformers.AutoModel.from_pretrained(directory, output_loading_info=True, add_pooling_layer=False)
    head = {"lm_head.bias", *(f"lm_head.{part}.{kind}" for part in ("dense", "layer_norm") for kind in ("weight", "bias"))}
    assert {kind: set(found) for kind, found in info.items() if found} == {"unexpected_keys": head}


def test_the_encoder_alone_lacks_what_it_lacks_in_stock_exports(exported, tmp_path):
    directory = exported[0]
    transformers.AutoModelForMaskedLM.from_pretrained(directory).save_pretrained(tmp_path)
    ours, theirs = (transformers.AutoModel.from_pretrained(path, output_loading_info=True)[1] for path in (directory, tmp_path))
    assert ours == theirs and {name.split(".")[0] for name in ours["missing_keys"]} == {"pooler"}


def test_the_config_names_positions_and_special_tokens(exported):
    directory, section, _, tokenizer = exported
    config = transformers.AutoConfig.from_pretrained(directory)
    assert config.model_type == section["family"].replace("_", "-")
    assert config.max_position_embeddings == 64 + section["position_offset"] and config.type_vocab_size == 1
    assert config.layer_norm_eps == 1e-5 and config.vocab_size == tokenizer.vocab_size
    special = tokenizer.special
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (special["pad"], special["cls"], special["sep"])
    card = (directory / "README.md").read_text()
    assert f"- {config.model_type}\n" in card and f"import AutoTokenizer, {type(config).__name__.removesuffix('Config')}ForMaskedLM" in card


def test_the_tokenizer_comes_along(exported, texts):
    """A pair through stock tokenizer and model, as a pipeline would."""
    directory, _, _, tokenizer = exported
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ids = theirs(texts)["input_ids"]
    assert [row[1:-1] for row in ids] == [tokenizer.encode(text).tolist() for text in texts]
    pair = theirs(texts[0], " ".join(texts[1:]), truncation=True, return_tensors="pt")  # to the model's longest input
    assert pair["input_ids"].shape == (1, 64) and set(pair) == {"input_ids", "attention_mask"}
    assert transformers.AutoModelForMaskedLM.from_pretrained(directory)(**pair).logits.isfinite().all()
    assert theirs.mask_token == tokenizer.mask_token and theirs.mask_token_id == tokenizer.special["mask"]


def test_a_wordpiece_tokenizer_makes_no_token_types(base_section, make_params, tokenizer_dir, texts, tmp_path):
    """Those of the second segment would lie beyond the table of one row."""
    section = base_section | {"family": "roberta", "position_offset": 1, "num_layers": 1}
    huggingface.export(make_params(section), section, tokenizer_dir, tmp_path / "model")
    assert "token_type_ids" in transformers.AutoTokenizer.from_pretrained(tokenizer_dir)(texts[0], texts[1])
    assert set(transformers.AutoTokenizer.from_pretrained(tmp_path / "model")(texts[0], texts[1])) == {"input_ids", "attention_mask"}


def test_import_after_export_is_exact(exported):
    directory, section, params, _ = exported
    imported = huggingface.load(directory, key=KEY)
    assert build_spec(imported.model_section) == build_spec(section) and imported.model_section["family"] == section["family"]
    assert imported.notes == [] and imported.tokenizer_dir == directory
    found, expected = (traverse_util.flatten_dict(tree, sep=".") for tree in (imported.params, params))
    for name, array in expected.items():
        rows = section["vocab_size"] if name in ("encoder.embed.tokens.embedding", "mlm_head.bias") else None
        np.testing.assert_array_equal(found[name][:rows], array[:rows], err_msg=name)


@pytest.mark.parametrize("form", ["as published", "encoder only"])
def test_stock_checkpoints_are_imported(exported, tmp_path, form):
    """As on the hub: repeated tied weights, a pooler that nobody trained, a buffer of positions; or the encoder without its prefix."""
    directory, section, params, _ = exported
    shutil.copytree(directory, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    model = MODEL_CLASSES[section["family"]].from_pretrained(directory)
    if form == "encoder only":
        model.base_model.save_pretrained(tmp_path / "model")
    else:
        extra = {"roberta.embeddings.position_ids": torch.arange(66)[None], "roberta.pooler.dense.bias": torch.zeros(32)}
        torch.save(model.state_dict() | extra, tmp_path / "model" / "pytorch_model.bin")
    imported = huggingface.load(tmp_path / "model", key=KEY)
    jax.tree.map(np.testing.assert_array_equal, imported.params["encoder"]["layers"], params["encoder"]["layers"])
    note = "mlm_head: initialised" if form == "encoder only" else "left out, for a pretraining model has no place for them: roberta.pooler"
    assert len(imported.notes) == 1 and note in imported.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type_vocab_size": 2}, "type_vocab_size is 2; roberta models can be imported where it is 1"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"pad_token_id": None}, "pad_token_id is None"),
        ({"pad_token_id": 65}, "pad_token_id is 65"),
        ({"model_type": "camembert"}, "types can be imported: bert, roberta, xlm-roberta"),
    ],
)
def test_configs_that_do_not_fit_are_refused_by_field(change, message):
    section = {"family": "roberta", "vocab_size": 300, "hidden_size": 32, "num_layers": 1, "num_heads": 4, "intermediate_size": 48}
    section |= {"max_positions": 64}
    config = architectures.config_from_section(section, pad=1, cls=0, sep=2)
    assert architectures.section_from_config(config, nsp=True, source="config.json").items() >= section.items()
    with pytest.raises(ValueError, match=message):
        architectures.section_from_config(config | change, nsp=True, source="config.json")


def test_a_tokenizer_that_pads_elsewhere_is_refused(exported, tmp_path):
    directory, section, params, tokenizer = exported
    wrong = section | {"position_offset": section["position_offset"] + 1}
    with pytest.raises(ValueError, match=f"padding token has id {tokenizer.special['pad']}"):
        huggingface.export(params, wrong, directory, tmp_path / "model")


def test_a_shifted_position_table_is_found(exported, texts, tmp_path):
    """The pitfall: rows that begin one too early compute something else, and verification says so."""
    directory, section, params, _ = exported
    shutil.copytree(directory, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    name = "roberta.embeddings.position_embeddings.weight"
    tensors[name] = np.roll(tensors[name], -1, axis=0).copy()
    safetensors.numpy.save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(VerifyError, match="first output that is off is embeddings"):
        verify(tmp_path / "model", params, section, texts)
