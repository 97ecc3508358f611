"""Metrics: exact ratios over a window of steps, model FLOPs, and the peaks that make MFU of them."""

from collections.abc import Iterable

import jax
import numpy as np

from bert_jax.model.spec import AnySpec, EncoderSpec

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


def model_flops(spec: AnySpec, length: int, predictions: int) -> float:
    """FLOPs of one sequence's forward and backward pass: 6 per weight and token, 12 d per layer, token and token seen by attention, the MLM head on
    `predictions` positions."""
    heads = 6 * (predictions * spec.prediction_weights + length * spec.token_weights)
    return heads + sum(encoder_flops(encoder, length) for encoder in spec.encoders)


def encoder_flops(encoder: EncoderSpec, length: int) -> float:
    return 6 * encoder.token_weights * length + 12 * encoder.attention.num_heads * encoder.attention.head_dim * length * encoder.attended(length)


def divide(metrics: Iterable[dict[str, tuple]]) -> dict[str, float]:
    """Adds up (numerator, denominator) pairs over batches in float64 and divides once."""
    totals: dict[str, np.ndarray] = {}
    for pairs in jax.device_get(list(metrics)):
        for name, pair in pairs.items():
            totals[name] = totals.get(name, 0.0) + np.asarray(pair, np.float64)
    return {name: float(top / bottom) if bottom else 0.0 for name, (top, bottom) in totals.items()}
