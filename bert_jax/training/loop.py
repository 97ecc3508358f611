"""The training loop: batches in, updates, log lines, evaluations and checkpoints out. Everything it needs is handed to it."""

import dataclasses
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from bert_jax.batch import check, device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.metrics import RunLog, divide
from bert_jax.training.state import TrainState

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


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What turns seconds into MFU. peak_flops: of all devices together, None where unknown."""

    flops_per_sequence: float
    peak_flops: float | None


class StopRequest:
    """Set by SIGTERM or SIGINT; a second SIGINT interrupts at once. Usable as a context manager in the main thread only."""

    def __init__(self):
        self.signal: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


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
    expected_first_loss: float | None = None,
) -> tuple[TrainState, bool]:
    """Trains from `state.step` to `cadence.last`; returns (state, finished). finished is False after SIGTERM or SIGINT, with the state saved.

    The source counts its steps from `cadence.first` on. expected_first_loss: ln V for a run from scratch; the first step's MLM loss is compared with it, and a warning says so when it is off.
    FloatingPointError when the loss or the gradients stop being finite; such a state is never saved.
    """
    start = int(state.step)
    progress = Progress(start, cadence.steps, hardware, source.source_names)
    iterator = iter(source.batches(start - cadence.first, cadence.last - cadence.first))
    window: list[dict] = []

    with StopRequest() as stop, progress:
        for step in range(start + 1, cadence.last + 1):
            with progress.waiting_for_input():
                batch = next(iterator)
            if step == start + 1:
                check(batch)
            state, metrics = train_step(state, put_batch(device_fields(batch), mesh), key)
            window.append(metrics)
            if len(window) > 2:
                jax.block_until_ready(window[-3])  # never more than two steps ahead of the devices
            progress.count(batch)
            if step == start + 1:
                progress.compiled(metrics)
                if expected_first_loss is not None:
                    compare_first_loss(metrics, expected_first_loss, progress)

            due_log, due_eval = step % cadence.log_every == 0, evaluate is not None and cadence.due(cadence.eval_every, step)
            stopping = stop.signal is not None  # read once: a signal that comes later is the next step's
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
            if due_eval:
                with progress.paused():
                    values = evaluate(state)
                run_log.write("eval", step, values)
                progress.say(evaluation_line(step, values))
            if due_save:
                with progress.paused():
                    checkpoints.save(step, {"params": state.params, "opt_state": state.opt_state})
            if stopping and step < cadence.steps:
                progress.say(f"{stop.signal}: saving step {step} and leaving; the same command continues from there")
                checkpoints.wait()
                run_log.event(step, "stopped", stop.signal)
                return state, False
        checkpoints.wait()
    return state, True


class Progress:
    """Speed, and what a person sees: a bar on a terminal, plain lines elsewhere. Evaluations and saves are left out of the rates."""

    def __init__(self, start: int, steps: int, hardware: Hardware, source_names: tuple[str, ...]):
        self.hardware = hardware
        self.source_names = source_names
        layout = "{percentage:3.0f}%|{bar:14}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        self.bar = tqdm(total=steps, initial=start, dynamic_ncols=True, smoothing=0.1, disable=None, bar_format=layout)
        self.steps = steps
        self.by_source = np.zeros(len(self.source_names), np.int64)
        self._reset()

    def _reset(self) -> None:
        self.began, self.waited, self.idle = time.monotonic(), 0.0, 0.0
        self.sequences = self.tokens = 0

    def __enter__(self):
        self._reset()
        return self

    def __exit__(self, *_):
        self.bar.close()

    def compiled(self, metrics: dict) -> None:
        """Waits for the first step, which compiles, and starts the rates after it."""
        jax.block_until_ready(metrics)
        self.say(f"first step after {time.monotonic() - self.began:.1f} s, compilation included")
        self._reset()

    def waiting_for_input(self):
        return _Stopwatch(self, "waited")

    def paused(self):
        return _Stopwatch(self, "idle")

    def count(self, batch: dict[str, np.ndarray]) -> None:
        self.sequences += len(batch["input_ids"])
        self.tokens += int(np.count_nonzero(batch["segment_ids"]))
        if self.source_names:
            self.by_source += np.bincount(batch["source_ids"], minlength=len(self.source_names))
        self.bar.update()

    def rates(self) -> dict[str, float]:
        """Rates since the last call, over all processes (none if there was but the first step), and the sequences of each source (this process's)."""
        counts = {f"sequences/{name}": int(count) for name, count in zip(self.source_names, self.by_source)}
        self.by_source[:] = 0
        if not self.sequences:
            return counts
        seconds = max(time.monotonic() - self.began - self.idle, 1e-9)
        processes = jax.process_count()
        values = {
            "sequences_per_second": processes * self.sequences / seconds,
            "tokens_per_second": processes * self.tokens / seconds,
            "input_wait": self.waited / seconds,
        }
        if self.hardware.peak_flops:
            values["mfu"] = values["sequences_per_second"] * self.hardware.flops_per_sequence / self.hardware.peak_flops
        self._reset()
        return values | counts

    def show(self, step: int, values: dict[str, float]) -> None:
        parts = [f"loss {values['loss']:.3f}", f"mlm acc {values['mlm_accuracy']:.1%}"]
        parts += [f"{pairs} acc {values[f'{pairs}_accuracy']:.1%}" for pairs in ("nsp", "sop") if f"{pairs}_accuracy" in values]
        if "sequences_per_second" in values:
            parts += [f"{values['sequences_per_second']:,.0f} seq/s", f"{values['tokens_per_second']:,.0f} tok/s"]
            parts += [f"MFU {values['mfu']:.1%}"] if "mfu" in values else []
            parts.append(f"wait {values['input_wait']:.0%}")
        if self.bar.disable:
            self.say(f"step {step:>7,}/{self.steps:,}  " + "  ".join(parts))
        else:
            self.bar.set_postfix_str(", ".join(parts))

    def say(self, line: str) -> None:
        if jax.process_index() == 0:
            tqdm.write(line, file=sys.stderr)


class _Stopwatch:
    def __init__(self, owner: Progress, name: str):
        self.owner, self.name = owner, name

    def __enter__(self):
        self.began = time.monotonic()

    def __exit__(self, *_):
        setattr(self.owner, self.name, getattr(self.owner, self.name) + time.monotonic() - self.began)


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
