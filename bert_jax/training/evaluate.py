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
    """Metrics over all `batches`: losses, accuracies, perplexity = exp(mlm_loss), and the numbers of predictions and sequences.

    baseline_token: if given, also `unigram_accuracy`, the accuracy of always predicting it. With labels of sentence pairs also `nsp_majority` or
    `sop_majority`, the accuracy of always giving the commoner label. These and the numbers are of this process's rows only.
    """
    results, hits, predictions, sequences = [], 0.0, 0.0, 0
    ones = dict.fromkeys(("nsp", "sop"), 0)
    for batch in batches:
        results.append(eval_step(params, put_batch(device_fields(batch), mesh)))
        predictions += float(batch["mlm_weights"].sum())
        hits += float(((batch["mlm_targets"] == baseline_token) * batch["mlm_weights"]).sum())
        sequences += len(batch["input_ids"])
        ones = {pairs: count + int(batch.get(f"{pairs}_labels", np.zeros(0)).sum()) for pairs, count in ones.items()}
        jax.block_until_ready(results[-1])
    metrics = divide(results)
    metrics["loss"] = sum(value for name, value in metrics.items() if name.endswith("_loss"))
    metrics["perplexity"] = math.exp(min(metrics["mlm_loss"], 700.0))
    metrics |= {"predictions": predictions, "sequences": sequences}
    metrics |= {f"{pairs}_majority": max(count, sequences - count) / sequences for pairs, count in ones.items() if f"{pairs}_accuracy" in metrics}
    if baseline_token is not None:
        metrics["unigram_accuracy"] = hits / max(predictions, 1.0)
    return metrics
