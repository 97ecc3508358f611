"""The training loop: batches in, updates, log lines, evaluations and checkpoints out. Everything it needs is handed to it."""

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import check, device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.metrics import divide
from bert_jax.training.profile import Profiler
from bert_jax.training.progress import Hardware, Progress
from bert_jax.training.run_log import RunLog
from bert_jax.training.saves import TimedSaves
from bert_jax.training.state import TrainState
from bert_jax.training.stop import StopRequest

log = logging.getLogger("bert_jax")


class BatchSource(Protocol):
    """A pure function of the step: what `data_pipeline.batches.loader.Loader` and `bert_jax.recorded.RecordedBatches` are.

    source_names: of the sources of a mixture, which `source_ids` in the batches number; empty where there is one source.
    """

    source_names: tuple[str, ...]

    def batches(self, start_step: int, stop_step: int | None = None): ...


@dataclasses.dataclass(frozen=True)
class Cadence:
    """Steps `first` to `last` of a run of `steps`, and the steps between log lines, evaluations and checkpoints.

    0 turns evaluations or checkpoints off, but for those of the last step."""

    first: int
    last: int
    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int

    def __post_init__(self):
        if not 0 <= self.first < self.last <= self.steps or self.log_every < 1:
            raise ValueError(f"steps {self.first} to {self.last} of {self.steps}, log_every {self.log_every}: there must be a step, and log_every be at least 1")

    def due(self, every: int, step: int) -> bool:
        return step == self.last or (every > 0 and step % every == 0)


def fit(
    state: TrainState,
    *,
    train_step: Callable,
    source: BatchSource,
    evaluate: Callable[[TrainState], dict[str, float]] | None,
    checkpoints: Checkpoints,
    run_log: RunLog,
    mesh: Mesh,
    cadence: Cadence,
    hardware: Hardware,
    key: jax.Array,
    profiler: Profiler,
    expected_first_loss: float | None = None,
) -> tuple[TrainState, bool]:
    """Trains from `state.step` to `cadence.last`; returns (state, finished). finished is False after SIGTERM or SIGINT, with the state saved.

    The source counts its steps from `cadence.first` on. expected_first_loss: ln V for a run from scratch; the first step's MLM loss is compared with it, and a warning says so when it is off.
    FloatingPointError when the loss or the gradients stop being finite; such a state is never saved.
    """
    start = int(state.step)
    progress = Progress(start, cadence.steps, hardware, source.source_names)
    saves = TimedSaves(checkpoints, run_log)
    iterator = iter(source.batches(start - cadence.first, cadence.last - cadence.first))
    window: list[dict] = []

    with StopRequest() as stop, progress, profiler:
        for step in range(start + 1, cadence.last + 1):
            with progress.waiting_for_input():
                batch = next(iterator)
            if step == start + 1:
                check(batch)
            if profiler.begins(step):
                jax.block_until_ready(state)  # nothing of earlier updates in the trace
                with progress.paused():
                    profiler.start()
            with profiler.step(step):
                device_batch = put_batch(device_fields(batch), mesh)
                state, metrics = train_step(state, device_batch, key)
            window.append(metrics)
            if len(window) > 2:
                jax.block_until_ready(window[-3])  # never more than two steps ahead of the devices
            progress.count(batch, len(device_batch["input_ids"]))
            if profiler.ends(step):
                jax.block_until_ready(state)
                with progress.paused():
                    profiler.stop()
                progress.say(f"step {step:>7,}  profile of steps {profiler.wanted} in {profiler.directory}")
            if step == start + 1:
                progress.compiled(metrics)
                if expected_first_loss is not None:
                    compare_first_loss(metrics, expected_first_loss, progress)
            elif len(batch["input_ids"]) != rows:
                progress.resized(metrics, step, jax.tree.leaves(device_batch)[0].shape[0])
            rows = len(batch["input_ids"])

            due_log, due_eval = step % cadence.log_every == 0, evaluate is not None and cadence.due(cadence.eval_every, step)
            stopping = stop.due()
            due_save = cadence.due(cadence.checkpoint_every, step) or stopping
            if due_log or due_save or due_eval:
                values = divide(window)
                if not all(math.isfinite(value) for value in values.values()):
                    run_log.event(step, "stopped", "loss or gradients not finite")
                    raise FloatingPointError(non_finite_message(step, values))
            if due_log or step == cadence.last:
                values |= progress.rates()
                run_log.write("train", step, values)
                progress.show(step, values)
                window = []
                saves.log()
            if due_eval:
                with progress.paused():
                    values = evaluate(state)
                run_log.write("eval", step, values)
                progress.say(evaluation_line(step, values))
            if due_save:
                with progress.paused():
                    saves.save(step, {"params": state.params, "opt_state": state.opt_state})
            if stopping and step < cadence.steps:
                progress.say(f"{stop.signal}: saving step {step} and leaving; the same command continues from there")
                saves.wait()
                run_log.event(step, "stopped", stop.signal)
                return state, False
        saves.wait()
    return state, True


def evaluation_line(step: int, values: dict[str, float]) -> str:
    line = f"step {step:>7,}  held-out: MLM loss {values['mlm_loss']:.3f}  perplexity {values['perplexity']:.2f}  masked accuracy {values['mlm_accuracy']:.1%}"
    if "unigram_accuracy" in values:
        line += f" (unigram baseline {values['unigram_accuracy']:.1%})"
    for pairs in ("nsp", "sop"):
        if f"{pairs}_accuracy" in values:
            line += f"  {pairs.upper()} accuracy {values[f'{pairs}_accuracy']:.1%} (commoner label {values[f'{pairs}_majority']:.1%})"
    return line + f"  on {values['sequences']:,} sequences"


def compare_first_loss(metrics: dict[str, tuple], expected: float, progress: Progress) -> None:
    """A fresh model predicts nearly uniformly, so its first MLM loss lies near ln V; far from it, the data or the initialisation is wrong."""
    loss = divide([metrics])["mlm_loss"]
    if abs(loss - expected) > max(0.1 * expected, 0.5):
        progress.say(
            f"WARNING: the first MLM loss is {loss:.3f}, but ln(vocabulary) is {expected:.3f}. A fresh model should start near it: "
            "check the tokenizer, the masking and model.initializer_range"
        )
    else:
        progress.say(f"first MLM loss {loss:.3f}, as expected near ln(vocabulary) = {expected:.3f}")


def non_finite_message(step: int, values: dict[str, float]) -> str:
    bad = ", ".join(f"{name}={value}" for name, value in values.items() if not math.isfinite(value))
    return (
        f"training diverged at or shortly before step {step}: {bad}. The last checkpoint is from before this. "
        "Lower schedule.peak, lengthen schedule.warmup_steps, or set optimizer.clip_norm"
    )
