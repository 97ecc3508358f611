"""From a resolved config to the objects of a run: blueprint, objective, optimizer, mesh. Used by every command that runs a model."""

import dataclasses
import platform
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.model import kernels
from bert_jax.model.depth import heights
from bert_jax.model.families import build_spec
from bert_jax.model.spec import AttentionSpec, Compute
from bert_jax.sharding import MESH_AXES, RULES, make_mesh
from bert_jax.training.bad_steps import Limits, remembering
from bert_jax.training.distillation import Distillation, student_params
from bert_jax.training.metrics import model_flops
from bert_jax.training.objectives import Objective, objective_of
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import (
    Blueprint,
    TrainState,
    Tree,
    abstract_params,
    abstract_state,
    init_state,
    make_blueprint,
    shardings_of,
    state_from_params,
)
from bert_jax.training.step import make_train_step
from bert_jax.training.transformations import is_axes
from launch.config import ConfigError
from launch.data import pair_objective
from launch.lengths import batch_sizes_of, micro_batches
from launch.redaction import redact
from launch.teacher import distillation_of


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config describes, without arrays. objective: what evaluations measure, and what is minimised unless the config says to distil."""

    blueprint: Blueprint
    objective: Objective
    distillation: Distillation | None
    schedule: Schedule
    tx: Any
    compute: Compute
    mesh: Mesh
    abstract: TrainState

    @property
    def minimised(self) -> Objective | Distillation:
        return self.distillation or self.objective

    @property
    def frozen(self) -> tuple[Tree, ...]:
        """What a step reads besides and nothing trains, as ShapeDtypeStructs: a teacher's parameters, sharded as the student's."""
        return () if self.distillation is None else (abstract_params(self.distillation.teacher, self.mesh),)

    def flops(self, config: dict[str, Any]) -> float:
        """Of one sequence in training, forward and backward."""
        length, predictions = config["length"], config["masking"]["predictions"]
        own = model_flops(self.blueprint.spec, length, predictions)
        return own if self.distillation is None else own + self.distillation.extra_flops(length, predictions)


def build_run(config: dict[str, Any], mask_id: int | None = None, devices: list[jax.Device] | None = None) -> Run:
    """mask_id: of [MASK] in the data, for the accuracy by kind of mask. devices: of the mesh; None: all that are here."""
    if config["model"]["vocab_size"] == 0:
        raise ConfigError("model.vocab_size is 0 (the tokenizer's), and no data was given to take it from: set --config.data.path")
    if config["length"] > config["model"]["max_positions"]:
        raise ConfigError(f"length {config['length']} is over model.max_positions {config['model']['max_positions']}")
    rate = max(config["masking"]["rate"], config["masking"]["end_rate"])
    slots, wanted = config["masking"]["predictions"], round(rate * (config["length"] - 3))
    if slots < wanted:
        raise ConfigError(
            f"masking.predictions is {slots}, but rate {rate} of length {config['length']} are {wanted} predictions; "
            f"set --config.masking.predictions={wanted}"
        )
    blueprint = make_blueprint(build_spec(config["model"]))
    mesh = make_mesh(**{axis: config["mesh"][axis] for axis in MESH_AXES}, devices=devices)
    check_mesh_divides(blueprint, mesh)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    check_batch_sizes(config, shards)
    schedule, tx = schedule_and_optimizer(config, blueprint)
    objective = objective_of(blueprint.spec, pair_objective(config), mask_id)
    return Run(
        blueprint=blueprint,
        objective=objective,
        distillation=distillation_of(config, blueprint.spec, objective),
        schedule=schedule,
        tx=tx,
        compute=compute_of(config, mesh),
        mesh=mesh,
        abstract=abstract_state(blueprint, tx, mesh, zero1=config["mesh"]["zero1"]),
    )


def schedule_and_optimizer(config: dict[str, Any], blueprint: Blueprint) -> tuple[Schedule, Any]:
    """Of a config whose lengths are numbers of steps. The optimizer remembers what `bad_steps` needs."""
    ends = {"total_steps": config["steps"]} if config["schedule"].get("total_steps") == 0 else {}
    spec = OptimizerSpec(**config["optimizer"] | {"exclude": tuple(config["optimizer"]["exclude"])})
    tx = make_optimizer(spec, *map(blueprint.trained.names, (blueprint.axes, heights(blueprint.params, blueprint.spec))))
    return Schedule(**config["schedule"] | ends), remembering(tx, Limits(**config["bad_steps"]))


def check_batch_sizes(config: dict[str, Any], shards: int) -> None:
    """ConfigError unless the batches of all steps divide into their micro-batches over so many devices."""
    if config["accumulate"] < 1 or config["batch_size"] % (config["accumulate"] * shards):
        raise ConfigError(
            f"batch_size {config['batch_size']} does not divide into accumulate = {config['accumulate']} micro-batches over {shards} devices "
            f"(data x fsdp); use a multiple of {max(config['accumulate'], 1) * shards}"
        )
    sizes = batch_sizes_of(config).sizes
    for size in sizes:
        if size % (micro_batches(config, size) * shards):
            micro = config["batch_size"] // config["accumulate"]
            raise ConfigError(
                f"batch_ramp goes through batches of {', '.join(map(str, sizes))}, and {size} does not divide into micro-batches of up to {micro} over "
                f"{shards} devices (data x fsdp); use a batch_ramp.start that is a multiple of {micro}, the micro-batch, or of {shards} below it"
            )


# The field that decides an axis which the mesh may cut.
SIZE_FIELDS = {"heads": "model.num_heads", "mlp": "model.intermediate_size", "embed": "model.hidden_size", "vocab": "the vocabulary, padded to a multiple of 128,"}


def compute_of(config: dict[str, Any], mesh: Mesh) -> Compute:
    """With `auto` resolved for the mesh's devices, which need not be this machine's. TPU v2 and v3 cannot compile the kernel: they lack its bfloat16 products."""
    attention, device = config["compute"]["attention"], mesh.devices.flat[0]
    old = device.device_kind in ("TPU v2", "TPU v3")
    if attention == "auto":
        attention = "pallas" if device.platform == "tpu" and not old else "xla"
    if attention == "pallas" and old:
        raise ConfigError(f"compute.attention=pallas needs a TPU v4 or newer, not {device.device_kind}; use auto or xla")
    return Compute(**config["compute"] | {"attention": attention})


def attention_in_words(asked: str, compute: Compute, kinds: Sequence[AttentionSpec], lengths: Collection[int], device_kind: str) -> str:
    """What computes attention, and why: of `auto` the device, of the kernel the lengths at which some layer cannot take it. asked: compute.attention of the config."""
    why = ""
    if asked == "auto":
        why = f" (auto, on {device_kind})" if compute.attention == "pallas" else f" (auto: the Pallas kernel is for TPUs from v4 on, not for {device_kind})"
    without = sorted(length for length in set(lengths) if compute.attention == "pallas" and not all(kernels.fits(kind, length) for kind in kinds))
    return compute.attention + why + (f", but xla at length {', '.join(f'{length:,}' for length in without)}, which the kernel does not take" if without else "")


def check_mesh_divides(blueprint: Blueprint, mesh: Mesh) -> None:
    """ConfigError unless the mesh cuts every axis of every parameter into equal pieces."""
    axes = jax.tree.leaves(blueprint.axes, is_leaf=is_axes)
    sizes = {(axis, size) for names, leaf in zip(axes, jax.tree.leaves(blueprint.params)) for axis, size in zip(names, leaf.shape)}
    for axis, size in sorted(sizes):
        cut = RULES[axis]
        if cut is not None and size % mesh.shape[cut]:
            together = [other for name, other in sizes if RULES[name] == cut]
            fitting = [number for number in range(1, mesh.size + 1) if all(other % number == 0 for other in together)]
            raise ConfigError(
                f"{SIZE_FIELDS.get(axis, axis)} is {size}, which does not divide over mesh.{cut} = {mesh.shape[cut]} devices; "
                f"this model takes {', '.join(map(str, fitting))}"
            )


def step_of(run: Run, *, accumulate: int, first_step: int, limits: Limits | None = None) -> Callable:
    """The compiled update of a run's batches in so many micro-batches; of training and of plans alike."""
    return make_train_step(
        run.blueprint, run.minimised, run.tx, run.schedule, run.compute, run.abstract, run.mesh, accumulate=accumulate, first_step=first_step, limits=limits,
        frozen=run.frozen,
    )


