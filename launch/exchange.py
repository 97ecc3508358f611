"""`bert-jax export` and `bert-jax import`: between workdirs and Hugging Face or original TensorFlow directories."""

import logging
import tempfile
from pathlib import Path

import jax

from bert_jax.interop import architectures, huggingface, tf_bert, verify
from bert_jax.interop.peft_adapter import export_adapter
from bert_jax.interop.tasks import Task
from bert_jax.model.adapter_spec import LoraSpec
from bert_jax.training.run_log import read_records
from launch.config import ConfigError, read_json, read_run_config
from launch.finetune.card import card_facts as task_facts
from launch.first_weights import check_empty, parameters_of, with_vocabulary_of, write_start
from launch.load_model import load_model

log = logging.getLogger("bert_jax")
VERIFY_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Return the number of items in the list, or zero if it is empty.",
    "This method may raise an exception when the file does not exist.",
)


def export(workdir: Path, output: Path, *, step: int | None = None, check: bool = False, pooling: str | None = None) -> None:
    """Writes model.safetensors, config.json, tokenizer files and a model card; with `check`, stock transformers must agree with the weights. A fine-tuned
    model leaves as the class for its task, and with sentence-transformers' files if it makes vectors or ranks.

    pooling: the encoder alone, as a model of sentence-transformers that makes one vector of a text; with `check`, that library must agree too.

    What transformers has as several models (ELECTRA) becomes as many directories in `output`."""
    output = output.absolute()
    model = load_model(workdir, step=step)
    if model.step is None:
        raise ConfigError(f"{workdir} is not a workdir but an exported model already")
    if model.task is not None and model.task.adapter is not None:
        raise ConfigError(
            f"{workdir} was trained with bottleneck adapters, which no class of transformers has and which are not linear, so that no weights without them compute the same. "
            "Use the model from its workdir (bert-jax predict, embed, rank), or train with --config.adapt.kind=lora, whose export is an ordinary model"
        )
    if model.task is None:
        card, parts, task = card_facts(workdir, model.step), architectures.parts_of(model.section, model.params), None
    else:
        card, parts, task = task_facts(workdir, model.step), {"": (model.section, model.params)}, model.task.head
    if pooling is not None:
        section, params = architectures.encoder_alone(model.section, model.params)
        parts, task = {"": (section, {"encoder": params["encoder"]})}, Task("embedding", 1, pooling, section["dropout"], None, section["max_positions"])
    if check:  # in a directory of its own first: nothing leaves that does not agree, and an earlier export stays until then
        with tempfile.TemporaryDirectory() as scratch:
            for name, (section, params) in parts.items():
                huggingface.export(params, section, model.tokenizer_dir, Path(scratch) / "model" / name, card=card, task=task)
                print(f"{name}\n" if name else "", verify.verify(Path(scratch) / "model" / name, params, section, list(VERIFY_TEXTS), task=task), sep="")
    for name, (section, params) in parts.items():
        huggingface.export(params, section, model.tokenizer_dir, output / name, card=card, task=task)
    log.info("exported step %d of %s to %s", model.step, workdir, output)


def export_lora(workdir: Path, output: Path, *, step: int | None = None) -> None:
    """Writes what LoRA learnt, and the head, as a directory that PEFT loads over the pretrained model."""
    model = load_model(workdir, step=step, merged=False)
    if model.task is None or not isinstance(model.task.adapter, LoraSpec):
        raise ConfigError(f"{workdir} was not trained with LoRA, and there is no adapter to export; train with --config.adapt.kind=lora, or export the model")
    export_adapter(model.params, model.section, model.task.head, model.task.adapter, output.absolute())
    log.info("exported the adapter of step %d of %s to %s", model.step, workdir, output)


def card_facts(workdir: Path, step: int) -> dict:
    """What the model card says of the training: the config, and the held-out metrics of that step if it was evaluated."""
    facts: dict = {"step": step}
    if (workdir / "config.json").exists():
        facts["config"] = without_places(read_run_config(workdir))
    held_out = [record for record in read_records(workdir / "metrics.jsonl") if record["split"] == "eval" and record["step"] == step]
    if held_out:
        facts["evaluation"] = {name: value for name, value in held_out[-1].items() if name not in ("split", "time", "step")}
    return facts


def without_places(config: dict) -> dict:
    """The config with the names of its data only: a card is published, and where a machine keeps things is nobody's business."""

    def named(section: dict) -> dict:
        paths = {part: section[part]["path"] for part in ("data", "teacher") if section.get(part, {}).get("path")}
        return section | {part: section[part] | {"path": ",".join(Path(one).name for one in path.split(","))} for part, path in paths.items()}

    return named(config) | {"phases": [named(phase) for phase in config["phases"]]}


def import_model(source: Path, workdir: Path, *, tokenizer: Path | None = None) -> None:
    """Reads a Hugging Face directory of a known family or an original TensorFlow checkpoint into a new workdir, as a checkpoint of step 0.

    tokenizer: the model's own with further words (`bert-jax extend-tokenizer`), whose rows begin as the mean of their old pieces'.
    """
    check_empty(workdir)
    if not source.is_dir():
        raise ConfigError(f"--from={source} is not a directory; a model of the hub is fetched first: hf download NAME --local-dir DIR")
    section, params, tokenizer_dir, notes = _read(source)
    if tokenizer is not None:
        section, params, note = with_vocabulary_of(tokenizer, section, params, tokenizer_dir)
        tokenizer_dir, notes = tokenizer, [*notes, note]
    write_start(workdir, section, params, tokenizer_dir)
    for note in notes:
        log.info("%s", note)
    log.info("imported %s (%s) into %s", source, parameters_of(section), workdir.absolute())
    log.info("go on with: bert-jax pretrain --config=... --workdir=%s --config.data.path=STORE", workdir.absolute())


def _read(source: Path) -> tuple[dict, dict, Path, list[str]]:
    key = jax.random.key(0)
    if tf_bert.is_tf_checkpoint(source):
        from data_pipeline import tf_checkpoint

        arrays = tf_checkpoint.read(source / tf_bert.CHECKPOINT)
        section, params, notes = tf_bert.from_arrays(arrays, read_json(source / tf_bert.CONFIG), key=key)
        return section, params, source, notes
    names = architectures.PART_NAMES
    if all((source / name / huggingface.CONFIG).is_file() for name in names):
        loaded = {name: huggingface.load(source / name, key=key) for name in names}
        section, params = architectures.whole_of(lambda name: (loaded[name].model_section, loaded[name].params))
        first = loaded[names[0]]
        return section, params, _tokenizer_of(first, source / names[0]), [f"{name}: {note}" for name in names for note in loaded[name].notes]
    imported = huggingface.load(source, key=key)
    return imported.model_section, imported.params, _tokenizer_of(imported, source), imported.notes


def _tokenizer_of(imported: huggingface.Imported, source: Path) -> Path:
    if imported.tokenizer_dir is None:
        raise ConfigError(f"{source} has no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece model); put the model's own beside its weights")
    return Path(imported.tokenizer_dir)
