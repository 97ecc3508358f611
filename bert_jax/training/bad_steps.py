"""Bad numbers: updates that are skipped, in the compiled step, and what is made of several in a row.

A step whose loss or gradients are not finite, or are above the run's limits, leaves parameters and optimizer state as they are and counts as done: its batch is passed
over. After `Limits.in_a_row` of them the run goes back to its last checkpoint and goes on behind them (as PaLM's authors did by hand: Chowdhery et al. 2022, arXiv
2204.02311, section 5.1).

Limits are absolute, or relative to a running average over the good steps. The average is part of the optimizer's state, so a step still depends on state, batch and key
alone: it is saved and restored with the moments, bit for bit, and goes back with them.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.processes import gather

Metrics = dict[str, tuple]
MEMORY = 100  # good steps over which the usual loss and gradient norm are averaged
SETTLING = 20  # good steps before relative limits hold


@dataclasses.dataclass(frozen=True)
class Limits:
    """Above which an update is skipped: loss, and norm of the gradient before clipping, and how many times the usual ones; 0: only where they are not finite.

    in_a_row: see above; 0: never."""

    loss: float = 0.0
    grad_norm: float = 0.0
    loss_times: float = 0.0
    grad_norm_times: float = 0.0
    in_a_row: int = 0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 0:
                raise ValueError(f"bad_steps.{name} is {value}; it must be 0 (no limit) or more")
        for name in ("loss_times", "grad_norm_times"):
            value = getattr(self, name)
            if 0 < value <= 1:
                raise ValueError(f"bad_steps.{name} is {value}; it must be above 1, or usual steps are skipped, or 0 (no limit)")
            if value and not self.in_a_row:
                raise ValueError(f"bad_steps.{name} is {value} and bad_steps.in_a_row 0: a level that rises and stays would be skipped for ever; set bad_steps.in_a_row too")

    @property
    def relative(self) -> bool:
        return bool(self.loss_times or self.grad_norm_times)

    def good(self, loss: jax.Array, grad_norm: jax.Array, usual: "Usual | None" = None) -> jax.Array:
        """bool scalar, of two float32 scalars. usual: of the steps before, for relative limits."""
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        for value, limit in ((loss, self.loss), (grad_norm, self.grad_norm)):
            good &= (value <= limit) if limit else True
        if self.relative:
            for value, times, average in ((loss, self.loss_times, usual.loss), (grad_norm, self.grad_norm_times, usual.grad_norm)):
                good &= (value <= times * average) | (usual.steps < SETTLING) if times else True
        return good


class Usual(NamedTuple):
    """Averages over the good steps so far, the later ones of about MEMORY steps; scalars."""

    steps: jax.Array  # int32
    loss: jax.Array  # float32
    grad_norm: jax.Array  # float32

    def after(self, loss: jax.Array, grad_norm: jax.Array) -> "Usual":
        share = 1 / jnp.minimum(self.steps + 1, MEMORY).astype(jnp.float32)
        return Usual(self.steps + 1, self.loss + share * (loss - self.loss), self.grad_norm + share * (grad_norm - self.grad_norm))


class Remembering(NamedTuple):
    """The state of an optimizer that remembers what is usual."""

    optimizer: Any
    usual: Usual


def remembering(tx: optax.GradientTransformation, limits: Limits) -> optax.GradientTransformation:
    """`tx` with `Usual` beside its state, if the limits are relative. Its update is given the loss, and leaves in `report` what was usual before it."""
    if not limits.relative:
        return tx
    tx = optax.with_extra_args_support(tx)

    def update(gradients, state, params, *, loss, report, **more):
        report["usual"] = state.usual
        updates, optimizer = tx.update(gradients, state.optimizer, params, report=report, **more)
        return updates, Remembering(optimizer, state.usual.after(loss, optax.tree.norm(gradients)))

    return optax.GradientTransformationExtraArgs(lambda params: Remembering(tx.init(params), nothing_usual()), update)


def nothing_usual() -> Usual:
    return Usual(np.int32(0), np.float32(0), np.float32(0))


def without_bad(metrics: Metrics, good: jax.Array, loss: jax.Array, grad_norm: jax.Array) -> Metrics:
    """The metrics of a step, with no weight if it is bad, and `skipped`: (1 or 0, 1). skipped_loss and skipped_grad_norm: what was bad, for `BadSteps`."""
    metrics = {name: tuple(jnp.where(good, part, 0) for part in pair) for name, pair in metrics.items()}
    one = jnp.float32(1)
    return metrics | {"skipped": (jnp.where(good, 0, one), one), "skipped_loss": (loss, one), "skipped_grad_norm": (grad_norm, one)}


def averaged(metrics: Metrics) -> Metrics:
    """Those that mean something as averages over steps."""
    return {name: pair for name, pair in metrics.items() if not name.startswith("skipped_")}


@dataclasses.dataclass(frozen=True)
class BadStep:
    """step: from 1; its batch is batch `step` - 1 of the run. example_ids: of this process's rows, or empty."""

    step: int
    loss: float
    grad_norm: float
    example_ids: np.ndarray

    def all_example_ids(self) -> list[int]:
        """Of all processes' rows. Collective."""
        return np.unique(gather(self.example_ids)).tolist()

    def __str__(self) -> str:
        return f"loss {self.loss:.6g}, gradient norm {self.grad_norm:.6g}: update skipped"


class BadSteps:
    """Keeps count of skipped steps. Of a state that is saved the count is 0, so a continued run counts the same."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.first: int | None = None  # of those in a row that last came
        self.count = 0
        self._waiting: deque[tuple[int, Metrics, np.ndarray]] = deque()

    def sent(self, step: int, metrics: Metrics, batch: dict[str, np.ndarray]) -> None:
        """A step that is being computed."""
        if "skipped" in metrics:
            ids = np.asarray(batch.get("example_ids", ()), np.int64)
            self._waiting.append((step, {name: metrics[name] for name in ("skipped", "skipped_loss", "skipped_grad_norm")}, ids))

    def seen(self, last: int) -> Iterable[BadStep]:
        """The bad ones of the steps up to `last`, which should be computed by now. Ends where there are too many in a row."""
        while self._waiting and self._waiting[0][0] <= last and not self.too_many:
            step, metrics, ids = self._waiting.popleft()
            if not float(metrics["skipped"][0]):
                self.first, self.count = None, 0
                continue
            self.first, self.count = self.first or step, self.count + 1
            yield BadStep(step, float(metrics["skipped_loss"][0]), float(metrics["skipped_grad_norm"][0]), ids)

    @property
    def too_many(self) -> bool:
        return 0 < self.limits.in_a_row <= self.count

    @property
    def may_save(self) -> bool:
        """Not between bad steps: the count would be lost, and going back would lead there."""
        return self.count == 0 or self.limits.in_a_row == 0

    def passed(self) -> None:
        """The run has gone back and goes on behind them."""
        self.first, self.count = None, 0
        self._waiting.clear()
