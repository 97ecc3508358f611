"""Bad numbers: updates that are skipped, in the compiled step, and what is made of several in a row.

A step whose loss or gradients are not finite, or are above the run's limits, leaves parameters and optimizer state as they are and counts as done: its batch is passed
over. After `Limits.in_a_row` of them the run goes back to its last checkpoint and goes on behind them (as PaLM's authors did by hand: Chowdhery et al. 2022, arXiv
2204.02311, section 5.1). The limits are absolute, so that a step still depends on state, batch and key alone, and no running average is to be saved.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.processes import gather

Metrics = dict[str, tuple]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Above which an update is skipped: loss, and norm of the gradient before clipping; 0: only where they are not finite. in_a_row: see above; 0: never."""

    loss: float = 0.0
    grad_norm: float = 0.0
    in_a_row: int = 0

    def __post_init__(self):
        for name, value in (("loss", self.loss), ("grad_norm", self.grad_norm), ("in_a_row", self.in_a_row)):
            if value < 0:
                raise ValueError(f"bad_steps.{name} is {value}; it must be 0 (no limit) or more")

    def good(self, loss: jax.Array, grad_norm: jax.Array) -> jax.Array:
        """bool scalar, of two float32 scalars."""
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        for value, limit in ((loss, self.loss), (grad_norm, self.grad_norm)):
            good &= (value <= limit) if limit else True
        return good


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
