"""The programs of a plan, compiled and measured in a process of their own, which has libtpu's environment from its start.

`python -m launch.plan.programs` reads requests from standard input, a line of JSON each, and answers each with one: {"measured": ...}, {"shapes": ...},
{"out_of_memory": ...} or {"error": ...}. `Programs` is the other side.
"""

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bert_jax.plan.compiled import Measured, OutOfMemory, from_json, libtpu_environment, versions
from bert_jax.plan.topology import GpuCluster, Slice, parse_topology

PLACEHOLDER_MASK_ID = 4  # where no data says it; only the metrics compare with it


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What a config comes to on a mesh. weights, opt_state, batch, frozen (a teacher's parameters): bytes of one device. gathered: of the parameters as a step computes with them.
    state: bytes of the whole state, as in a checkpoint. model_flops: of one sequence. saved: bytes that the forward pass of one micro-batch would keep on a device for the backward pass if the compiler
    fused nothing; only for GPUs, whose programs are not compiled."""

    mesh: dict[str, int]
    num_params: int
    weights: int
    gathered: int
    opt_state: int
    batch: int
    state: int
    model_flops: float
    saved: int | None = None
    frozen: int = 0


class Programs:
    """A process that compiles; closed at the end of a `with`. Programs that were compiled before are found in `cache`. keep_text: a directory for the text of
    the compiled programs."""

    def __init__(self, topology: Slice | GpuCluster, cache: Path | None = None, keep_text: Path | None = None):
        if isinstance(topology, Slice):
            versions()  # before a process fails for want of libtpu
            self.environment = libtpu_environment()
        else:  # as many CPU devices stand for the GPUs: shapes are all that is asked of them
            self.environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={topology.devices}"}
        self.topology = topology
        self.cache, self.keep_text = cache, keep_text

    def __enter__(self) -> "Programs":
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch.plan.programs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
            env=os.environ | self.environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def measure(self, config: dict[str, Any], *, layers: int | None = None, mask_id: int | None = None) -> Measured:
        """Of the update that `pretrain` makes with a phase's config on the slice. layers: of a model of that depth instead, without loops over the layers or
        micro-batches. OutOfMemory if it does not fit; ValueError for whatever the config gets wrong."""
        kept = None
        if self.keep_text is not None:
            self.keep_text.mkdir(parents=True, exist_ok=True)
            depth = "whole" if layers is None else f"{layers}_layers"
            kept = self.keep_text / f"{config['batch_size']}x{config['length']}_{depth}_accumulate{config['accumulate']}_{config['compute']['remat']}.hlo.txt"
        answer = self.ask({
            "config": config, "topology": self.topology.name, "layers": layers, "mask_id": mask_id,
            "cache": str(self.cache) if self.cache else None, "keep_text": str(kept) if kept else None,
        })  # fmt: skip
        return from_json(answer["measured"])

    def shapes(self, config: dict[str, Any]) -> Shapes:
        """Without compiling anything."""
        return Shapes(**self.ask({"config": config, "topology": self.topology.name, "shapes": True})["shapes"])

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"the compiler's process ended with status {self.process.wait()}:\n" + "".join(self.errors.readlines()[-8:]))
        answer = json.loads(line)
        if "out_of_memory" in answer:
            raise OutOfMemory(answer["out_of_memory"])
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer


def shallow(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """The config with so many layers (of a generator or a teacher: as many in proportion), unrolled, and one micro-batch as its batch."""
    config = copy.deepcopy(config)
    model = config["model"]
    depth = model["num_layers"]
    model |= {name: -(-model[name] * layers // depth) for name in ("generator_layers",) if name in model}
    if "teacher" in config:
        config["teacher"]["num_layers"] = -(-config["teacher"]["num_layers"] * layers // depth)
    model |= {name: 1 for name in ("layer_groups",) if name in model}  # which change what is stored, not what is computed
    model["num_layers"] = config["compute"]["unroll"] = layers
    config["batch_size"] //= config["accumulate"]
    config["accumulate"] = 1
    return config


def timeless(config: dict[str, Any]) -> dict[str, Any]:
    """The config with one schedule and seed for all, which cost nothing, so that runs and phases which differ in them share their measurements."""
    return config | {"batch_ramp": config["batch_ramp"] | {"start": 0}, "seed": 0, "schedule": {"name": "constant", "peak": 1e-4, "warmup_steps": 0}}


def lower_step(config: dict[str, Any], devices: list, mask_id: int | None):
    """The train step of `pretrain` for a phase's config, lowered for a mesh of these devices."""
    import jax

    from bert_jax.sharding import batch_sharding, replicated
    from bert_jax.training.bad_steps import Limits
    from launch.pretrain import make_dropout_key
    from launch.run import build_run, step_of

    config = timeless(config)
    run = build_run(config, PLACEHOLDER_MASK_ID if mask_id is None else mask_id, devices)
    rows = batch_sharding(run.mesh)
    batch = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for name, (shape, dtype) in batch_shapes(config).items()}
    key = jax.eval_shape(lambda: make_dropout_key(config))
    with jax.set_mesh(run.mesh):
        step = step_of(run, accumulate=config["accumulate"], first_step=0, limits=Limits(**config["bad_steps"]))
        return step.lower(run.abstract, batch, jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(run.mesh)), *run.frozen)


