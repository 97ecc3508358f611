"""`bert-jax rank`: the passages of a file in the order in which they answer a query, by a cross-encoder or by sentence vectors."""

from pathlib import Path

import numpy as np

from data_pipeline.tasks.examples import Examples
from data_pipeline.tasks.task_data import TaskData
from launch.config import ConfigError
from launch.finetune.embed import embed_texts
from launch.finetune.use import on_devices, open_encoder
from launch.load_model import load_model

PAIRS = TaskData("ranking", text_pair="passage", label=None)


def rank(path: Path, query: str, source: Path, *, top: int, batch_size: int) -> None:
    """Prints score, line number and passage of the best. A model fine-tuned for ranking reads query and passage together; any other compares their vectors."""
    passages = [line for line in source.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not passages or not query.strip():
        raise ConfigError(f"give a query, and passages in --input={source}, one in each line")
    loaded = load_model(path)
    if loaded.task is not None and loaded.task.kind == "ranking":
        model = on_devices(loaded, loaded.task, loaded.params, batch_size, "float32")
        examples = Examples("ranking", [str(number) for number in range(len(passages))], [query] * len(passages), passages)
        scores = model.scores(model.encode(examples, PAIRS))[:, 0]
    else:
        vectors = embed_texts(open_encoder(path, batch_size=batch_size), [query, *passages], normalise=True)
        scores = vectors[1:] @ vectors[0]
    for place in np.argsort(-scores, kind="stable")[:top]:
        print(f"{scores[place]:8.4f}  {place + 1:>6}  {passages[place]}")
