"""The training loop: batches in, updates, log lines, evaluations and checkpoints out. Everything it needs is handed to it."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.batch import check, device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.bad_steps import BadStep, BadSteps, Limits, averaged
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.metrics import divide
from bert_jax.training.profile import Profiler
from bert_jax.training.progress import Hardware, Progress
from bert_jax.training.run_log import RunLog
from bert_jax.training.saves import TimedSaves
from bert_jax.training.state import TrainState, saved_trees
from bert_jax.training.stop import Interrupted, StopRequest
from bert_jax.training.watch import Watch

ADVICE = "Lower schedule.peak, lengthen schedule.warmup_steps, or set optimizer.clip_norm"
log = logging.getLogger("bert_jax")


class BatchSource(Protocol):
    """A pure function of the step: what `data_pipeline.batches.loader.Loader` and `bert_jax.recorded.RecordedBatches` are.

    source_names: of the sources of a mixture, which `source_ids` in the batches number; empty where there is one source.
    """

    source_names: tuple[str, ...]

    def batches(self, start_step: int, stop_step: int | None = None): ...


class Trials(Protocol):
    """What is done beside a run at some of its steps, for which the run waits and which changes nothing of it. Steps that a run passes over, after bad ones, have none."""

    def due(self, step: int) -> bool: ...

    def __call__(self, state: TrainState, run_log: RunLog) -> None:
        """Raises Interrupted if a stop is due; called again with the same state it then goes on."""


@dataclasses.dataclass(frozen=True)
class Cadence:
    """Steps `first` to `last` of a run of `steps`, and the steps between log lines, evaluations and checkpoints.

    0 turns evaluations or checkpoints off, but for those of the last step. keep_every: steps whose checkpoints stay for ever, which are saved in any case.
    checkpoint_minutes: after which a checkpoint is due at the next log line; 0: only by steps."""

    first: int
    last: int
    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep_every: int = 0
    checkpoint_minutes: float = 0.0

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
    evaluate: Callable[[TrainState, Callable[[], None]], dict[str, float]] | None,
    checkpoints: Checkpoints,
    run_log: RunLog,
    mesh: Mesh,
    cadence: Cadence,
    hardware: Hardware | None,
    key: jax.Array,
    profiler: Profiler,
    stop: StopRequest,
    watch: Watch,
    last_good: Callable[[], TrainState],
    limits: Limits = Limits(),
    expected_first_loss: float | None = None,
    check_batch: Callable[[dict], None] = check,
    describe: Callable[[int, dict[str, float]], str] | None = None,
    trials: Trials | None = None,
) -> tuple[TrainState, bool]:
    """Trains from `state.step` to `cadence.last`; returns (state, finished). finished is False after SIGTERM or SIGINT, with the state saved.

    `watch` is told of every step, batch of an evaluation and save, and `stop` asked; `evaluate` calls its second argument between batches.

    The source counts its steps from `cadence.first` on. expected_first_loss: ln V for a run from scratch; the first step's MLM loss is compared with it, and a warning says so when it is off.
    limits: those that `train_step` skips by; after so many skipped in a row the state is that of `last_good`, the newest checkpoint, and the batches behind them follow.
    hardware: for MFU; None tells none, as where rows have many lengths. check_batch: raises ValueError of a first batch that breaks its contract. describe: an evaluation in words, from step and metrics.
    trials: called at their steps, once the step is saved; those of the step that it starts from are the caller's.
    FloatingPointError when that leads to nothing, or numbers of an update that was made are not finite; such a state is never saved.
    """
    start = int(state.step)
    progress = Progress(start, cadence.steps, hardware, source.source_names)
    saves = TimedSaves(checkpoints, run_log, minutes=cadence.checkpoint_minutes)
    bad_steps, went_back_to = BadSteps(limits), None
    iterator = iter(source.batches(start - cadence.first, cadence.last - cadence.first))
    window: list[dict] = []
    shapes, step = set(), start

    with progress, profiler, saves:
        while step < cadence.last:
            step += 1
            watch.begins(f"the batch of step {step}", slow=not shapes)
            with progress.waiting_for_input():
                batch = next(iterator)
            if step == start + 1:
                check_batch(batch)
            if profiler.begins(step):
                jax.block_until_ready(state)  # nothing of earlier updates in the trace
                with progress.paused():
                    profiler.start()
            shape = batch["input_ids"].shape
            compiles = shape not in shapes
            shapes.add(shape)
            watch.begins(f"step {step}", slow=compiles)
            with profiler.step(step):
                device_batch = put_batch(device_fields(batch), mesh)
                state, metrics = train_step(state, device_batch, key)
            watch.step, watch.unsaved = step, True
            window.append(averaged(metrics))
            bad_steps.sent(step, metrics, batch)
            if len(window) > 2:
                jax.block_until_ready(window[-3])  # never more than two steps ahead of the devices
                tell(bad_steps.seen(step - 2), progress, run_log)
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
            elif compiles:
                progress.resized(metrics, step, device_batch["input_ids"].shape)

            due_log, due_eval = step % cadence.log_every == 0, evaluate is not None and cadence.due(cadence.eval_every, step)
            stopping = stop.due()
            due_save = cadence.due(cadence.checkpoint_every, step) or cadence.due(cadence.keep_every, step) or stopping
            due_trials = trials is not None and trials.due(step)
            due_save = due_save or due_trials or (due_log and saves.due())
            if due_log or due_save or due_eval:
                values = divide(window)
                tell(bad_steps.seen(step), progress, run_log)
                if not all(math.isfinite(value) for value in values.values()):
                    run_log.event(step, "stopped", "loss or gradients not finite")
                    raise FloatingPointError(non_finite_message(step, values))
            if bad_steps.too_many:
                watch.begins("going back to the last checkpoint", slow=True)
                saves.wait()
                step = bad_steps.first + limits.in_a_row - 1  # whenever it was noticed
                state, went_back_to = go_back(state, step, last_good, cadence.first, went_back_to)
                progress.say(f"{limits.in_a_row} updates in a row were skipped: back to the state of step {went_back_to}, and on behind step {step}")
                run_log.event(step, "went back", f"to the state of step {went_back_to}")
                iterator = iter(source.batches(step - cadence.first, cadence.last - cadence.first))
                window = []
                bad_steps.passed()
                continue
            if due_log or step == cadence.last:
                speed = progress.rates()
                if values.get("skipped") == 1.0:  # nothing to average
                    run_log.write("train", step, {"skipped": 1.0, **speed})
                else:
                    values |= speed
                    run_log.write("train", step, values)
                    progress.show(step, values)
                window = []
                saves.log()
            scores = None
            if due_eval:
                watch.begins(f"the evaluation at step {step}", slow=True)

                def between_batches():
                    stop.between_batches()
                    watch.begins(f"the evaluation at step {step}")

                try:
                    with progress.paused():
                        scores = evaluate(state, between_batches)
                    run_log.write("eval", step, scores)
                    progress.say((describe or evaluation_line)(step, scores))
                except Interrupted:
                    progress.say(f"step {step:>7,}  the evaluation is given up")
                    stopping = due_save = True
            due_save = due_save and (bad_steps.may_save or step == cadence.last)
            if due_save:
                watch.begins(f"the save of step {step}", slow=True)
                with progress.paused():
                    saves.save(step, saved_trees(state), scores)
            if due_trials and not stopping:
                try:
                    with progress.paused():
                        if due_save:
                            saves.finish(step, saved_trees(state), scores)
                            watch.unsaved = False
                        trials(state, run_log)
                except Interrupted:
                    stopping = True
            if stopping and (step < cadence.steps or due_trials):
                if due_save:
                    progress.say(f"{stop.signal}: saving step {step} and leaving; the same command continues from there")
                    saves.finish(step, saved_trees(state), scores)
                else:
                    progress.say(f"{stop.signal}: leaving; step {step} was skipped, and the same command continues from the last checkpoint")
                    saves.wait()
                run_log.event(step, "stopped", stop.signal)
                return state, False
        watch.begins(f"the save of step {step}", slow=True)
        saves.finish(step, saved_trees(state))
        watch.unsaved = False
    return state, True


def tell(found: Iterable[BadStep], progress: Progress, run_log: RunLog) -> None:
    for bad in found:
        progress.say(f"step {bad.step:>7,}  {bad}; `bert-jax inspect WORKDIR --step={bad.step - 1}` shows its batch")
        run_log.event(bad.step, "skipped", str(bad), example_ids=bad.all_example_ids())


def go_back(state: TrainState, step: int, last_good: Callable[[], TrainState], first: int, before: int | None) -> tuple[TrainState, int]:
    """(the newest checkpoint's state with `step` as its step, the step of the checkpoint). Deletes the state.

    FloatingPointError if that is before `first`, where a phase begins, or is `before`, to which the run has gone back already."""
    jax.tree.map(lambda leaf: leaf.delete(), state)
    state = last_good()
    came_to = int(state.step)
    if came_to < first or came_to == before:
        raise FloatingPointError(
            f"the updates up to step {step} were skipped{', as those after going back to the same checkpoint before' if came_to == before else ''}; "
            f"the newest checkpoint is of step {came_to}. {ADVICE}"
        )
    return dataclasses.replace(state, step=jax.device_put(np.int32(step), state.step.sharding)), came_to


def evaluation_line(step: int, values: dict[str, float]) -> str:
    line = f"step {step:>7,}  held-out: MLM loss {values['mlm_loss']:.3f}  perplexity {values['perplexity']:.2f}  masked accuracy {values['mlm_accuracy']:.1%}"
    if "unigram_accuracy" in values:
        line += f" (unigram baseline {values['unigram_accuracy']:.1%})"
    for pairs in ("nsp", "sop"):
        if f"{pairs}_accuracy" in values:
            line += f"  {pairs.upper()} accuracy {values[f'{pairs}_accuracy']:.1%} (commoner label {values[f'{pairs}_majority']:.1%})"
    if "detection_accuracy" in values:
        line += f"  replaced tokens: {values['detection_recall']:.1%} found, {values['detection_precision']:.1%} of those named"
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
        + ADVICE
    )
