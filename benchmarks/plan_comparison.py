"""A step of BERT-large as the TPU compiler sees it, beside transformers' Flax BERT under the step of its own example run_mlm_flax, on one v4 chip that is not here.

    pip install 'bert-jax[plan]'
    pip install --target=PEER --no-deps 'transformers==4.53.3' 'huggingface-hub<1' 'tokenizers<0.22'      # the last with Flax models
    python benchmarks/plan_comparison.py --peer=PEER                                                      # some ten minutes of two cores

Both have bfloat16 activations, float32 parameters, dropout 0.1 in the same places and AdamW, and the batch of one chip. Models of one and of two layers without loops are compiled by the same libtpu and
extrapolated to 24. What differs is the program: the peer computes logits at every position and its dropout by JAX's generator, ours those of the masked positions (20 of 128, 76 of 512).
"""

import argparse
import dataclasses
import functools
import os
import sys

from bert_jax.plan.compiled import Measured, libtpu_environment, measure, slice_devices
from bert_jax.plan.estimate import kernel_seconds
from bert_jax.plan.topology import parse_topology
from launch.config import load
from launch.phases import phases_of
from launch.plan.plan import default_cache
from launch.plan.programs import lower_step, shallow

LAYERS = 24
SHAPES = {"128x64": (0, 64), "512x16": (1, 16)}  # length x sequences of a chip -> phase of configs/bert_large.py, sequences
TOPOLOGY = parse_topology("v4-8")
ROWS = {
    "TFLOPs": lambda m: m.flops / 1e12,
    "bytes moved, GB": lambda m: m.bytes / 1e9,
    "bytes moved, the compiler's count, GB": lambda m: m.compiler_bytes / 1e9,
    "temporaries, GB": lambda m: m.temporaries / 1e9,
    "the compiler's cost model, ms": lambda m: m.optimal_seconds * 1e3,
    "the compiler's schedule and stated kernels, ms": lambda m: m.seconds * 1e3,
}


@dataclasses.dataclass(frozen=True)
class Whole:
    """Of all layers, by extrapolation."""

    flops: float
    bytes: float
    compiler_bytes: float
    temporaries: float
    optimal_seconds: float
    seconds: float


def extrapolated(one: Measured, two: Measured) -> Whole:
    def whole(value) -> float:
        return value(one) + (LAYERS - 1) * (value(two) - value(one))

    names = [field.name for field in dataclasses.fields(Whole)][:-1]
    return Whole(*(whole(lambda measured, name=name: getattr(measured, name)) for name in names), whole(scheduled_seconds))


def scheduled_seconds(measured: Measured) -> float:
    return measured.cycles / TOPOLOGY.chip.clock + kernel_seconds(measured, TOPOLOGY)


def our_step(phase: int, rows: int, layers: int, device):
    config = phases_of(load("bert_large", []))[phase].config
    config |= {"batch_size": rows, "accumulate": 1, "mesh": config["mesh"] | {"data": 1}}
    return lower_step(shallow(config, layers), [device], None)


def peer_step(phase: int, rows: int, layers: int, device):
    import jax
    import jax.numpy as jnp
    import optax
    import transformers
    from flax.training.train_state import TrainState

    config = phases_of(load("bert_large", []))[phase].config
    length, section = config["length"], config["model"]
    model = transformers.FlaxBertForMaskedLM(
        transformers.BertConfig(
            vocab_size=section["vocab_size"], hidden_size=section["hidden_size"], num_hidden_layers=layers, num_attention_heads=section["num_heads"],
            intermediate_size=section["intermediate_size"], max_position_embeddings=section["max_positions"],
        ),
        input_shape=(1, length), dtype=jnp.bfloat16, _do_init=False,
    )  # fmt: skip

    def step(state, batch, key):
        key, own = jax.random.split(key)
        labels = batch["labels"]

        def loss_of(params):
            logits = state.apply_fn(**{name: batch[name] for name in batch if name != "labels"}, params=params, dropout_rng=own, train=True)[0]
            counted = (labels > 0).astype(jnp.float32)
            losses = optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])) * counted
            return losses.sum(), counted.sum()

        (loss, count), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return state.apply_gradients(grads=jax.tree.map(lambda one: one / count, gradients)), loss / count, key

    def decays(params):
        return jax.tree.map_with_path(lambda path, _: not any(part.key in ("bias", "LayerNorm") for part in path), params)

    tx = optax.adamw(1e-4, b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, mask=decays)
    here = jax.sharding.SingleDeviceSharding(device)
    place = functools.partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here))
    state = jax.eval_shape(lambda params: TrainState.create(apply_fn=model.__call__, params=params, tx=tx), dict(model.params_shape_tree))
    fields = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "labels")
    batch = {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name in fields}
    return jax.jit(step, donate_argnums=0).lower(place(state), place(batch), place(jax.eval_shape(lambda: jax.random.PRNGKey(0))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, metavar="DIR", help="where transformers 4.53.3 is installed")
    parser.add_argument("--shape", action="append", choices=SHAPES, help=f"length x sequences of a chip (default: {', '.join(SHAPES)})")
    arguments = parser.parse_args()
    if not os.environ.items() >= libtpu_environment().items():  # which JAX reads when it is imported: once more, with it
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | libtpu_environment())
    sys.path.insert(0, arguments.peer)
    device = slice_devices(TOPOLOGY)[0]
    for shape in arguments.shape or SHAPES:
        found = {}
        for name, lower in (("bert_jax", our_step), ("transformers 4.53.3", peer_step)):
            print(f"{shape}: compiling {name}", file=sys.stderr)
            one, two = (measure(lower(*SHAPES[shape], layers, device), TOPOLOGY, cache=default_cache()) for layers in (1, 2))
            found[name] = extrapolated(one, two)
        ours, theirs = found.values()
        print(f"\n| {shape} | {' | '.join(found)} | ratio |\n|---|---|---|---|")
        for row, value in ROWS.items():
            print(f"| {row} | {value(ours):.2f} | {value(theirs):.2f} | {value(ours) / value(theirs):.2f} |", flush=True)


if __name__ == "__main__":
    main()
