"""ALBERT: export, import and verification, with the tokenizer that it comes with."""

import jax
import numpy as np
import pytest
import transformers
from flax import traverse_util

from bert_jax.interop import architectures, huggingface
from bert_jax.interop.verify import verify
from bert_jax.model.families import build_spec
from data_pipeline.tokenization import tokenizers

KEY = jax.random.key(11)
# Version 1 and 2, with and without the head for sentence order; layers of one group and of two.
KINDS = {
    "v2": {"num_layers": 2},
    "v1": {"num_layers": 4, "layer_groups": 2, "activation": "gelu", "dropout": 0.1, "attention_dropout": 0.1, "nsp": False},
}


@pytest.fixture(scope="module", params=KINDS)
def exported(request, prose, base_section, make_params, tmp_path_factory):
    """(directory, section, params)."""
    root = tmp_path_factory.mktemp("albert")
    tokenizer, _ = tokenizers.train([prose], root / "tokenizer", kind="sentencepiece_unigram", vocab_size=300)
    section = base_section | {"family": "albert", "embedding_size": 16, "vocab_size": tokenizer.vocab_size} | KINDS[request.param]
    params = make_params(section)
    huggingface.export(params, section, root / "tokenizer", root / "model")
    return root / "model", section, params


def test_a_true_export_passes(exported, texts):
    directory, section, params = exported
    report = verify(directory, params, section, texts)
    layers = [f"layer {index}" for index in range(section["num_layers"])]
    heads = ["MLM logits", "NSP logits"] if section.get("nsp", True) else ["MLM logits"]
    assert [one.name for one in report.comparisons] == ["embeddings", *layers, *heads]
    assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)


def test_stock_transformers_loads_every_weight(exported):
    directory, section, _ = exported
    name = "AlbertForPreTraining" if section.get("nsp", True) else "AlbertForMaskedLM"
    model, info = getattr(transformers, name).from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()) and model.config.architectures == [name]
    assert model.predictions.decoder.weight is model.albert.embeddings.word_embeddings.weight
    card = (directory / "README.md").read_text()
    assert ("masked language modelling and sentence-order prediction" in card) == section.get("nsp", True)


def test_import_after_export_is_exact(exported):
    directory, section, params = exported
    imported = huggingface.load(directory, key=KEY)
    assert build_spec(imported.model_section) == build_spec(section) and imported.notes == []
    found, expected = (traverse_util.flatten_dict(tree, sep=".") for tree in (imported.params, params))
    for name, array in expected.items():
        rows = section["vocab_size"] if name in ("encoder.embed.tokens.embedding", "mlm_head.bias") else None
        np.testing.assert_array_equal(found[name][:rows], array[:rows], err_msg=name)


def test_the_encoder_alone_is_imported(exported, tmp_path):
    """As transformers saves an AlbertModel; heads are new."""
    directory, section, params = exported
    for name in ("spiece.model", "tokenizer.json"):
        if (directory / name).is_file():
            (tmp_path / name).write_bytes((directory / name).read_bytes())
    transformers.AlbertModel.from_pretrained(directory).save_pretrained(tmp_path)
    imported = huggingface.load(tmp_path, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, imported.params["encoder"]["layers"], params["encoder"]["layers"])
    assert [note.split(":")[0] for note in imported.notes] == ["mlm_head", "nsp_head"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner_group_num": 2}, "inner_group_num is 2; only encoders can be imported where it is absent or 1"),
        ({"num_hidden_groups": 2}, "layer_groups is 2; 3 layers of one kind must divide into the groups"),
        ({"embedding_size": 0}, "embedding_size is 0"),
    ],
)
def test_configs_that_do_not_fit_are_refused_by_field(base_section, change, message):
    config = architectures.config_from_section(base_section | {"family": "albert"}, pad=0, cls=2, sep=3)
    assert architectures.section_from_config(config, nsp=True, source="config.json").items() >= base_section.items() - {("family", "bert")}
    with pytest.raises(ValueError, match=message):
        architectures.section_from_config(config | change, nsp=True, source="config.json")


def test_what_the_original_config_leaves_out_has_alberts_values(base_section):
    """Dropout, groups and GELU default otherwise than in BERT."""
    fields = ("hidden_dropout_prob", "attention_probs_dropout_prob", "num_hidden_groups", "hidden_act")
    config = architectures.config_from_section(base_section | {"family": "albert"}, pad=0, cls=2, sep=3)
    short = {name: value for name, value in config.items() if name not in fields}
    stock = transformers.AlbertConfig(**short)
    section = architectures.section_from_config(short, nsp=True, source="config.json")
    assert section == architectures.section_from_config(stock.to_dict(), nsp=True, source="config.json")
