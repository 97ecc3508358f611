"""A real tokenizer, real sentences and random parameters of a small model."""

import pathlib
import re
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx

from bert_jax.model.families import build_spec
from bert_jax.model.heads import PretrainingModel

SECTION = {
    "family": "bert",
    "vocab_size": 300,  # padded to 384 rows
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "intermediate_size": 48,
    "max_positions": 64,
}


@pytest.fixture(scope="session")
def base_section() -> dict:
    return SECTION


@pytest.fixture(scope="session")
def prose() -> str:
    """English text of the Python documentation."""
    return " ".join(topics[name] for name in ("assert", "comparisons", "import"))


@pytest.fixture(scope="session")
def texts(prose) -> list[str]:
    sentences = re.findall(r"[A-Z][^.:*\n]*(?:\n[^.:*\n]+)*\.", prose)
    return [" ".join(sentence.split()) for sentence in sentences if 40 < len(sentence) < 110][:8]


@pytest.fixture(scope="session")
def tokenizer_dir(prose, tmp_path_factory) -> pathlib.Path:
    """A WordPiece tokenizer of 300 tokens in Hugging Face layout, trained on the prose."""
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator([prose], vocab_size=SECTION["vocab_size"], min_frequency=1, show_progress=False)
    tokenizer.save_model(str(directory))
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true, "model_max_length": 64}')
    return directory


@pytest.fixture(scope="session")
def make_params():
    """section, seed -> random numpy parameters, so that no bias is zero and no norm is one."""

    def make(section: dict, seed: int = 0) -> dict:
        spec = build_spec(section)
        shapes = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: PretrainingModel(spec, rngs=nnx.Rngs(params=0))))[1])
        random = np.random.default_rng(seed)
        return jax.tree.map_with_path(
            lambda path, leaf: random.normal(float(path[-1].key == "scale"), 0.2, leaf.shape).astype(np.float32), shapes
        )

    return make
