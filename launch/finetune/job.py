"""From a fine-tuning config and a pretrained model to the objects of its runs: one set for all seeds, so that all of them share what is compiled."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.model.adapter_spec import adapter_of, settings_of
from bert_jax.model.families import FAMILY_FIELDS
from bert_jax.model.spec import Compute
from bert_jax.sharding import MESH_AXES, make_mesh
from bert_jax.training.bad_steps import Limits
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import Blueprint, TrainState, abstract_state, make_blueprint
from bert_jax.training.step import make_train_step
from bert_jax.training.task_objectives import EMBEDDING_LOSSES, OF_KINDS, Classification, TaskObjective
from bert_jax.training.trained import trained_part
from launch.config import ConfigError
from launch.finetune.outputs import Predictor, make_predictor
from launch.finetune.sets import TaskSets
from launch.finetune.task_file import TaskFile
from launch.lengths import resolve
from launch.run import check_batch_sizes, check_mesh_divides, compute_of, schedule_and_optimizer

NO_RAMP = {"batch_ramp": {"start": 0, "over": 0, "sizes": 0}}


@dataclasses.dataclass(frozen=True)
class Job:
    """model: the encoder's `model` section. train_step: as `make_train_step` has it."""

    config: dict[str, Any]
    model: dict[str, Any]
    task: TaskFile
    blueprint: Blueprint
    objective: TaskObjective
    schedule: Schedule
    tx: Any
    mesh: Mesh
    compute: Compute
    abstract: TrainState
    train_step: Callable
    predictor: Predictor


def resolve_steps(config: dict[str, Any], examples: int) -> dict[str, Any]:
    """The config with its lengths as numbers of updates, and eval.every too. examples: of the training data."""
    config = {name: value for name, value in resolve(config | NO_RAMP, lambda: examples).items() if name not in NO_RAMP}
    every = config["eval"]["every"] or -(-examples // config["batch_size"])
    return config | {"eval": config["eval"] | {"every": min(every, config["steps"])}}


def make_job(config: dict[str, Any], model: dict[str, Any], sets: TaskSets, devices: list[jax.Device] | None = None) -> Job:
    """config: resolved. model: the pretrained model's section. devices: of the mesh; None: all. ConfigError naming the field that does not fit."""
    model = model | {name: rate for name, rate in config["model"].items() if rate != -1 and name in FAMILY_FIELDS[model["family"]]}
    if config["length"] > model["max_positions"]:
        raise ConfigError(f"length {config['length']} is over the {model['max_positions']} positions of the pretrained model; set --config.length")
    task = task_of(config, sets)
    blueprint, objective = make_blueprint(task.spec(model)), objective_of(config, sets)
    blueprint = dataclasses.replace(blueprint, trained=trained_part(blueprint.spec, blueprint.params, config["freeze"]))
    if not blueprint.num_trained:
        raise ConfigError(f"freeze is {config['freeze']!r}, and a model for task.kind={task.kind} has no head: nothing is left to train; freeze some layers, or set --config.adapt.kind=lora instead")
    mesh = make_mesh(**{axis: config["mesh"][axis] for axis in MESH_AXES}, devices=devices)
    check_mesh_divides(blueprint, mesh)
    check_batch_sizes(config | NO_RAMP, mesh.shape["data"] * mesh.shape["fsdp"])
    if objective.compares_rows and config["accumulate"] > 1:
        raise ConfigError(f"accumulate is {config['accumulate']}, but task.loss={config['task']['loss']} compares all rows of a batch, which must stay together: set it to 1")
    schedule, tx = schedule_and_optimizer(config, blueprint)
    compute = compute_of(config, mesh)
    abstract = abstract_state(blueprint, tx, mesh, zero1=config["mesh"]["zero1"])
    train_step = make_train_step(
        blueprint, objective, tx, schedule, compute, abstract, mesh, accumulate=config["accumulate"], limits=Limits(**config["bad_steps"])
    )
    predictor = make_predictor(blueprint, compute, abstract.params, mesh, config["eval"]["batch_size"])
    return Job(config, model, task, blueprint, objective, schedule, tx, mesh, compute, abstract, train_step, predictor)


def task_of(config: dict[str, Any], sets: TaskSets) -> TaskFile:
    section, kind = config["task"], config["task"]["kind"]
    classes = kind in ("classification", "multilabel", "tokens") or section["loss"] == "softmax"
    outputs = len(sets.labels) if classes else 2 if kind == "span" else 1
    columns = {name: value for name, value in dataclasses.asdict(sets.task).items() if name not in ("kind", "label_names")}
    spans = {name: section[name] if kind == "span" else 0 for name in ("stride", "answer_length")}
    adapter = adapter_of(config["adapt"])
    adapt = None if adapter is None else settings_of(adapter)
    return TaskFile(kind, outputs, config["head"]["pooling"], config["head"]["dropout"], sets.labels, columns, config["length"], **spans, adapt=adapt)


def objective_of(config: dict[str, Any], sets: TaskSets) -> TaskObjective:
    section, kind = config["task"], config["task"]["kind"]
    if kind == "embedding":
        if section["loss"] not in EMBEDDING_LOSSES:
            raise ConfigError(f"task.loss is {section['loss']!r}; known for embeddings: {', '.join(EMBEDDING_LOSSES)}")
        return EMBEDDING_LOSSES[section["loss"]]()
    if section["loss"]:
        raise ConfigError(f"task.loss is {section['loss']!r}, but only tasks of kind embedding have several; leave it empty")
    if kind == "classification":
        return Classification(class_weights(section["class_weights"], sets))
    if section["class_weights"]:
        raise ConfigError(f"task.class_weights belong to tasks of kind classification, not {kind}; leave it empty")
    return OF_KINDS[kind]()


def class_weights(stated: tuple, sets: TaskSets) -> tuple[float, ...]:
    """As the config states them; "balanced": examples / (classes x examples of the class)."""
    if not stated:
        return ()
    counts = np.bincount(sets.train.features.labels, minlength=len(sets.labels))
    if tuple(stated) == ("balanced",):
        return tuple((counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist())
    if len(stated) != len(counts) or not all(isinstance(weight, float | int) and weight >= 0 for weight in stated):
        raise ConfigError(f"task.class_weights is {tuple(stated)}; give a weight for each of the {len(counts)} classes ({', '.join(sets.labels[:5])}, ...), or balanced")
    return tuple(map(float, stated))
