"""Evaluation on held-out batches with fixed masks."""

import math
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import device_fields
from bert_jax.processes import gather
from bert_jax.sharding import put_batch
from bert_jax.training.metrics import divide


def evaluate(
    params, eval_step: Callable, batches: Iterable[dict[str, np.ndarray]], mesh: Mesh, *, baseline_token: int | None = None, scales: dict[str, float] | None = None
) -> dict[str, float]:
    """Metrics over all `batches`: losses, accuracies, perplexity = exp(mlm_loss), and the numbers of predictions and sequences. scales: the objective's.

    baseline_token: if given, also `unigram_accuracy`, the accuracy of always predicting it. With labels of sentence pairs also `nsp_majority` or
    `sop_majority`, the accuracy of always giving the commoner label. `batches` are this process's rows; all of these are over all processes.
    """
    results, sequences, counts = [], 0, np.zeros(5, np.int64)
    for batch in batches:
        placed = put_batch(device_fields(batch), mesh)
        results.append(eval_step(params, placed))
        sequences += len(placed["input_ids"])
        predicted = batch["mlm_weights"] > 0
        ones = [batch.get(f"{pairs}_labels", np.zeros(0)).sum() for pairs in ("nsp", "sop")]
        counts += np.array([len(predicted), predicted.sum(), (predicted & (batch["mlm_targets"] == baseline_token)).sum(), *ones], np.int64)
        jax.block_until_ready(results[-1])
    metrics = divide(results)
    held, *counts = gather(counts).sum(0).tolist()
    predictions, hits, nsp, sop = (count * sequences // held for count in counts)  # a row may be held by several processes, every one by as many
    metrics["loss"] = sum((scales or {}).get(name.removesuffix("_loss"), 1.0) * value for name, value in metrics.items() if name.endswith("_loss"))
    metrics["perplexity"] = math.exp(min(metrics["mlm_loss"], 700.0))
    metrics |= {"predictions": predictions, "sequences": sequences}
    metrics |= {f"{pairs}_majority": max(count, sequences - count) / sequences for pairs, count in (("nsp", nsp), ("sop", sop)) if f"{pairs}_accuracy" in metrics}
    if baseline_token is not None:
        metrics["unigram_accuracy"] = hits / max(predictions, 1)
    return metrics
