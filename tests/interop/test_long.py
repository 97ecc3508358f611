"""Longformer and BigBird: export, import and verification, with tokens that are global and without, with a pair head and without."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import transformers
from flax import traverse_util

from bert_jax.interop import architectures, huggingface
from bert_jax.interop.verify import verify
from bert_jax.model.families import build_spec
from data_pipeline.tokenization import tokenizers

KINDS = {
    "window": {"family": "longformer", "window": 8, "num_layers": 2},
    "first token global": {"family": "longformer", "window": 8, "global_tokens": 1, "num_layers": 2},
    "blocks": {"family": "big_bird", "block_size": 4, "num_layers": 2},  # the shorter texts are seen whole, the longer ones not
    "blocks and pair head": {"family": "big_bird", "block_size": 4, "num_layers": 1, "nsp": True},
}
CLASSES = {"longformer": {transformers.LongformerForMaskedLM}, "big_bird": {transformers.BigBirdForMaskedLM, transformers.BigBirdForPreTraining}}


@pytest.fixture(scope="module", params=KINDS)
def exported(request, prose, base_section, make_params, tokenizer_dir, tmp_path_factory):
    """(directory, section, params)."""
    root = tmp_path_factory.mktemp("long")
    section = base_section | KINDS[request.param]
    if section["family"] == "longformer":
        tokenizer, _ = tokenizers.train([prose], root / "tokenizer", kind="byte_bpe", vocab_size=400)
        section, tokenizer_dir = section | {"vocab_size": tokenizer.vocab_size}, root / "tokenizer"
    params = make_params(section)
    huggingface.export(params, section, tokenizer_dir, root / "model")
    return root / "model", section, params


def test_a_true_export_passes_and_comes_back(exported, texts):
    directory, section, params = exported
    report = verify(directory, params, section, texts)
    assert "MLM logits" in [one.name for one in report.comparisons]
    assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)
    imported = huggingface.load(directory, key=jax.random.key(0))
    assert imported.notes == [] and build_spec(imported.model_section) == build_spec(section)
    found, expected = (traverse_util.flatten_dict(tree, sep=".") for tree in (imported.params, params))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        rows = section["vocab_size"] if name in ("encoder.embed.tokens.embedding", "mlm_head.bias") else None
        np.testing.assert_array_equal(found[name][:rows], array[:rows], err_msg=name)


def test_stock_transformers_loads_every_weight(exported):
    directory, section, _ = exported
    named = json.loads((directory / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, named).from_pretrained(directory, output_loading_info=True)
    assert type(model) in CLASSES[section["family"]] and not any(info.values())
    _, info = transformers.AutoModel.from_pretrained(directory, output_loading_info=True, add_pooling_layer=section["family"] == "big_bird")
    assert not info["missing_keys"]


@pytest.mark.parametrize(
    "family, change, message",
    [
        ("longformer", {"attention_window": [8, 16]}, "one window in all layers"),
        ("longformer", {"attention_window": [0, 0]}, "attention_window is 0"),
        ("longformer", {"attention_window": 7}, "window is 7"),
        ("longformer", {"global_tokens": "all"}, "global_tokens"),
        ("big_bird", {"attention_type": "original_full"}, "attention_type is 'original_full'"),
        ("big_bird", {"rescale_embeddings": True}, "rescale_embeddings is True"),
        ("big_bird", {"block_size": 0}, "block_size is 0"),
    ],
)
def test_configs_that_do_not_fit_are_refused_by_field(family, change, message, base_section):
    config = architectures.config_from_section(base_section | {"family": family, "num_layers": 2}, pad=0 if family == "big_bird" else 1, cls=0, sep=2)
    with pytest.raises(ValueError, match=message):
        architectures.section_from_config(config | change, nsp=False, source="config.json")


def test_published_configs_are_read():
    """As allenai/longformer-base-4096 and google/bigbird-roberta-base state them."""
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu", "initializer_range": 0.02}
    longformer = sizes | {
        "model_type": "longformer", "architectures": ["LongformerForMaskedLM"], "attention_mode": "longformer", "attention_window": [512] * 12, "vocab_size": 50_265,
        "max_position_embeddings": 4098, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1, "sep_token_id": 2, "ignore_attention_mask": False,
    }  # fmt: skip
    big_bird = sizes | {
        "model_type": "big_bird", "architectures": ["BigBirdForPreTraining"], "attention_type": "block_sparse", "block_size": 64, "num_random_blocks": 3,
        "hidden_act": "gelu_new", "vocab_size": 50_358, "max_position_embeddings": 4096, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "sep_token_id": 66, "use_bias": True, "rescale_embeddings": False, "position_embedding_type": "absolute",
    }  # fmt: skip
    names = dict(zip(("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size"), (50_265, 768, 12, 12, 3072)))
    read = [build_spec(architectures.section_from_config(config, nsp=False, source="config.json")) for config in (longformer, big_bird)]
    assert read[0] == build_spec({"family": "longformer"} | names)
    assert read[1] == build_spec({"family": "big_bird"} | names | {"vocab_size": 50_358})
    assert dataclasses.replace(read[1], pooler=False) != read[1]
