"""The teacher of a distillation: opened where the config says, held to what the config states of it, and to the one that the run began with.

Its arrays lie on the mesh as the student's do. They are no part of the training state, and so of no checkpoint: every start reads them again, and WORKDIR/teacher.json
holds a digest by which another one is noticed.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from bert_jax.interop import huggingface
from bert_jax.model.families import build_spec
from bert_jax.model.spec import AnySpec
from bert_jax.processes import is_first
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.digests import digest_of_all
from bert_jax.training.distillation import Distillation
from bert_jax.training.objectives import MaskedLm
from bert_jax.training.state import Tree, make_blueprint, shardings_of
from launch.config import ConfigError, read_json, write_json
from launch.data import Data, check_same_tokenizer
from launch.model_section import check_same_model, read_model_section

NOTE = "teacher.json"
log = logging.getLogger("bert_jax")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """read: ShapeDtypeStructs with shardings -> the parameters there. origin: in words."""

    section: dict[str, Any]
    tokenizer_dir: Path
    read: Callable[[Tree], Tree]
    origin: str


def distillation_of(config: dict[str, Any], student: AnySpec, own: MaskedLm) -> Distillation | None:
    """The objective of a config that distils, from what it states alone. ConfigError or ValueError where that does not fit together."""
    if "distillation" not in config:
        return None
    settings = {name: value for name, value in config["distillation"].items() if name != "layers"}
    section = stated_section(config)
    if config["length"] > section["max_positions"]:
        raise ConfigError(f"length {config['length']} is over teacher.max_positions {section['max_positions']}, and the teacher reads the same rows")
    return Distillation(own, student, make_blueprint(build_spec(section)), **settings)


def stated_section(config: dict[str, Any]) -> dict[str, Any]:
    """The teacher's `model` section, as the config has it."""
    return {name: value for name, value in config["teacher"].items() if name != "path"}


def open_teacher(config: dict[str, Any], data: Data) -> Teacher | None:
    """The config's teacher, without its arrays; None where it has none. ConfigError unless it is as the config and the data say. Collective."""
    if "teacher" not in config:
        return None
    path = Path(config["teacher"]["path"])
    if not config["teacher"]["path"]:
        raise ConfigError("teacher.path is empty: set --config.teacher.path to a workdir or a Hugging Face directory")
    if (path / "model.json").is_file():
        teacher = _from_workdir(path)
    elif (path / "config.json").is_file():
        teacher = _from_hugging_face(path)
    else:
        raise ConfigError(f"teacher.path={path} holds neither a bert_jax workdir (model.json) nor a Hugging Face model (config.json)")
    check_same_tokenizer(data, teacher.tokenizer_dir)
    check_same_model(teacher.section, stated_section(config), path, "teacher")
    return teacher


def _from_workdir(path: Path) -> Teacher:
    checkpoints = Checkpoints(path / "checkpoints")
    step = checkpoints.choose(None)

    def read(abstract: Tree) -> Tree:
        return checkpoints.restore(step, {"params": abstract})["params"]

    return Teacher(read_model_section(path, step), path / "tokenizer", read, f"{path} at step {step}")


def _from_hugging_face(path: Path) -> Teacher:
    imported = huggingface.load(path, key=jax.random.key(0))
    if untrained := [note for note in imported.notes if note.startswith("mlm_head:")]:
        raise ConfigError(f"teacher.path={path} is an encoder without its MLM head, and a student learns from what that says ({untrained[0]})")
    if imported.tokenizer_dir is None:
        raise ConfigError(f"teacher.path={path} has no tokenizer; put the model's own beside its weights")

    def read(abstract: Tree) -> Tree:
        return jax.device_put(imported.params, shardings_of(abstract))

    return Teacher(imported.model_section, imported.tokenizer_dir, read, str(path))


def place_teacher(teacher: Teacher, abstract: Tree, workdir: Path, *, begun: bool) -> Tree:
    """The parameters on the mesh, noted in the workdir. begun: whether it holds a run already; ConfigError if that has another teacher. Collective."""
    params = teacher.read(abstract)
    note = {"digest": digest_of_all(params)}
    if begun and (workdir / NOTE).is_file() and read_json(workdir / NOTE) != note:
        raise ConfigError(f"the run in {workdir} began with another teacher than {teacher.origin}; set --config.teacher.path to that one, as it was, or give a new --workdir")
    if is_first():
        write_json(workdir / NOTE, note)
    log.info("teacher: %s", teacher.origin)
    return params
