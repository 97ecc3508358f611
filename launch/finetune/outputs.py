"""A model's scores for all of a set's features, in their order."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import device_fields
from bert_jax.model.spec import TOKEN_KINDS, Compute
from bert_jax.sharding import batch_sharding, process_rows, put_batch, replicated
from bert_jax.training.state import Blueprint, Tree, shardings_of, whole_params
from bert_jax.training.task_objectives import TOWERS
from data_pipeline.tasks.batches import TaskBatches
from data_pipeline.tasks.encode import Features

Scores = list[np.ndarray] | np.ndarray | dict[str, np.ndarray]
INPUTS = ("input_ids", "token_type_ids", "segment_ids")


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model without its parameters, compiled. predict: (params, batch) -> what `make_predictor` says. batch_size: of features, at most."""

    kind: str
    mesh: Mesh
    batch_size: int
    predict: Callable

    def scores(self, params: Tree, features: Features, lengths: tuple[int, ...], after_batch: Callable[[], None] = lambda: None) -> Scores:
        """Tokens and spans: for each feature float32 [its tokens, outputs]. Others: float32 [features, outputs]; of choices [features, choices]; of embeddings
        the vectors of each tower, by prefix. Every process has all of them. lengths: to which batches are padded. after_batch: called after each, and may raise."""
        shards = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        size = max(-(-min(self.batch_size, len(features)) // shards), 1) * shards
        mine, collected = process_rows(self.mesh, size), [None] * len(features)
        towers: dict[str, np.ndarray] = {}
        for batch in TaskBatches(features, batch_size=size, lengths=lengths, shuffle=False).batches():
            inputs = {name: array for name, array in device_fields(batch).items() if name.endswith(INPUTS)}
            inputs = {name: array.reshape(size, -1, *array.shape[1:])[mine].reshape(-1, *array.shape[1:]) for name, array in inputs.items()}
            scores = jax.device_get(self.predict(params, put_batch(inputs, self.mesh)))
            real = np.flatnonzero(batch["example_ids"] >= 0)
            numbers = batch["example_ids"][real]
            if self.kind == "embedding":
                for prefix, vectors in scores.items():
                    towers.setdefault(prefix, np.empty((len(features), vectors.shape[1]), np.float32))[numbers] = vectors[real]
            else:
                scores = scores.reshape(size, -1) if self.kind == "choice" else scores
                used = (batch["segment_ids"] > 0).sum(1) if self.kind in TOKEN_KINDS else None
                for row, number in zip(real, numbers):
                    collected[number] = scores[row] if used is None else scores[row, : used[row]]
            after_batch()
        if self.kind == "embedding":
            return towers
        return collected if self.kind in TOKEN_KINDS else np.stack(collected)


def make_predictor(blueprint: Blueprint, compute: Compute, abstract_params: Tree, mesh: Mesh, batch_size: int) -> Predictor:
    """Of a TaskSpec's blueprint: without dropout; the model's scores, of embeddings the vectors of each tower in the batch, by prefix; whole on every device."""
    compute, kind = dataclasses.replace(compute, remat="none"), blueprint.spec.kind

    def predict(params: Tree, batch: dict[str, jax.Array]):
        model = blueprint.model(whole_params(blueprint, params, mesh, compute.dtype))
        if kind != "embedding":
            return model(batch, compute=compute)
        towers = [prefix for prefix in TOWERS if f"{prefix}input_ids" in batch]
        return {prefix: model({name: batch[prefix + name] for name in INPUTS}, compute=compute) for prefix in towers}

    shardings = shardings_of(abstract_params), batch_sharding(mesh)
    return Predictor(kind, mesh, batch_size, jax.jit(predict, in_shardings=shardings, out_shardings=replicated(mesh)))
