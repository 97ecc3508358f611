"""Optimizers and schedules by name, from plain numbers.

- adamw: Adam with bias correction and decoupled decay (Loshchilov & Hutter 2019), as optax and torch have it.
- adamw_bert: the same without bias correction, as google-research/bert trains.
- lamb_v1: LAMB without bias correction (You et al. 2019, arXiv 1904.00962v1; google-research/albert).
- lamb_nvidia: LAMB with bias correction (NVIDIA DeepLearningExamples, apex FusedLAMB; its global pre-clip is `clip_norm`).

Parameters whose path contains a name in `exclude` get neither weight decay nor a trust ratio. Stacked layers have one trust ratio per layer, computed in
one go over the stack.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

OPTIMIZERS = ("adamw", "adamw_bert", "lamb_v1", "lamb_nvidia")
Tree = Any


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warmup from 0 to `peak`, then polynomial decay to `end` at `total_steps`; update t (from 0) uses rate(t), so the first one has rate 0.

    decay_from: "warmup" counts the decay from the end of the warmup (Hugging Face, fairseq); "start" counts it from step 0, so that the rate drops at the end
    of the warmup to what it would have been without one (google-research/bert).
    """

    peak: float
    warmup_steps: int
    total_steps: int
    power: float
    end: float
    decay_from: str

    def __post_init__(self):
        if self.decay_from not in ("warmup", "start"):
            raise ValueError(f"schedule.decay_from is {self.decay_from!r}; known: warmup, start")
        if not (0 <= self.peak < float("inf") and 0 <= self.end < float("inf") and self.power >= 0):
            raise ValueError(f"schedule.peak is {self.peak}, end {self.end}, power {self.power}; none may be negative or infinite")
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(f"schedule.warmup_steps is {self.warmup_steps}; it must be at least 0 and below total_steps {self.total_steps}")

    def __call__(self, step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        first = self.warmup_steps if self.decay_from == "warmup" else 0
        progress = jnp.clip((step - first) / (self.total_steps - first), 0.0, 1.0)
        decayed = (self.peak - self.end) * (1.0 - progress) ** self.power + self.end
        return jnp.where(step < self.warmup_steps, self.peak * step / max(self.warmup_steps, 1), decayed)


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    name: str
    b1: float
    b2: float
    eps: float
    weight_decay: float
    clip_norm: float  # of the global gradient norm; 0 turns clipping off
    exclude: tuple[str, ...]  # parts of parameter paths

    def __post_init__(self):
        if self.name not in OPTIMIZERS:
            raise ValueError(f"optimizer.name is {self.name!r}; known: {', '.join(OPTIMIZERS)}")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1 and self.eps > 0 and self.weight_decay >= 0 and self.clip_norm >= 0):
            raise ValueError(f"optimizer {self}: b1 and b2 lie in [0, 1), eps is above 0, weight_decay and clip_norm are not negative")


def make_optimizer(spec: OptimizerSpec, schedule: Schedule, axes: Tree) -> optax.GradientTransformation:
    """axes: the parameters' tree with a tuple of logical axes at each leaf (`Blueprint.axes`)."""
    adapted = jax.tree.map_with_path(lambda path, _: not _matches(path, spec.exclude), axes, is_leaf=_is_axes)
    steps = [optax.clip_by_global_norm(spec.clip_norm)] if spec.clip_norm else []
    if spec.name in ("adamw", "lamb_nvidia"):
        steps.append(optax.scale_by_adam(spec.b1, spec.b2, spec.eps))
    else:
        steps.append(scale_by_uncorrected_adam(spec.b1, spec.b2, spec.eps))
    steps.append(optax.add_decayed_weights(spec.weight_decay, mask=adapted))
    if spec.name.startswith("lamb"):
        stacked = jax.tree.map(lambda names: names[0] == "layers", axes, is_leaf=_is_axes)
        steps.append(scale_by_layer_trust_ratio(adapted, stacked))
    return optax.chain(*steps, optax.scale_by_learning_rate(schedule))


def _is_axes(node: Any) -> bool:
    return isinstance(node, tuple)


def _matches(path: tuple, names: tuple[str, ...]) -> bool:
    return any(name in str(part.key) for part in path for name in names)


class UncorrectedAdamState(NamedTuple):
    mu: Tree
    nu: Tree


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps) with moments that start at zero and are not corrected for it; optax has no such switch."""

    def init(params):
        return UncorrectedAdamState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(updates, state, params=None):
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), UncorrectedAdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def scale_by_layer_trust_ratio(adapted: Tree, stacked: Tree) -> optax.GradientTransformation:
    """Multiplies each layer's update by |w| / |update|, or by 1 where either is 0 (LAMB, algorithm 2); only where `adapted` is true."""

    def scale(update, param, is_adapted, is_stacked):
        if not is_adapted:
            return update
        inner = tuple(range(1 if is_stacked else 0, param.ndim))
        param_norm = jnp.sqrt(jnp.square(param).sum(inner, keepdims=True))
        update_norm = jnp.sqrt(jnp.square(update).sum(inner, keepdims=True))
        usable = (param_norm > 0) & (update_norm > 0)
        return update * jnp.where(usable, param_norm / jnp.where(usable, update_norm, 1.0), 1.0)

    def update(updates, state, params):
        return jax.tree.map(scale, updates, params, adapted, stacked), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
