"""Small trees of parameters and one way to run an optimizer on them, shared by the optimizers' tests."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.training.named_fields import OPTIMIZERS
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.transformations import is_axes

B1, B2, EPS, DECAY = 0.9, 0.98, 1e-6, 0.1
RATE = 0.01
CONSTANT = Schedule(peak=RATE, warmup_steps=0, name="constant")
# As an encoder names its parameters, with heads split.
ENCODER_AXES = {
    "embed": {"tokens": {"embedding": ("vocab", "embed")}},
    "layers": {
        "query": {"kernel": ("layers", "embed", "heads", "head_dim"), "bias": ("layers", "heads", "head_dim")},
        "output": {"kernel": ("layers", "heads", "head_dim", "embed")},
        "up": {"kernel": ("layers", "embed", "mlp")},
    },
    "head": {"kernel": ("embed", "hidden"), "bias": ("hidden",)},
}


def spec_of(name, **changes):
    values = dict(
        b1=B1, b2=B2, eps=EPS, weight_decay=DECAY, clip_norm=0.0, exclude=("bias", "norm"), layer_decay=1.0, momentum=0.95,
        decay_exponent=0.8,
    )
    return OptimizerSpec(name, **{field: values[field] for field in OPTIMIZERS[name]} | changes)


def make_encoder(layers=2, embed=8, heads=2, head_dim=3, mlp=12, vocab=10, std=0.5, key=0):
    sizes = {"layers": layers, "embed": embed, "heads": heads, "head_dim": head_dim, "mlp": mlp, "vocab": vocab, "hidden": embed}
    draw = np.random.default_rng(key)
    make = lambda axes: (std * draw.normal(size=[sizes[axis] for axis in axes])).astype(np.float32)  # noqa: E731
    return jax.tree.map(make, ENCODER_AXES, is_leaf=is_axes)


def encoder_heights(layers):
    """As `depth.heights` of a model's own tree."""
    places = {"embed": np.asarray(layers + 1.0), "layers": np.arange(layers, 0.0, -1), "head": np.zeros(())}
    return {part: jax.tree.map(lambda _: places[part], axes, is_leaf=is_axes) for part, axes in ENCODER_AXES.items()}


def with_rate(spec, axes, schedule=CONSTANT, heights=None):
    """The optimizer with its learning rate, which the train step applies otherwise."""
    return optax.chain(make_optimizer(spec, axes, heights), optax.scale_by_learning_rate(schedule))


def run(spec, gradients, params, axes, *, schedule=CONSTANT, heights=None):
    tx = with_rate(spec, axes, schedule, heights)
    params = jax.tree.map(jnp.asarray, params)
    state, update = tx.init(params), jax.jit(tx.update, compiler_options={"xla_backend_optimization_level": 0})  # quick to compile
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, params)


def matrices(tree):
    """The encoder's weight matrices one by one, heads merged: name -> (in, out)."""
    layers = tree["layers"]
    return {"embedding": tree["embed"]["tokens"]["embedding"], "head": tree["head"]["kernel"]} | {
        f"{name}{layer}": kernel.reshape((-1, kernel.shape[-1]) if name == "output" else (kernel.shape[0], -1))
        for name in ("query", "output", "up")
        for layer, kernel in enumerate(layers[name]["kernel"])
    }