def fresh_state(config: dict[str, Any], run: Run, frozen: tuple[Tree, ...]) -> tuple[TrainState, str]:
    """The state that a run from scratch begins with, and what it is in words: a student has layers of its teacher, whose arrays are `frozen`."""
    state = init_state(run.blueprint, run.tx, run.abstract, jax.random.key(config["seed"]))
    if run.distillation is None or not config["distillation"]["layers"]:
        return state, "fresh weights"
    layers = layer_numbers(config)
    (teacher,), teacher_spec = frozen, run.distillation.teacher.spec

    def begin(fresh: Tree, teacher: Tree) -> Tree:
        return student_params(fresh, run.blueprint.spec, teacher, teacher_spec, layers)

    params = jax.jit(begin, out_shardings=shardings_of(run.abstract.params))(state.params, teacher)
    return state_from_params(params, run.tx, run.abstract), f"layers {', '.join(map(str, layers))} of the teacher"


def layer_numbers(config: dict[str, Any]) -> tuple[int, ...]:
    layers = config["distillation"]["layers"]
    if any(not isinstance(layer, (int, float)) or layer != int(layer) for layer in layers):
        raise ConfigError(f"distillation.layers is {list(layers)}; expected numbers of layers, such as 0,2,4,7,9,11")
    return tuple(map(int, layers))


def copy_tokenizer(source: Path | None, workdir: Path) -> None:
    """The tokenizer beside the checkpoints, so that a workdir is complete in itself."""
    target = workdir / "tokenizer"
    if source is None or target.exists():
        return
    check_own_files(source)
    temporary = workdir / "tokenizer.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    temporary.rename(target)


def check_own_files(tokenizer_dir: Path) -> None:
    """ConfigError for links among a tokenizer's files, which are copied, exported and published: a link in somebody's store could name a file of ours."""
    for path in (tokenizer_dir, *sorted(tokenizer_dir.rglob("*"))):
        if path.is_symlink():
            raise ConfigError(f"{path} is a symbolic link, and a tokenizer's files go with the model; put the file itself there")


def environment() -> dict[str, Any]:
    """Software and hardware, for the report."""
    packages = {name: version(package) for name, package in {"jax": "jax", "flax": "flax", "optax": "optax", "orbax": "orbax-checkpoint"}.items()}
    device = jax.devices()[0]
    return packages | {
        "bert_jax": version("bert-jax"),
        "python": platform.python_version(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "operating_system": f"{platform.system()} {platform.machine()}",
        "command": redact(" ".join(["bert-jax", *sys.argv[1:]])),
    }
