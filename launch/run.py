"""From a resolved config to the objects of a run: blueprint, objective, optimizer, mesh. Used by every command that runs a model."""

import dataclasses
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax.model.families import build_spec
from bert_jax.model.spec import Compute
from bert_jax.sharding import make_mesh
from bert_jax.training.objectives import MaskedLm
from bert_jax.training.optim import OptimizerSpec, make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import Blueprint, TrainState, abstract_state, make_blueprint
from launch.config import ConfigError
from launch.data import pair_objective


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config describes, without arrays."""

    blueprint: Blueprint
    objective: MaskedLm
    schedule: Schedule
    tx: Any
    compute: Compute
    mesh: Mesh
    abstract: TrainState


def build_run(config: dict[str, Any], mask_id: int | None = None) -> Run:
    """mask_id: of [MASK] in the data, for the accuracy by kind of mask."""
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
    mesh = make_mesh(**config["mesh"])
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if config["accumulate"] < 1 or config["batch_size"] % (config["accumulate"] * shards):
        raise ConfigError(
            f"batch_size {config['batch_size']} does not divide into accumulate = {config['accumulate']} micro-batches over {shards} devices "
            f"(data x fsdp); use a multiple of {max(config['accumulate'], 1) * shards}"
        )
    ends = {"total_steps": config["steps"]} if config["schedule"].get("total_steps") == 0 else {}
    schedule = Schedule(**config["schedule"] | ends)
    tx = make_optimizer(OptimizerSpec(**config["optimizer"] | {"exclude": tuple(config["optimizer"]["exclude"])}), blueprint.axes)
    return Run(
        blueprint=blueprint,
        objective=MaskedLm(pair_objective(config), mask_id),
        schedule=schedule,
        tx=tx,
        compute=Compute(**config["compute"]),
        mesh=mesh,
        abstract=abstract_state(blueprint, tx, mesh),
    )


def copy_tokenizer(source: Path | None, workdir: Path) -> None:
    """The tokenizer beside the checkpoints, so that a workdir is complete in itself."""
    target = workdir / "tokenizer"
    if source is None or target.exists():
        return
    temporary = workdir / "tokenizer.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    temporary.rename(target)


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
        "command": " ".join(["bert-jax", *sys.argv[1:]]),
    }
