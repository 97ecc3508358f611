"""Original TensorFlow checkpoints, written here by TensorFlow under the original names from a transformers model."""

import jax
import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from bert_jax.interop import tf_bert, verify
from data_pipeline import tf_checkpoint

KEY = jax.random.key(5)
CONFIG = {  # the fields of a released bert_config.json
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 300,
}
# How the Hugging Face names came from the original ones, in order.
REPLACEMENTS = (
    ("embeddings.weight", "embeddings"),
    ("LayerNorm.weight", "LayerNorm.gamma"),
    ("LayerNorm.bias", "LayerNorm.beta"),
    ("seq_relationship.weight", "seq_relationship.output_weights"),
    ("seq_relationship.bias", "seq_relationship.output_bias"),
    ("predictions.bias", "predictions.output_bias"),
    ("layer.", "layer_"),
    ("weight", "kernel"),
    (".", "/"),
)


def original(name: str, tensor: torch.Tensor) -> tuple[str, np.ndarray]:
    for old, new in REPLACEMENTS:
        name = name.replace(old, new) if "output_weights" not in name or old != "weight" else name
    array = tensor.detach().numpy()
    return name, array.T if name.endswith("/kernel") else array


def save(prefix, arrays: dict[str, np.ndarray]):
    """With the Saver of TensorFlow 1, as the original code."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=array) for name, array in arrays.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(prefix))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(directory, arrays, transformers model) of a checkpoint with pretraining heads and the optimizer's state."""
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(transformers.BertConfig(**CONFIG, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    arrays = dict(original(name, parameter) for name, parameter in model.named_parameters())
    assert {"bert/encoder/layer_1/output/dense/bias", "cls/predictions/output_bias", "cls/seq_relationship/output_weights"} <= arrays.keys()
    state = {f"{name}/{slot}": np.full_like(array, 7.0) for name, array in arrays.items() for slot in ("adam_m", "adam_v")}
    directory = tmp_path_factory.mktemp("release")
    save(directory / "bert_model.ckpt", arrays | state | {"global_step": np.int64(100)})
    return directory, arrays, model


def test_a_release_computes_what_transformers_computes(released):
    directory, _, model = released
    section, params, notes = tf_bert.from_arrays(tf_checkpoint.read(directory / "bert_model.ckpt"), CONFIG, key=KEY)
    assert notes == [tf_bert.ERF_NOTE] and section["nsp"]
    ids = np.random.default_rng(0).integers(1, 300, (3, 20))
    ones = np.ones_like(ids)
    encoded = {"input_ids": ids, "token_type_ids": ones * (np.arange(20) > 11), "attention_mask": ones}
    with torch.no_grad():
        theirs = model(**{name: torch.from_numpy(array) for name, array in encoded.items()}, output_hidden_states=True)
    states, heads = verify.our_outputs(params, verify.build_spec(section), encoded)
    for ours, reference in zip(states, theirs.hidden_states, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-4)
    np.testing.assert_allclose(heads["MLM logits"], theirs.prediction_logits, atol=1e-4)
    np.testing.assert_allclose(heads["NSP logits"], theirs.seq_relationship_logits, atol=1e-4)


def test_encoder_only_release_gets_heads_from_the_key(released, tmp_path):
    _, arrays, _ = released
    save(tmp_path / "bert_model.ckpt", {name: array for name, array in arrays.items() if name.startswith("bert/")})
    _, params, notes = tf_bert.from_arrays(tf_checkpoint.read(tmp_path / "bert_model.ckpt"), CONFIG, key=KEY)
    assert [note.split(":")[0] for note in notes[:-1]] == ["mlm_head", "nsp_head"]
    np.testing.assert_array_equal(params["pooler"]["kernel"], arrays["bert/pooler/dense/kernel"])


def test_arrays_that_do_not_fit_are_refused_by_name(released):
    _, arrays, _ = released
    with pytest.raises(ValueError, match="no place for: bert/encoder/layer_1"):
        tf_bert.from_arrays(arrays, CONFIG | {"num_hidden_layers": 1}, key=KEY)
    with pytest.raises(ValueError, match="lacks 16 weights of the encoder: .*bert/encoder/layer_2"):
        tf_bert.from_arrays(arrays, CONFIG | {"num_hidden_layers": 3}, key=KEY)
    with pytest.raises(ValueError, match=r"word_embeddings has shape \[300, 32\].*\[299, 32\]"):
        tf_bert.from_arrays(arrays, CONFIG | {"vocab_size": 299}, key=KEY)
    with pytest.raises(ValueError, match="bert_config.json.*embedding_size"):
        tf_bert.from_arrays(arrays, CONFIG | {"embedding_size": 16}, key=KEY)


def test_a_release_is_recognised_by_its_files(released, tmp_path):
    directory, _, _ = released
    assert not tf_bert.is_tf_checkpoint(directory)  # no config yet
    (directory / "bert_config.json").write_text("{}")
    assert tf_bert.is_tf_checkpoint(directory)
    with pytest.raises(ValueError, match="not a readable TensorFlow checkpoint"):
        tf_checkpoint.read(tmp_path / "bert_model.ckpt")
