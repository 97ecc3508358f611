"""Held-out evaluation of a run: from its config and data to a function of the state that gives metrics, of all stores together and of each."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np

from bert_jax.training.evaluate import evaluate
from bert_jax.training.state import TrainState
from bert_jax.training.step import make_eval_step
from launch.data import Data, make_source
from launch.run import Run

OF_EACH = ("mlm_loss", "mlm_accuracy")  # logged for each store of a mixture, as "mlm_loss/NAME"
log = logging.getLogger("bert_jax")


def held_out_evaluation(config: dict, run: Run, data: Data) -> Callable[..., dict[str, float]] | None:
    """A function of the state giving held-out metrics, or None if too little text is held out. Every sequence counts at most once.

    Its second argument, a function, is called after each batch, and may raise to give the evaluation up.

    Of a mixture, eval.sequences sequences are mixed as in training, and as many again, parted evenly, give each store's own OF_EACH."""
    if data.recorded:
        log.warning("recorded batches have no held-out part: no evaluation")
        return None
    if not data.held_out:
        log.warning("no text is held out (see bert-jax prepare --holdout): no evaluation")
        return None
    for path in data.paths:
        if path not in data.held_out:
            log.warning("%s holds no held-out text and takes no part in the evaluation", path)
    wanted = config["eval"]["sequences"]
    found = held_out_batches(config, data, run, wanted)
    if found is None:
        return None
    source, batches = found
    if batches * source.batch_size < wanted:
        shortest = min(source.sources, key=lambda part: len(part.sequences) / data.shares[data.paths.index(part.store.directory)])
        log.warning(
            "evaluating %d held-out sequences instead of eval.sequences=%d: %s has %d", batches * source.batch_size, wanted,
            shortest.store.directory, len(shortest.sequences),
        )
    of_each = {}
    if source.source_names:
        for name, path in zip(source.source_names, data.held_out):
            alone = dataclasses.replace(data, paths=(path,), held_out=(path,), shares=np.ones(1))
            if own := held_out_batches(config, alone, run, wanted // len(data.held_out)):
                of_each[name] = own
    eval_step = make_eval_step(run.blueprint, run.objective, dataclasses.replace(run.compute, remat="none"), run.abstract.params, run.mesh)

    def evaluation(state: TrainState, after_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
        def each(batches):
            for batch in batches:
                yield batch
                after_batch()

        metrics = evaluate(state.params, eval_step, each(source.batches(0, batches)), run.mesh, baseline_token=data.baseline_token, scales=run.objective.scales)
        for name, (own, count) in of_each.items():
            scores = evaluate(state.params, eval_step, each(own.batches(0, count)), run.mesh)
            metrics |= {f"{metric}/{name}": scores[metric] for metric in OF_EACH}
        return metrics

    return evaluation


def held_out_batches(config: dict, data: Data, run: Run, wanted: int):
    """(a source of held-out batches, how many of them make up to `wanted` sequences), or None with a warning if there is not one."""
    shards = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    try:
        source = make_source(config, data, run.mesh, split="eval", batch_size=shards)
    except ValueError as error:
        log.warning("no evaluation of %s: %s", data, error)
        return None
    sequences = min(wanted, source.num_sequences)
    batch_size = min(config["eval"]["batch_size"], sequences // shards * shards)
    if batch_size < 1:
        log.warning("no evaluation of %s: %d sequence(s) are held out, fewer than there are devices (%d)", data, sequences, shards)
        return None
    return make_source(config, data, run.mesh, split="eval", batch_size=batch_size), sequences // batch_size
