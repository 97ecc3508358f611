"""A pretrained encoder as a model of sentence-transformers: the library loads it and gives our vectors."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import sentence_transformers

from bert_jax.model.pooling import pool
from launch.load_model import load_model
from tests.launch.conftest import run

TEXTS = ["The list.", "This method may raise an exception when the file does not exist.", "Return the number of items in the list, or zero if it is empty."]


@pytest.fixture(scope="module")
def hidden(trained):
    """(the encoder's output for the texts, its segment ids)."""
    model = load_model(trained)
    tokenizer = model.tokenizer()
    rows = [[tokenizer.special["cls"], *tokenizer.encode(text).tolist(), tokenizer.special["sep"]] for text in TEXTS]
    length = max(map(len, rows))
    ids = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
    real = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], np.int32)
    batch = {"input_ids": jnp.asarray(ids), "token_type_ids": jnp.zeros_like(ids), "segment_ids": jnp.asarray(real)}
    return model.blueprint.model(model.params).encoder(batch), real


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_the_library_gives_our_vectors(trained, hidden, pooling, tmp_path):
    run("export", f"--workdir={trained}", f"--output={tmp_path / 'model'}", f"--pooling={pooling}", "--verify")
    run("export", f"--workdir={trained}", f"--output={tmp_path / 'model'}", f"--pooling={pooling}")  # an earlier export is replaced
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    ours = np.asarray(pool(*hidden, pooling))
    assert theirs.max_seq_length == 64 and np.abs(ours).max() > 0.1
    np.testing.assert_allclose(theirs.encode(TEXTS), ours, atol=1e-4)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["architectures"] == ["BertModel"]
