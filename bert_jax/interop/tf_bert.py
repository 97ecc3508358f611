"""Checkpoints of the original TensorFlow BERT (google-research/bert): arrays by their names there -> our parameters.

Reading the file is TensorFlow's work and is done in `data_pipeline/tf_checkpoint.py`. An unpacked release holds bert_model.ckpt.index,
bert_model.ckpt.data-00000-of-00001, bert_config.json and vocab.txt.
"""

import os
import pathlib

import jax
import numpy as np

from bert_jax.interop import architectures, weights
from bert_jax.interop.architectures.bert import ORIGINAL_NAMES
from bert_jax.model.families import build_spec

CHECKPOINT, CONFIG, VOCABULARY = "bert_model.ckpt", "bert_config.json", "vocab.txt"
OPTIMIZER_STATE = ("/adam_m", "/adam_v", "/lamb_m", "/lamb_v")
COUNTERS = ("global_step", "beta1_power", "beta2_power")
ERF_NOTE = (
    "hidden_act gelu is taken as the exact erf form, as transformers takes it and as the first releases were trained; "
    "later revisions of the original code computed the tanh approximation under the same name (activation: gelu_tanh)"
)


def is_tf_checkpoint(directory: str | os.PathLike) -> bool:
    """Whether a directory is an unpacked release: bert_model.ckpt.index and bert_config.json."""
    directory = pathlib.Path(directory)
    return (directory / f"{CHECKPOINT}.index").is_file() and (directory / CONFIG).is_file()


def from_arrays(arrays: dict[str, np.ndarray], config: dict, *, key: jax.Array) -> tuple[dict, dict, list[str]]:
    """(model section, parameters as float32 numpy arrays, notes) from the checkpoint's arrays and its bert_config.json.

    Optimizer state and step counters are ignored; heads that the checkpoint lacks are initialised from `key` and noted. ValueError as in
    `weights.from_tensors`.
    """
    arrays = {name: array for name, array in arrays.items() if not name.endswith(OPTIMIZER_STATE) and name not in COUNTERS}
    section = architectures.section_from_config(config, nsp=weights.has_nsp(arrays, ORIGINAL_NAMES), source=CONFIG)
    params, notes = weights.from_tensors(arrays, build_spec(section), ORIGINAL_NAMES, key)
    if section["activation"] == "gelu":
        notes.append(ERF_NOTE)
    return section, params, notes
