"""What is minimised in fine-tuning; as in `objectives`, sums and weights, never means.

Batches have the encoder's fields, `labels` (spans: `start_positions` and `end_positions`), and `weights`: float32 [b], 0 for rows that only fill the batch.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from bert_jax.model.attention import MASKED
from bert_jax.model.spec import Compute
from bert_jax.model.task_heads import TaskModel
from bert_jax.sharding import all_rows, rows_before
from bert_jax.training.objectives import cross_entropy

IGNORED = -100  # a token's label that is not learnt, as torch and transformers have it
Batch = dict[str, jax.Array]
Sums = tuple[dict[str, jax.Array], dict[str, tuple[jax.Array, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class TaskObjective:
    """The loss of one head, under the name "task", and, where right and wrong are told apart, `task_accuracy`."""

    scales: ClassVar[dict[str, float]] = {}
    compares_rows: ClassVar[bool] = False  # so that the loss of a batch is not the sum of its micro-batches'

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Float32 scalars: the number of terms in the loss."""
        return {"task": self.row_weights(batch).sum()}

    def row_weights(self, batch: Batch) -> jax.Array:
        return batch["weights"]

    def sums(self, model: TaskModel, batch: Batch, *, key: jax.Array | None, compute: Compute) -> Sums:
        """({"task": sum of losses}, {"task_accuracy": (right, all)} or nothing), float32 scalars."""
        return self.sums_of(model(batch, key=key, compute=compute), batch)

    def sums_of(self, scores: jax.Array, batch: Batch) -> Sums:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Classification(TaskObjective):
    """labels int32 [b], scores [b, classes]. class_weights: of each class's examples, in a loss that is their weighted mean; empty: all alike."""

    class_weights: tuple[float, ...] = ()

    def row_weights(self, batch: Batch) -> jax.Array:
        return batch["weights"] * jnp.asarray(self.class_weights, jnp.float32)[batch["labels"]] if self.class_weights else batch["weights"]

    def sums_of(self, scores: jax.Array, batch: Batch) -> Sums:
        labels, rows = batch["labels"], batch["weights"]
        losses = {"task": (cross_entropy(scores, labels) * self.row_weights(batch)).sum()}
        return losses, {"task_accuracy": (((scores.argmax(-1) == labels) * rows).sum(), rows.sum())}


@dataclasses.dataclass(frozen=True)
class Choice(TaskObjective):
    """labels int32 [b], the encoder's fields and scores have b x choices rows, those of an example one after another (Devlin et al. 2018, section 4.4)."""

    def sums_of(self, scores: jax.Array, batch: Batch) -> Sums:
        return Classification().sums_of(scores.reshape(len(batch["labels"]), -1), batch)


@dataclasses.dataclass(frozen=True)
class Multilabel(TaskObjective):
    """labels float32 [b, labels] of 0 and 1: the mean over labels of the binary cross-entropy."""

    def sums_of(self, scores: jax.Array, batch: Batch) -> Sums:
        losses, rows = optax.sigmoid_binary_cross_entropy(scores, batch["labels"]).mean(-1), batch["weights"]
        right = ((scores > 0) == (batch["labels"] > 0.5)).mean(-1)
        return {"task": (losses * rows).sum()}, {"task_accuracy": ((right * rows).sum(), rows.sum())}


@dataclasses.dataclass(frozen=True)
class Regression(TaskObjective):
    """labels float32 [b], scores [b, 1]: the squared error."""

    def sums_of(self, scores: jax.Array, batch: Batch) -> Sums:
        return {"task": (jnp.square(scores[:, 0] - batch["labels"]) * batch["weights"]).sum()}, {}


@dataclasses.dataclass(frozen=True)
class Ranking(TaskObjective):
    """labels float32 [b], relevance from 0 to 1, of a query and a passage; scores [b, 1]: the binary cross-entropy (Nogueira & Cho 2019, arXiv 1901.04085)."""

    def sums_of(self, scores: jax.Array, batch: Batch) -> Sums:
        return Multilabel().sums_of(scores, batch | {"labels": batch["labels"][:, None]})


@dataclasses.dataclass(frozen=True)
class TokenLabels(TaskObjective):
    """labels int32 [b, l] with IGNORED where there is none; scores [b, l, tags]. The mean is over labelled tokens."""

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"task": self._labelled(batch).sum()}

    def sums_of(self, scores: jax.Array, batch: Batch) -> Sums:
        labels, labelled = batch["labels"], self._labelled(batch)
        losses = {"task": (cross_entropy(scores, jnp.maximum(labels, 0)) * labelled).sum()}
        return losses, {"task_accuracy": (((scores.argmax(-1) == labels) * labelled).sum(), labelled.sum())}

    def _labelled(self, batch: Batch) -> jax.Array:
        return (batch["labels"] != IGNORED) * batch["weights"][:, None]


