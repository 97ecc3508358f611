"""Optimizers by name, from plain numbers.

- adamw: Adam with bias correction and decoupled decay (Loshchilov & Hutter 2019), as optax and torch have it.
- adamw_bert: the same without bias correction, as google-research/bert trains.
- lamb_v1: LAMB without bias correction (You et al. 2019, arXiv 1904.00962v1; google-research/albert).
- lamb_nvidia: LAMB with bias correction (NVIDIA DeepLearningExamples, apex FusedLAMB; its global pre-clip is `clip_norm`).
- stable_adamw: AdamW with its updates clipped by their RMS (Wortsman et al. 2023), as ModernBERT trains; it needs no `clip_norm`.
- adafactor: optax's factored second moments (Shazeer & Stern 2018), of whole matrices, without momentum; updates clipped at RMS 1 and the
  rate relative to the weights' RMS, at least 1e-3 (sections 6 and 8). decay_exponent: the second moment decays with 1 - t^-decay_exponent
  (the paper: 0.8).
- muon: Muon (Jordan 2024) for the matrices inside layers, adamw for all else.

Parameters whose path contains a name in `exclude` get neither weight decay nor a trust ratio. Whatever is computed per tensor (trust ratio,
RMS, orthogonalisation) is computed per layer of a stack, in one go over the stack.
"""

import dataclasses

import jax
import optax

from bert_jax.training.named_fields import OPTIMIZERS, check_given
from bert_jax.training.transformations import (
    Tree,
    clip_by_layer_rms,
    is_axes,
    muon_matrices,
    on_matrices,
    path_names,
    scale_by_depth,
    scale_by_layer_rms,
    scale_by_layer_trust_ratio,
    scale_by_muon,
    scale_by_stable_adamw,
    scale_by_uncorrected_adam,
)


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """What `OPTIMIZERS` lists for the name is given; the rest is None."""

    name: str
    b1: float | None = None
    b2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None  # times the learning rate
    clip_norm: float | None = None  # of the global gradient norm; 0 turns clipping off
    exclude: tuple[str, ...] | None = None  # parts of parameter paths
    layer_decay: float = 1.0  # of the learning rate, per layer away from the heads
    momentum: float | None = None
    decay_exponent: float | None = None

    def __post_init__(self):
        check_given("optimizer", self, OPTIMIZERS)
        for field, usable, range_ in (
            ("b1", lambda value: 0 <= value < 1, "in [0, 1)"),
            ("b2", lambda value: 0 <= value < 1, "in [0, 1)"),
            ("momentum", lambda value: 0 <= value < 1, "in [0, 1)"),
            ("eps", lambda value: value > 0, "above 0"),
            ("weight_decay", lambda value: value >= 0, "not negative"),
            ("clip_norm", lambda value: value >= 0, "not negative"),
            ("layer_decay", lambda value: 0 < value <= 1, "above 0 and at most 1"),
            ("decay_exponent", lambda value: 0 < value <= 1, "above 0 and at most 1"),
        ):
            value = getattr(self, field)
            if value is not None and not usable(value):
                raise ValueError(f"optimizer.{field} is {value}; it must be {range_}")


def make_optimizer(spec: OptimizerSpec, axes: Tree, heights: Tree | None = None) -> optax.GradientTransformation:
    """From gradients to updates that are still to be multiplied by minus the learning rate (the train step does, so that no state holds a count of
    the schedule's). axes: the parameters' tree with a tuple of logical axes at each leaf (`Blueprint.axes`). heights: where each parameter stands (`bert_jax.model.depth.heights`); ValueError
    if layer_decay needs them and they are not given."""
    if spec.layer_decay != 1.0 and heights is None:
        raise ValueError(f"optimizer.layer_decay is {spec.layer_decay}, but which layers the parameters are of was not given; give heights, or set it to 1.0")
    adapted = jax.tree.map_with_path(lambda path, _: not _matches(path, spec.exclude), axes, is_leaf=is_axes)
    stacked = jax.tree.map(lambda names: names[0] == "layers", axes, is_leaf=is_axes)
    steps = [optax.clip_by_global_norm(spec.clip_norm)] if spec.clip_norm else []
    if spec.name == "stable_adamw":
        steps.append(scale_by_stable_adamw(spec.b1, spec.b2, spec.eps, spec.weight_decay, adapted, stacked))
    else:
        steps += [*_scaling(spec, axes, stacked), optax.add_decayed_weights(spec.weight_decay, mask=adapted)]
    if spec.name.startswith("lamb"):
        steps.append(scale_by_layer_trust_ratio(adapted, stacked))
    if spec.layer_decay != 1.0:
        steps.append(scale_by_depth(spec.layer_decay, heights))
    return optax.chain(*steps)


def _scaling(spec: OptimizerSpec, axes: Tree, stacked: Tree) -> list[optax.GradientTransformation]:
    """From gradients to updates without decay and rate."""
    if spec.name in ("adamw_bert", "lamb_v1"):
        return [scale_by_uncorrected_adam(spec.b1, spec.b2, spec.eps)]
    if spec.name == "adafactor":
        factored = optax.scale_by_factored_rms(decay_rate=spec.decay_exponent)
        return [on_matrices(factored, axes), clip_by_layer_rms(1.0, stacked), scale_by_layer_rms(1e-3, stacked)]
    adam = optax.scale_by_adam(spec.b1, spec.b2, spec.eps)
    if spec.name == "muon":
        matrices = muon_matrices(axes)
        kinds = jax.tree.map(lambda names: "muon" if type(names) is tuple else "adam", matrices, is_leaf=is_axes)
        return [optax.partition({"muon": scale_by_muon(spec.momentum, matrices), "adam": adam}, kinds)]
    return [adam]


def _matches(path: tuple, names: tuple[str, ...]) -> bool:
    return any(name in part for part in path_names(path) for name in names)
