"""`bert-jax export` and `bert-jax import`: between workdirs and Hugging Face or original TensorFlow directories."""

import json
import logging
import os
import tempfile
from pathlib import Path

import jax

from bert_jax.interop import architectures, huggingface, tf_bert, verify
from bert_jax.model.families import build_spec
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import make_blueprint
from launch.config import ConfigError, read_json, read_run_config
from launch.load_model import load_model
from launch.model_section import write_model_section

log = logging.getLogger("bert_jax")
VERIFY_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Return the number of items in the list, or zero if it is empty.",
    "This method may raise an exception when the file does not exist.",
)


def export(workdir: Path, output: Path, *, step: int | None = None, check: bool = False) -> None:
    """Writes model.safetensors, config.json, tokenizer files and a model card; with `check`, stock transformers must agree with the weights.

    What transformers has as several models (ELECTRA) becomes as many directories in `output`."""
    output = output.absolute()
    model = load_model(workdir, step=step)
    if model.step is None:
        raise ConfigError(f"{workdir} is not a workdir but an exported model already")
    card = card_facts(workdir, model.step)
    parts = architectures.parts_of(model.section, model.params)
    if check:  # in a directory of its own first: nothing leaves that does not agree, and an earlier export stays until then
        with tempfile.TemporaryDirectory() as scratch:
            for name, (section, params) in parts.items():
                huggingface.export(params, section, model.tokenizer_dir, Path(scratch) / "model" / name, card=card)
                print(f"{name}\n" if name else "", verify.verify(Path(scratch) / "model" / name, params, section, list(VERIFY_TEXTS)), sep="")
    for name, (section, params) in parts.items():
        huggingface.export(params, section, model.tokenizer_dir, output / name, card=card)
    log.info("exported step %d of %s to %s", model.step, workdir, output)


def card_facts(workdir: Path, step: int) -> dict:
    """What the model card says of the training: the config, and the held-out metrics of that step if it was evaluated."""
    facts: dict = {"step": step}
    if (workdir / "config.json").exists():
        facts["config"] = without_places(read_run_config(workdir))
    if (workdir / "metrics.jsonl").exists():
        records = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines() if line.endswith("}"))
        held_out = [record for record in records if record["split"] == "eval" and record["step"] == step]
        if held_out:
            facts["evaluation"] = {name: value for name, value in held_out[-1].items() if name not in ("split", "time", "step")}
    return facts


def without_places(config: dict) -> dict:
    """The config with the names of its data only: a card is published, and where a machine keeps things is nobody's business."""

    def named(section: dict) -> dict:
        path = section.get("data", {}).get("path", "")
        return section | {"data": section["data"] | {"path": ",".join(Path(part).name for part in path.split(","))}} if path else section

    return named(config) | {"phases": [named(phase) for phase in config["phases"]]}


def import_model(source: Path, workdir: Path) -> None:
    """Reads a Hugging Face directory of a known family or an original TensorFlow checkpoint into a new workdir, as a checkpoint of step 0.

    The workdir appears only when whole.
    """
    workdir = workdir.absolute()
    if workdir.exists() and any(workdir.iterdir()):
        raise ConfigError(f"--workdir={workdir} is not empty; import into a new one")
    if not source.is_dir():
        raise ConfigError(f"--from={source} is not a directory; a model of the hub is fetched first: hf download NAME --local-dir DIR")
    section, params, tokenizer_dir, notes = _read(source)
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{workdir.name}.", suffix=".tmp", dir=workdir.parent) as temporary:
        part = Path(temporary) / "workdir"
        part.mkdir()
        save_tokenizer(tokenizer_dir, part / "tokenizer")
        write_model_section(part, section)
        checkpoints = Checkpoints(part / "checkpoints")
        checkpoints.save(0, {"params": jax.tree.map(jax.numpy.asarray, params)})
        checkpoints.wait()
        os.replace(part, workdir)
    for note in notes:
        log.info("%s", note)
    parameters = make_blueprint(build_spec(section)).num_params
    log.info("imported %s (%.1fM parameters) into %s", source, parameters / 1e6, workdir)
    log.info("go on with: bert-jax pretrain --config=... --workdir=%s --config.data.path=STORE", workdir)


def _read(source: Path) -> tuple[dict, dict, Path, list[str]]:
    key = jax.random.key(0)
    if tf_bert.is_tf_checkpoint(source):
        from data_pipeline import tf_checkpoint

        arrays = tf_checkpoint.read(source / tf_bert.CHECKPOINT)
        section, params, notes = tf_bert.from_arrays(arrays, read_json(source / tf_bert.CONFIG), key=key)
        return section, params, source, notes
    for names, whole in architectures.WHOLE.items():
        if all((source / name / huggingface.CONFIG).is_file() for name in names):
            loaded = {name: huggingface.load(source / name, key=key) for name in names}
            section, params = whole(lambda name: (loaded[name].model_section, loaded[name].params))
            first = loaded[names[0]]
            return section, params, _tokenizer_of(first, source / names[0]), [f"{name}: {note}" for name in names for note in loaded[name].notes]
    imported = huggingface.load(source, key=key)
    return imported.model_section, imported.params, _tokenizer_of(imported, source), imported.notes


def _tokenizer_of(imported: huggingface.Imported, source: Path) -> Path:
    if imported.tokenizer_dir is None:
        raise ConfigError(f"{source} has no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece model); put the model's own beside its weights")
    return Path(imported.tokenizer_dir)


def save_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer files of a directory, and tokenizer.json made from vocab.txt where there is none."""
    from data_pipeline.tokenization import tokenizers

    tokenizers.load(source).save(target)
