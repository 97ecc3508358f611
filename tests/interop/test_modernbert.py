"""ModernBERT: export, import and verification."""

import jax
import numpy as np
import pytest
import transformers

from bert_jax.interop import huggingface
from bert_jax.interop.verify import verify
from bert_jax.model.families import build_spec
from data_pipeline.tokenization import tokenizers

# The last: every layer sees the whole document.
KINDS = {"local and global": {"num_layers": 5, "global_every": 2, "window": 8, "local_rope_base": 100.0}, "global": {"num_layers": 2, "global_every": 1}}


@pytest.fixture(scope="module", params=KINDS)
def exported(request, prose, base_section, make_params, tmp_path_factory):
    """(directory, section, params)."""
    root = tmp_path_factory.mktemp("modernbert")
    tokenizer, _ = tokenizers.train([prose], root / "tokenizer", kind="byte_bpe", vocab_size=400)
    section = base_section | {"family": "modernbert", "vocab_size": tokenizer.vocab_size} | KINDS[request.param]
    params = make_params(section)
    huggingface.export(params, section, root / "tokenizer", root / "model")
    return root / "model", section, params


def test_a_true_export_passes_and_comes_back(exported, texts):
    directory, section, params = exported
    report = verify(directory, params, section, texts)
    assert [one.name for one in report.comparisons] == ["embeddings", *(f"layer {index}" for index in range(section["num_layers"])), "MLM logits"]
    assert all(one.difference < 1e-4 and one.magnitude > 0.1 for one in report.comparisons)
    imported = huggingface.load(directory, key=jax.random.key(0))
    assert imported.notes == [] and imported.model_section["family"] == "modernbert"
    assert build_spec(imported.model_section).encoder.pattern[0] == build_spec(section).encoder.pattern[0]
    jax.tree.map(np.testing.assert_array_equal, imported.params["encoder"]["layers"], params["encoder"]["layers"])


def test_stock_transformers_loads_every_weight(exported, texts):
    directory = exported[0]
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(directory, output_loading_info=True)
    assert type(model) is transformers.ModernBertForMaskedLM and not any(info.values())
    encoded = transformers.AutoTokenizer.from_pretrained(directory)(texts[0], return_tensors="pt")
    assert set(encoded) == {"input_ids", "attention_mask"} and model(**encoded).logits.isfinite().all()
    assert "add_pooling_layer" not in (directory / "README.md").read_text()  # which this class does not take
    _, info = transformers.AutoModel.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"] and {name.split(".")[0] for name in info["unexpected_keys"]} == {"head", "decoder"}
