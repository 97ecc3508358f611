"""Evaluation on held-out batches with fixed masks."""

import math
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.metrics import divide


def evaluate(params, eval_step: Callable, batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, *, baseline_token: int | None = None) -> dict[str, float]:
    """Metrics over all `batches`: losses, accuracies, perplexity = exp(mlm_loss), and the number of predictions.

    baseline_token: if given, also `unigram_accuracy`, the accuracy of always predicting it (this process's rows only).
    """
    results, hits, predictions = [], 0.0, 0.0
    for batch in batches:
        results.append(eval_step(params, put_batch(device_fields(batch), mesh)))
        predictions += float(batch["mlm_weights"].sum())
        hits += float(((batch["mlm_targets"] == baseline_token) * batch["mlm_weights"]).sum())
        jax.block_until_ready(results[-1])
    metrics = divide(results)
    metrics["loss"] = sum(value for name, value in metrics.items() if name.endswith("_loss"))
    metrics["perplexity"] = math.exp(min(metrics["mlm_loss"], 700.0))
    metrics["predictions"] = predictions
    if baseline_token is not None:
        metrics["unigram_accuracy"] = hits / max(predictions, 1.0)
    return metrics
