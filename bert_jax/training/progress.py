"""Speed, and what a person sees of a run: batches are counted, rates and lines leave."""

import dataclasses
import sys
import time

import jax
import numpy as np
from tqdm import tqdm

from bert_jax.processes import gather, is_first
from bert_jax.training.metrics import PEAK_FLOPS

ACCURACIES = {"mlm": "mlm acc", "nsp": "nsp acc", "sop": "sop acc", "task": "acc"}


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What turns seconds into MFU. peak_flops: of all devices together, None where unknown."""

    flops_per_sequence: float
    peak_flops: float | None

    @classmethod
    def here(cls, flops_per_sequence: float) -> "Hardware":
        """That of this run's devices."""
        peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
        return cls(flops_per_sequence, peak * jax.device_count() if peak else None)


class Progress:
    """Speed, and what a person sees: a bar on a terminal, plain lines elsewhere. Evaluations and saves are left out of the rates."""

    def __init__(self, start: int, steps: int, hardware: Hardware | None, source_names: tuple[str, ...]):
        self.hardware = hardware
        self.source_names = source_names
        layout = "{percentage:3.0f}%|{bar:14}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        self.bar = tqdm(total=steps, initial=start, dynamic_ncols=True, smoothing=0.1, disable=None if is_first() else True, bar_format=layout)
        self.steps = steps
        self.by_source = np.zeros(len(self.source_names), np.int64)
        self.rows = np.zeros(2, np.int64)  # from the start on: of the batches, and of this process's shares of them
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

    def resized(self, metrics: dict, step: int, shape: tuple[int, int]) -> None:
        """The same for the first step with batches of another shape [sequences, length]."""
        jax.block_until_ready(metrics)
        self.say(f"step {step:>7,}  the first batch of {shape[0]:,} sequences x {shape[1]:,}")
        self._reset()

    def waiting_for_input(self):
        return _Stopwatch(self, "waited")

    def paused(self):
        return _Stopwatch(self, "idle")

    def count(self, batch: dict[str, np.ndarray], sequences: int) -> None:
        """This process's rows of a batch, and how many sequences the whole batch has."""
        self.sequences += sequences
        self.rows += (sequences, len(batch["input_ids"]))
        self.tokens += int(np.count_nonzero(batch["segment_ids"]))
        if self.source_names:
            self.by_source += np.bincount(batch["source_ids"], minlength=len(self.source_names))
        self.bar.update()

    def rates(self) -> dict[str, float]:
        """Rates since the last call (none if there was but the first step), and the sequences of each source. Over all processes, which call it together."""
        everywhere = gather(np.array([round(1e6 * self.waited), self.rows[1], self.tokens, *self.by_source]))
        held, tokens, *by_source = everywhere[:, 1:].sum(0).tolist()
        copies = max(held // max(int(self.rows[0]), 1), 1)  # a row may be held by several processes, every one by as many
        counts = {f"sequences/{name}": count // copies for name, count in zip(self.source_names, by_source)}
        self.by_source[:] = 0
        if not self.sequences:
            return counts
        seconds = max(time.monotonic() - self.began - self.idle, 1e-9)
        values = {
            "sequences_per_second": self.sequences / seconds,
            "tokens_per_second": tokens / copies / seconds,
            "input_wait": everywhere[:, 0].max() / 1e6 / seconds,  # of the slowest process, for which all wait
        }
        if self.hardware is not None and self.hardware.peak_flops:
            values["mfu"] = values["sequences_per_second"] * self.hardware.flops_per_sequence / self.hardware.peak_flops
        self._reset()
        return values | counts

    def show(self, step: int, values: dict[str, float]) -> None:
        parts = [f"loss {values['loss']:.3f}"]
        parts += [f"{shown} {values[f'{name}_accuracy']:.1%}" for name, shown in ACCURACIES.items() if f"{name}_accuracy" in values]
        if "sequences_per_second" in values:
            parts += [f"{values['sequences_per_second']:,.0f} seq/s", f"{values['tokens_per_second']:,.0f} tok/s"]
            parts += [f"MFU {values['mfu']:.1%}"] if "mfu" in values else []
            parts.append(f"wait {values['input_wait']:.0%}")
        if self.bar.disable:
            self.say(f"step {step:>7,}/{self.steps:,}  " + "  ".join(parts))
        else:
            self.bar.set_postfix_str(", ".join(parts))

    def say(self, line: str) -> None:
        if is_first():
            tqdm.write(line, file=sys.stderr)


class _Stopwatch:
    def __init__(self, owner: Progress, name: str):
        self.owner, self.name = owner, name

    def __enter__(self):
        self.began = time.monotonic()

    def __exit__(self, *_):
        setattr(self.owner, self.name, getattr(self.owner, self.name) + time.monotonic() - self.began)
