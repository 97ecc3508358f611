"""`bert-jax embed`: a vector for each line of a text, float32 [lines, hidden size], in a .npy file; and how alike two texts are."""

import logging
from pathlib import Path

import numpy as np

from bert_jax.processes import is_first
from data_pipeline.tasks.examples import Examples
from data_pipeline.tasks.task_data import TaskData
from launch.config import ConfigError
from launch.finetune.use import Model, open_encoder

log = logging.getLogger("bert_jax")
TEXTS = TaskData("embedding", text_pair="pair", label=None)


def embed(path: Path, source: Path, output: Path, *, pooling: str | None, normalise: bool, length: int, batch_size: int) -> None:
    """One row for each line of `source`, in order, empty ones too. normalise: rows of length 1, whose products are cosines."""
    lines = source.read_text(encoding="utf-8").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    if not lines:
        raise ConfigError(f"--input={source} holds no line")
    if output.suffix != ".npy":
        raise ConfigError(f"--output={output}: a name that ends in .npy")
    vectors = embed_texts(open_encoder(path, pooling=pooling, length=length, batch_size=batch_size), lines, normalise=normalise)
    if is_first():
        temporary = output.with_name(output.name + ".tmp")
        with open(temporary, "wb") as file:
            np.save(file, vectors, allow_pickle=False)
        temporary.replace(output)
    log.info("%s vectors of size %d in %s", f"{len(vectors):,}", vectors.shape[1], output)


def embed_texts(model: Model, texts: list[str], *, normalise: bool = False) -> np.ndarray:
    """float32 [texts, hidden size]."""
    features = model.encode(Examples("embedding", [str(number) for number in range(len(texts))], texts), TEXTS)
    if features.truncated:
        log.warning("%d of %d texts are longer than %d tokens and were cut", features.truncated, len(texts), model.task.length)
    vectors = model.scores(features)[""]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if normalise else vectors
