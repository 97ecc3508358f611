"""Opens a model for use: from a workdir's checkpoint or from a Hugging Face directory. That of a fine-tuned workdir has its task's head."""

import dataclasses
from pathlib import Path

import jax

from bert_jax.fill_mask import FillMask
from bert_jax.interop import architectures, huggingface
from bert_jax.model.adapter_spec import LoraSpec
from bert_jax.model.adapters import with_lora_merged
from bert_jax.model.families import build_spec
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import Blueprint, make_blueprint
from launch.config import ConfigError
from launch.finetune.seeds import best_place, best_step
from launch.finetune.task_file import TaskFile, read_task_file, task_file_of
from launch.model_section import read_model_section


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """section: the config's `model` section; params: nested dict of float32 arrays; origin: in words; step: None for an exported directory. task: of a
    fine-tuned model. notes: what in it is not as it was stored."""

    section: dict
    blueprint: Blueprint
    params: dict
    tokenizer_dir: Path | None
    origin: str
    step: int | None
    task: TaskFile | None = None
    notes: tuple[str, ...] = ()

    def tokenizer(self):
        """A `data_pipeline.tokenization.tokenizers.Tokenizer`."""
        from data_pipeline.tokenization import tokenizers

        if self.tokenizer_dir is None:
            raise ConfigError(f"{self.origin} has no tokenizer (tokenizer.json, vocab.txt or a SentencePiece model); put the model's own beside its weights")
        return tokenizers.load(self.tokenizer_dir)

    def encoder_alone(self) -> "LoadedModel":
        """What is fine-tuned of a model of several parts: the first of them, which no other's tables belong to any more."""
        section, params = architectures.encoder_alone(self.section, self.params)
        return self if section is self.section else dataclasses.replace(self, section=section, params=params, blueprint=make_blueprint(build_spec(section)))

    def has_trained(self, part: str) -> bool:
        """Whether the weights of a part, such as a head, came with the model; others begin at random."""
        return not any(note.startswith(f"{part}:") for note in self.notes)

    def fill_mask(self) -> FillMask:
        if self.task is not None:
            raise ConfigError(f"{self.origin} was fine-tuned for {self.task.kind} and predicts no masks any more; give the pretrained model")
        if not self.has_trained("mlm_head"):
            raise ConfigError(f"{self.origin} was exported without the head that predicts masks; give the pretrained model, or its workdir")
        return FillMask(self.blueprint, self.params, self.tokenizer())


def load_model(path: Path, *, step: int | None = None, merged: bool = True) -> LoadedModel:
    """path: a workdir (of pretrain, import or finetune) or an exported directory. step: which checkpoint; None takes the newest whole one; of fine-tuned
    ones the best of the best seed. merged: what LoRA learnt is merged into the matrices; bottleneck adapters stay what they are."""
    if not path.is_dir():
        raise ConfigError(f"{path} is not a directory; give a workdir or an exported model")
    if (path / "model.json").is_file():
        return _from_workdir(path, step, merged)
    if (path / "config.json").is_file():
        if step is not None:
            raise ConfigError(f"{path} is an exported model and has no steps; --step goes with a workdir")
        imported = huggingface.load(path, key=jax.random.key(0), with_task=True)
        section, task = imported.model_section, None if imported.task is None else task_file_of(imported.task)
        blueprint = make_blueprint(build_spec(section) if task is None else task.spec(section))
        return LoadedModel(section, blueprint, imported.params, imported.tokenizer_dir, str(path), None, task, tuple(imported.notes))
    raise ConfigError(f"{path} holds neither a bert_jax workdir (model.json) nor an exported model (config.json)")


def _from_workdir(workdir: Path, step: int | None, merged: bool) -> LoadedModel:
    task = read_task_file(workdir)
    place = workdir if task is None else best_place(workdir)
    checkpoints = Checkpoints(place / "checkpoints")
    if task is None:
        step = checkpoints.choose(step)
        section = read_model_section(workdir, step)
    else:
        step = checkpoints.choose(best_step(place) if step is None else step)
        section = read_model_section(workdir)
    blueprint = make_blueprint(build_spec(section) if task is None else task.spec(section))
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), blueprint.params)
    params = checkpoints.restore(step, {"params": abstract})["params"]
    if merged and task is not None and isinstance(task.adapter, LoraSpec):
        params, task = with_lora_merged(params, task.adapter), dataclasses.replace(task, adapt=None)
        blueprint = make_blueprint(task.spec(section))
    return LoadedModel(section, blueprint, params, workdir / "tokenizer", f"{place} at step {step}", step, task)
