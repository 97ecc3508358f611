"""Losses of downstream tasks: those of torch and of the published formulas; rows that only fill a batch count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bert_jax.training import task_objectives as objectives
from bert_jax.training.objectives import total_loss

ROWS, CLASSES, LENGTH, WIDTH = 6, 4, 7, 8
rng = np.random.default_rng(0)
ONES = {"weights": np.ones(ROWS, np.float32)}
SCORES = rng.normal(size=(ROWS, CLASSES)).astype(np.float32)
TOKEN_SCORES = rng.normal(size=(ROWS, LENGTH, CLASSES)).astype(np.float32)
CLASS_LABELS = rng.integers(0, CLASSES, ROWS).astype(np.int32)
NUMBERS = rng.uniform(size=ROWS).astype(np.float32)
SEVERAL = (rng.uniform(size=(ROWS, CLASSES)) < 0.4).astype(np.float32)
TAGS = np.where(rng.uniform(size=(ROWS, LENGTH)) < 0.3, objectives.IGNORED, rng.integers(0, CLASSES, (ROWS, LENGTH))).astype(np.int32)
VECTORS = [rng.normal(size=(ROWS, WIDTH)).astype(np.float32) for _ in range(3)]
functional = torch.nn.functional
tensor = torch.from_numpy


def mean_loss(objective, batch, losses) -> float:
    return float(total_loss(losses, objective.weights(batch), objective.scales))


def of_scores(objective, scores, batch) -> float:
    return mean_loss(objective, batch, objective.sums_of(jnp.asarray(scores), batch)[0])


def of_vectors(objective, vectors, batch, model=None) -> float:
    return mean_loss(objective, batch, objective.sums_of_towers(model, [jnp.asarray(part) for part in vectors], batch)[0])


def spans_of_torch() -> torch.Tensor:
    start, end = tensor(TOKEN_SCORES[:, :, 0].copy()), tensor(TOKEN_SCORES[:, :, 1].copy())
    return (functional.cross_entropy(start, tensor(CLASS_LABELS).long()) + functional.cross_entropy(end, tensor(CLASS_LABELS).long())) / 2


SPAN_FIELDS = {"start_positions": CLASS_LABELS, "end_positions": CLASS_LABELS, "segment_ids": np.ones((ROWS, LENGTH), np.int32)}
CLASS_WEIGHTS = (0.5, 2.0, 1.0, 3.0)
CASES = {
    "classification": (objectives.Classification(), SCORES, {"labels": CLASS_LABELS}, lambda: functional.cross_entropy(tensor(SCORES), tensor(CLASS_LABELS).long())),
    "class weights": (
        objectives.Classification(CLASS_WEIGHTS), SCORES, {"labels": CLASS_LABELS},
        lambda: functional.cross_entropy(tensor(SCORES), tensor(CLASS_LABELS).long(), torch.tensor(CLASS_WEIGHTS)),
    ),
    "choice": (
        objectives.Choice(), SCORES.reshape(-1, 1), {"labels": CLASS_LABELS}, lambda: functional.cross_entropy(tensor(SCORES), tensor(CLASS_LABELS).long()),
    ),
    "multilabel": (objectives.Multilabel(), SCORES, {"labels": SEVERAL}, lambda: functional.binary_cross_entropy_with_logits(tensor(SCORES), tensor(SEVERAL))),
    "regression": (objectives.Regression(), SCORES[:, :1], {"labels": NUMBERS}, lambda: functional.mse_loss(tensor(SCORES[:, 0].copy()), tensor(NUMBERS))),
    "ranking": (
        objectives.Ranking(), SCORES[:, :1], {"labels": NUMBERS}, lambda: functional.binary_cross_entropy_with_logits(tensor(SCORES[:, 0].copy()), tensor(NUMBERS)),
    ),
    "tokens": (
        objectives.TokenLabels(), TOKEN_SCORES, {"labels": TAGS},
        lambda: functional.cross_entropy(tensor(TOKEN_SCORES).reshape(-1, CLASSES), tensor(TAGS).long().reshape(-1), ignore_index=-100),
    ),
    "span": (objectives.Spans(), TOKEN_SCORES[:, :, :2], SPAN_FIELDS, spans_of_torch),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_torch(case):
    objective, scores, fields, reference = CASES[case]
    assert of_scores(objective, scores, ONES | fields) == pytest.approx(float(reference()), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_rows_that_fill_a_batch_count_for_nothing(case):
    objective, scores, fields, reference = CASES[case]
    filled = {name: np.concatenate([array, array[:2]]) for name, array in fields.items()} | {"weights": np.r_[np.ones(ROWS), 0, 0].astype(np.float32)}
    per_row = len(scores) // ROWS
    assert of_scores(objective, np.concatenate([scores, 100 + scores[: 2 * per_row]]), filled) == pytest.approx(float(reference()), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_add_up_to_the_batch(case):
    objective, scores, fields, reference = CASES[case]
    batch, per_row = ONES | fields, len(scores) // ROWS
    weights = objective.weights(batch)
    parts = [slice(0, 4), slice(4, ROWS)]
    total = sum(
        total_loss(objective.sums_of(jnp.asarray(scores[per_row * part.start : per_row * part.stop]), {name: array[part] for name, array in batch.items()})[0], weights, {})
        for part in parts
    )
    assert float(total) == pytest.approx(float(reference()), rel=1e-5)


def test_padding_is_no_place_for_an_answer():
    segments = np.ones((ROWS, LENGTH), np.int32)
    segments[:, 5:] = 0
    batch = ONES | SPAN_FIELDS | {"segment_ids": segments}
    worse = TOKEN_SCORES[:, :, :2].copy()
    worse[:, 5:] = 1000
    assert of_scores(objectives.Spans(), worse, batch) == pytest.approx(of_scores(objectives.Spans(), TOKEN_SCORES[:, :, :2], batch))


def cosines(one, other) -> torch.Tensor:
    return functional.normalize(tensor(one)) @ functional.normalize(tensor(other)).T


def test_multiple_negatives_are_all_other_rows_and_the_hard_negatives():
    scores = 20 * torch.cat([cosines(VECTORS[0], VECTORS[1]), cosines(VECTORS[0], VECTORS[2])], 1)
    expected = functional.cross_entropy(scores, torch.arange(ROWS))
    assert of_vectors(objectives.MultipleNegatives(), VECTORS, ONES) == pytest.approx(float(expected), rel=1e-5)


def test_rows_that_fill_a_batch_are_nobodys_negatives():
    filled = [np.concatenate([part, part[:2]]) for part in VECTORS]
    weights = {"weights": np.r_[np.ones(ROWS), 0, 0].astype(np.float32)}
    assert of_vectors(objectives.MultipleNegatives(), filled, weights) == pytest.approx(of_vectors(objectives.MultipleNegatives(), VECTORS, ONES), rel=1e-5)


def test_other_embedding_losses():
    expected = torch.nn.TripletMarginLoss(margin=5.0)(*map(tensor, VECTORS))
    assert of_vectors(objectives.Triplet(), VECTORS, ONES) == pytest.approx(float(expected), rel=1e-4)
    similarity = functional.cosine_similarity(tensor(VECTORS[0]), tensor(VECTORS[1]))
    batch = ONES | {"labels": NUMBERS}
    assert of_vectors(objectives.CosineSimilarity(), VECTORS[:2], batch) == pytest.approx(float(functional.mse_loss(similarity, tensor(NUMBERS))), rel=1e-5)
    kernel = rng.normal(size=(3 * WIDTH, CLASSES)).astype(np.float32)

    class Model:
        classifier = staticmethod(lambda x: x @ kernel)

    joined = np.concatenate([*VECTORS[:2], np.abs(VECTORS[0] - VECTORS[1])], 1)
    expected = functional.cross_entropy(tensor(joined @ kernel), tensor(CLASS_LABELS).long())
    assert of_vectors(objectives.PairClassification(), VECTORS[:2], ONES | {"labels": CLASS_LABELS}, Model()) == pytest.approx(float(expected), rel=1e-5)


def test_gradients_are_finite_where_two_texts_are_one():
    def loss(vectors):
        return objectives.Triplet().sums_of_towers(None, [vectors, vectors, vectors], ONES)[0]["task"]

    assert np.isfinite(jax.grad(loss)(jnp.asarray(VECTORS[0]))).all()
    assert np.isfinite(jax.grad(lambda x: objectives.unit(x).sum())(jnp.zeros((1, WIDTH)))).all()
