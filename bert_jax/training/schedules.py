"""Learning rates by name: the number of updates done goes in (int32 scalar or Python int), a float32 scalar comes out."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from bert_jax.training.named_fields import SCHEDULES, check_given


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warmup from 0 to `peak` in `warmup_steps`, then by `name`; update t (from 0) uses rate(t), so the first one has rate 0.

    After the warmup, with `remaining` falling from 1 to 0 at `total_steps` and the rate staying there afterwards:

    - constant: peak.
    - linear, polynomial: (peak - end) remaining^power + end; linear has power 1. decay_from: "warmup" counts from the end of the warmup
      (Hugging Face, fairseq); "start" counts from step 0, so that the rate drops at the end of the warmup to what it would have been
      without one (google-research/bert; NVIDIA's PolyWarmUpScheduler with power 0.5).
    - cosine: half a cosine from peak to end (Loshchilov & Hutter 2017, without restarts).
    - inverse_sqrt: peak sqrt(warmup_steps / step), never below end (Vaswani et al. 2017; fairseq).
    - wsd: peak until the last decay_steps, then end + (peak - end)(1 - sqrt(1 - remaining)) (Hägele et al. 2024, arXiv 2405.18392,
      "1-sqrt"; ModernBERT calls it trapezoidal).
    - triangle: no warmup from 0, but a line from `start` to peak in `warmup_steps` and a line from there to end (Cramming: start 0.25 or
      0.5 of the peak, which lies at 75% of the steps).

    All rates are absolute. Differences of steps are taken in integers and nothing is subtracted from a rounded 1, so a rate is as exact as
    float32 holds it (relative error about 1e-6) at any int32 step.
    """

    peak: float | None = None
    warmup_steps: int | None = None
    total_steps: int | None = None
    power: float | None = None
    end: float | None = None
    decay_from: str | None = None
    decay_steps: int | None = None
    start: float | None = None
    name: str = "polynomial"

    def __post_init__(self):
        check_given("schedule", self, SCHEDULES)
        for field in ("peak", "end", "start", "power"):
            value = getattr(self, field)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"schedule.{field} is {value}; it may be neither negative nor infinite")
        for field in ("end", "start"):
            value = getattr(self, field)
            if value is not None and value > self.peak:
                raise ValueError(f"schedule.{field} is {value}, above schedule.peak {self.peak}; both are learning rates, not shares")
        if self.decay_from not in (None, "warmup", "start"):
            raise ValueError(f"schedule.decay_from is {self.decay_from!r}; known: warmup, start")
        least = 1 if self.name == "inverse_sqrt" else 0  # its decay is measured in warmups
        if not least <= self.warmup_steps < 2**31:
            raise ValueError(f"schedule.warmup_steps is {self.warmup_steps}; it must be at least {least} and below 2^31")
        if self.total_steps is not None and not self.warmup_steps < self.total_steps < 2**31:
            raise ValueError(
                f"schedule.warmup_steps is {self.warmup_steps}; it must be below total_steps {self.total_steps}, which must be below 2^31"
            )
        if self.decay_steps is not None and not 0 < self.decay_steps <= self.total_steps - self.warmup_steps:
            raise ValueError(
                f"schedule.decay_steps is {self.decay_steps}; between warmup_steps {self.warmup_steps} and total_steps {self.total_steps} "
                f"there is room for 1 to {self.total_steps - self.warmup_steps}"
            )

    def __call__(self, step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.int32)
        start = self.start or 0.0
        warming = start + (self.peak - start) * (step.astype(jnp.float32) / max(self.warmup_steps, 1))
        return jnp.where(step < self.warmup_steps, warming, self._after_warmup(step))

    def _after_warmup(self, step: jax.Array) -> jax.Array:
        if self.name == "constant":
            return jnp.float32(self.peak)
        if self.name == "inverse_sqrt":
            elapsed = jnp.maximum(step, self.warmup_steps).astype(jnp.float32)
            return jnp.maximum(self.peak * jnp.sqrt(self.warmup_steps / elapsed), self.end)
        span = self.total_steps - self.warmup_steps
        if self.name == "wsd":
            span = self.decay_steps
        elif self.decay_from == "start":
            span = self.total_steps
        left = jnp.clip(self.total_steps - step, 0, span)
        remaining = left.astype(jnp.float32) / span
        if self.name == "cosine":
            shape = jnp.square(jnp.sin(0.5 * math.pi * remaining))  # (1 + cos(pi (1 - remaining))) / 2, without cancellation near the end
        elif self.name == "wsd":
            shape = remaining / (1.0 + jnp.sqrt((span - left).astype(jnp.float32) / span))  # 1 - sqrt(1 - remaining), likewise
        else:
            shape = remaining ** (self.power if self.name == "polynomial" else 1.0)
        return (self.peak - self.end) * shape + self.end
