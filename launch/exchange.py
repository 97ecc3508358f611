"""`bert-jax export` and `bert-jax import`: between workdirs and Hugging Face or original TensorFlow directories."""

import json
import logging
import os
import tempfile
from pathlib import Path

import jax

from bert_jax.interop import huggingface, tf_bert, verify
from bert_jax.model.families import build_spec
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import make_blueprint
from launch.config import ConfigError, read_run_config
from launch.load_model import load_model
from launch.model_section import write_model_section

log = logging.getLogger("bert_jax")
VERIFY_TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "Return the number of items in the list, or zero if it is empty.",
    "This method may raise an exception when the file does not exist.",
)


def export(workdir: Path, output: Path, *, step: int | None = None, check: bool = False) -> None:
    """Writes model.safetensors, config.json, tokenizer files and a model card; with `check`, stock transformers must agree with the weights."""
    output = output.absolute()
    model = load_model(workdir, step=step)
    if model.step is None:
        raise ConfigError(f"{workdir} is not a workdir but an exported model already")
    card = card_facts(workdir, model.step)
    if check:  # in a directory of its own first: nothing leaves that does not agree, and an earlier export stays until then
        with tempfile.TemporaryDirectory() as scratch:
            huggingface.export(model.params, model.section, model.tokenizer_dir, Path(scratch) / "model", card=card)
            print(verify.verify(Path(scratch) / "model", model.params, model.section, list(VERIFY_TEXTS)))
    huggingface.export(model.params, model.section, model.tokenizer_dir, output, card=card)
    log.info("exported step %d of %s to %s", model.step, workdir, output)


def card_facts(workdir: Path, step: int) -> dict:
    """What the model card says of the training: the config, and the held-out metrics of that step if it was evaluated."""
    facts: dict = {"step": step}
    if (workdir / "config.json").exists():
        facts["config"] = read_run_config(workdir)
    if (workdir / "metrics.jsonl").exists():
        records = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines() if line.endswith("}"))
        held_out = [record for record in records if record["split"] == "eval" and record["step"] == step]
        if held_out:
            facts["evaluation"] = {name: value for name, value in held_out[-1].items() if name not in ("split", "time", "step")}
    return facts


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
        section, params, notes = tf_bert.from_arrays(arrays, json.loads((source / tf_bert.CONFIG).read_text()), key=key)
        return section, params, source, notes
    imported = huggingface.load(source, key=key)
    if imported.tokenizer_dir is None:
        raise ConfigError(f"{source} has no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece model); put the model's own beside its weights")
    return imported.model_section, imported.params, Path(imported.tokenizer_dir), imported.notes


def save_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer files of a directory, and tokenizer.json made from vocab.txt where there is none."""
    from data_pipeline.tokenization import tokenizers

    tokenizers.load(source).save(target)
