"""DistilBERT: export, import and verification."""

import jax
import numpy as np
import pytest
import transformers

from bert_jax.interop import huggingface
from bert_jax.interop.verify import verify
from bert_jax.model.families import build_spec


@pytest.fixture(scope="module")
def exported(base_section, make_params, tokenizer_dir, tmp_path_factory):
    """(directory, section, params)."""
    section = base_section | {"family": "distilbert", "num_layers": 2}
    params = make_params(section)
    directory = tmp_path_factory.mktemp("distilbert") / "model"
    huggingface.export(params, section, tokenizer_dir, directory)
    return directory, section, params


def test_a_true_export_passes_and_comes_back(exported, texts):
    directory, section, params = exported
    report = verify(directory, params, section, texts)
    assert [one.name for one in report.comparisons] == ["embeddings", "layer 0", "layer 1", "MLM logits"]
    assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)
    imported = huggingface.load(directory, key=jax.random.key(0))
    assert build_spec(imported.model_section) == build_spec(section) and imported.notes == []
    jax.tree.map(np.testing.assert_array_equal, imported.params["encoder"]["layers"], params["encoder"]["layers"])


def test_stock_transformers_loads_every_weight(exported, texts):
    directory, _, _ = exported
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert type(model) is transformers.DistilBertForMaskedLM and not any(info.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    encoded = tokenizer(texts[0], texts[1], truncation=True, return_tensors="pt")
    assert set(encoded) == {"input_ids", "attention_mask"} and model(**encoded).logits.isfinite().all()
    assert "add_pooling_layer" not in (directory / "README.md").read_text()  # which this class does not take
    _, info = transformers.AutoModel.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and {name.split(".")[0] for name in info["unexpected_keys"]} == {"vocab_transform", "vocab_layer_norm", "vocab_projector"}


def test_an_encoder_alone_is_imported(exported, tmp_path):
    directory, _, params = exported
    transformers.DistilBertModel.from_pretrained(directory).save_pretrained(tmp_path)
    imported = huggingface.load(tmp_path, key=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, imported.params["encoder"]["layers"], params["encoder"]["layers"])
    assert len(imported.notes) == 1 and imported.notes[0].startswith("mlm_head: initialised")
