"""Metrics: exact ratios over a window of steps, model FLOPs and MFU, and where they are written (metrics.jsonl, TensorBoard)."""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter

from bert_jax.model.spec import ModelSpec

# Dense bfloat16 peak of one chip in FLOP/s, by jax.Device.device_kind.
PEAK_FLOPS = {
    "TPU v2": 45e12 / 2,
    "TPU v3": 123e12 / 2,  # a JAX device is one of the chip's two cores
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def model_flops(spec: ModelSpec, length: int, predictions: int) -> float:
    """FLOPs of one sequence's forward and backward pass: 6 per weight and token, 12 l^2 d per layer for attention, the head on `predictions` positions."""
    encoder = spec.encoder
    hidden, inner = encoder.hidden_size, encoder.attention.num_heads * encoder.attention.head_dim
    weights = encoder.num_layers * (4 * hidden * inner + 2 * hidden * encoder.mlp.intermediate_size)
    attention = 12 * encoder.num_layers * inner * length**2
    head = 6 * predictions * hidden * (hidden + encoder.embedding.vocab_size)
    return 6 * weights * length + attention + head


def divide(metrics: Iterable[dict[str, tuple]]) -> dict[str, float]:
    """Adds up (numerator, denominator) pairs over batches in float64 and divides once."""
    totals: dict[str, np.ndarray] = {}
    for pairs in jax.device_get(list(metrics)):
        for name, pair in pairs.items():
            totals[name] = totals.get(name, 0.0) + np.asarray(pair, np.float64)
    return {name: float(top / bottom) if bottom else 0.0 for name, (top, bottom) in totals.items()}


class RunLog:
    """Appends to WORKDIR/metrics.jsonl and WORKDIR/tensorboard. On resume, lines past the resumed step are dropped: they will be written again."""

    def __init__(self, workdir: Path, start_step: int):
        self.path = workdir / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= start_step]
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in kept))
            os.replace(temporary, self.path)
        self.file = open(self.path, "a", buffering=1)
        self.tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1 if start_step else None)

    def write(self, split: str, step: int, metrics: dict[str, float]) -> None:
        self.file.write(json.dumps({"split": split, "step": step, "time": round(time.time(), 3), **metrics}) + "\n")
        for name, value in metrics.items():
            self.tensorboard.add_scalar(f"{split}/{name}", value, step)

    def event(self, step: int, event: str, detail: str = "") -> None:
        line = {"split": "event", "step": step, "time": round(time.time(), 3), "event": event, "detail": detail}
        self.file.write(json.dumps(line) + "\n")

    def has_event(self, event: str, step: int) -> bool:
        """Whether this event was logged at this step, in this or an earlier session of the run."""
        records = map(json.loads, self.path.read_text().splitlines())
        return any(record.get("event") == event and record["step"] == step for record in records)

    def close(self) -> None:
        self.file.close()
        self.tensorboard.close()


def _step_of(line: str) -> float:
    try:
        record = json.loads(line)
    except ValueError:  # cut short by a kill
        return float("inf")
    return record["step"]