@dataclasses.dataclass(frozen=True)
class Spans(TaskObjective):
    """start_positions, end_positions int32 [b], both 0, the first token, where there is no answer; scores [b, l, 2]. The mean of the two
    cross-entropies over the row's real tokens (Devlin et al. 2018, section 4.2). Accuracy: of both ends."""

    def sums_of(self, scores: jax.Array, batch: Batch) -> Sums:
        scores, rows = jnp.where((batch["segment_ids"] > 0)[:, :, None], scores, MASKED), batch["weights"]
        ends = [(scores[:, :, end], batch[field]) for end, field in enumerate(("start_positions", "end_positions"))]
        losses = sum(cross_entropy(score, position) for score, position in ends) / 2
        right = (ends[0][0].argmax(-1) == ends[0][1]) & (ends[1][0].argmax(-1) == ends[1][1])
        return {"task": (losses * rows).sum()}, {"task_accuracy": ((right * rows).sum(), rows.sum())}


TOWERS = ("", "pair_", "negative_")  # prefixes of an embedding batch's fields: anchors, their partners and, if there, hard negatives


@dataclasses.dataclass(frozen=True)
class EmbeddingObjective(TaskObjective):
    """One encoder for all towers (Reimers & Gurevych 2019, arXiv 1908.10084, section 3): `sums_of_towers` has the vectors [b, d] of each."""

    def sums(self, model: TaskModel, batch: Batch, *, key: jax.Array | None, compute: Compute) -> Sums:
        vectors = []
        for number, prefix in enumerate(tower for tower in TOWERS if f"{tower}input_ids" in batch):
            fields = {name: batch[prefix + name] for name in ("input_ids", "token_type_ids", "segment_ids")}
            vectors.append(model(fields, key=None if key is None else jax.random.fold_in(key, number), compute=compute))
        return self.sums_of_towers(model, vectors, batch)

    def sums_of_towers(self, model: TaskModel, vectors: list[jax.Array], batch: Batch) -> Sums:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class MultipleNegatives(EmbeddingObjective):
    """Each anchor's own partner among all partners and hard negatives of the whole batch, on whichever devices (Henderson et al. 2017, arXiv 1705.00652, section 4.4).

    scale: of the cosines, before the softmax. Rows that only fill the batch are nobody's negatives.
    """

    scale: float = 20.0
    compares_rows: ClassVar[bool] = True

    def sums_of_towers(self, model: TaskModel, vectors: list[jax.Array], batch: Batch) -> Sums:
        anchors, *others = map(unit, vectors)
        rows = batch["weights"]
        scores = self.scale * anchors @ jnp.concatenate([*map(all_rows, others)]).T
        scores = jnp.where(jnp.tile(all_rows(rows), len(others)) > 0, scores, MASKED)
        own = jnp.arange(len(anchors)) + rows_before(len(anchors))
        right = ((scores.argmax(-1) == own) * rows).sum()
        return {"task": (cross_entropy(scores, own) * rows).sum()}, {"task_accuracy": (right, rows.sum())}


@dataclasses.dataclass(frozen=True)
class Triplet(EmbeddingObjective):
    """The partner nearer to the anchor than the negative is, by `margin`, in Euclidean distance (Reimers & Gurevych 2019, section 3)."""

    margin: float = 5.0

    def sums_of_towers(self, model: TaskModel, vectors: list[jax.Array], batch: Batch) -> Sums:
        if len(vectors) != 3:
            raise ValueError("the loss `triplet` needs a negative for each pair: name its column")
        anchors, near, far = vectors
        gap, rows = distance(anchors, far) - distance(anchors, near), batch["weights"]
        return {"task": (jnp.maximum(self.margin - gap, 0.0) * rows).sum()}, {"task_accuracy": (((gap > 0) * rows).sum(), rows.sum())}


@dataclasses.dataclass(frozen=True)
class CosineSimilarity(EmbeddingObjective):
    """labels float32 [b], the similarity wanted of a pair, -1 to 1: the squared error of the cosine (Reimers & Gurevych 2019, section 3)."""

    def sums_of_towers(self, model: TaskModel, vectors: list[jax.Array], batch: Batch) -> Sums:
        cosines = (unit(vectors[0]) * unit(vectors[1])).sum(-1)
        return {"task": (jnp.square(cosines - batch["labels"]) * batch["weights"]).sum()}, {}


@dataclasses.dataclass(frozen=True)
class PairClassification(EmbeddingObjective):
    """labels int32 [b], classes of pairs such as NLI's: a classifier, that only training knows, on both vectors and their absolute difference
    (Reimers & Gurevych 2019, section 3)."""

    def sums_of_towers(self, model: TaskModel, vectors: list[jax.Array], batch: Batch) -> Sums:
        one, other = vectors[:2]
        return Classification().sums_of(model.classifier(jnp.concatenate([one, other, jnp.abs(one - other)], -1)), batch)


def unit(x: jax.Array) -> jax.Array:
    """[..., d], scaled to length 1; zeros stay."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """Euclidean, [..., d] -> [...]; its gradient is finite where it is 0."""
    return jnp.sqrt(jnp.maximum(jnp.square(x - y).sum(-1), 1e-24))


OF_KINDS = {
    "classification": Classification, "multilabel": Multilabel, "regression": Regression, "tokens": TokenLabels, "span": Spans, "choice": Choice, "ranking": Ranking,
}  # fmt: skip
EMBEDDING_LOSSES = {"multiple_negatives": MultipleNegatives, "triplet": Triplet, "cosine": CosineSimilarity, "softmax": PairClassification}