def batch_shapes(config: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Name -> (shape, dtype) of the fields that a batch of this config sends to the devices."""
    from bert_jax.batch import FIELDS
    from launch.data import pair_objective

    sizes = {"B": config["batch_size"], "L": config["length"], "K": config["masking"]["predictions"]}
    pairs, packed = pair_objective(config), config["data"]["sequences"] == "packed_documents"
    wanted = ({f"{pairs}_labels"} if pairs else set()) | ({"position_ids"} if packed else set())
    return {
        name: (tuple(sizes[letter] for letter in field.shape), field.dtype)
        for name, field in FIELDS.items()
        if not field.host_only and (not field.optional or name in wanted)
    }


def shapes_of(config: dict[str, Any], devices: list, *, with_saved: bool = False) -> Shapes:
    import jax

    from bert_jax.sharding import batch_sharding
    from bert_jax.training.state import param_shardings, whole_params
    from launch.run import build_run

    run = build_run(config, PLACEHOLDER_MASK_ID, devices)
    gathered = jax.eval_shape(lambda params: whole_params(run.blueprint, params, run.mesh, run.compute.dtype), run.abstract.params)

    def local(tree) -> int:
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)

    rows = batch_sharding(run.mesh)
    batch = [jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for shape, dtype in batch_shapes(config).values()]
    return Shapes(
        mesh=dict(run.mesh.shape),
        num_params=run.blueprint.num_params,
        weights=local(run.abstract.params),
        gathered=local(jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), gathered, param_shardings(run.blueprint, run.mesh))),
        opt_state=local(run.abstract.opt_state),
        batch=local(batch),
        state=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract)),
        model_flops=run.flops(config),
        saved=saved_bytes(run, config) if with_saved else None,
        frozen=local(run.frozen),
    )


def saved_bytes(run, config: dict[str, Any]) -> int:
    """What the backward pass of one device's micro-batch is given beside the parameters, operation by operation."""
    import jax

    from bert_jax.training.objectives import total_loss
    from launch.pretrain import make_dropout_key

    rows = config["batch_size"] // (config["accumulate"] * run.mesh.shape["data"] * run.mesh.shape["fsdp"])
    shapes = batch_shapes(config | {"batch_size": rows})
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}
    key = jax.eval_shape(lambda: make_dropout_key(config))

    objective = run.minimised

    def backward(params, batch, key, *frozen):
        def loss_of(params):
            losses, _ = objective.sums(run.blueprint.model(params), batch, *frozen, key=key, compute=run.compute)
            return total_loss(losses, objective.weights(batch), objective.scales)

        return jax.vjp(loss_of, params)[1]

    held = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(run.blueprint.params)}
    saved = jax.tree.leaves(jax.eval_shape(backward, run.blueprint.params, batch, key, *run.frozen))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in saved if (leaf.shape, leaf.dtype) not in held) // run.mesh.shape["tensor"]


def answer_to(request: dict[str, Any]) -> dict[str, Any]:
    import jax

    from bert_jax.plan.compiled import measure, slice_devices

    topology = parse_topology(request["topology"])
    if request.get("shapes"):
        real = isinstance(topology, Slice)
        try:
            return {"shapes": dataclasses.asdict(shapes_of(request["config"], slice_devices(topology) if real else jax.devices(), with_saved=not real))}
        except (ValueError, ImportError) as error:
            return {"error": str(error)}
    config = request["config"] if request["layers"] is None else shallow(request["config"], request["layers"])
    place = {name: Path(request[name]) if request[name] else None for name in ("cache", "keep_text")}
    try:
        lowered = lower_step(config, slice_devices(topology), request["mask_id"])
        return {"measured": dataclasses.asdict(measure(lowered, topology, **place))}
    except OutOfMemory as error:
        return {"out_of_memory": str(error)}
    except (ValueError, ImportError) as error:
        if os.environ.get("BERT_JAX_TRACEBACK"):
            raise
        return {"error": str(error)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print do not disturb the answers
    for line in sys.stdin:
        answers.write(json.dumps(answer_to(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
