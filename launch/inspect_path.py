"""`bert-jax inspect`: what a token store, recorded batches, a workdir or an exported model holds, and decoded masked batches."""

import json
import sys
from pathlib import Path

from bert_jax.model.families import build_spec
from bert_jax.recorded import RecordedBatches
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import make_blueprint
from launch.config import ConfigError, read_run_config
from launch.load_model import load_model
from launch.model_section import read_model_section
from launch.run import make_source, open_data
from launch.show_batch import show_batch


def inspect_path(path: Path, *, rows: int, step: int, length: int, sequences: str) -> None:
    """Prints what is there; `rows` rows of batch `step` are decoded. length and sequences: how a bare store is cut."""
    if not path.is_dir():
        raise ConfigError(f"{path} is not a directory; give a token store, recorded batches, a workdir or an exported model")
    if RecordedBatches.is_at(path):
        source = RecordedBatches(path)
        print(f"recorded batches {path}: {source.num_batches} of {source.batch_size} x {source.length}, {source.predictions} prediction slots")
        if source.tokenizer_dir is not None:
            print_batch(source.batch(step), source.tokenizer_dir, rows)
    elif (path / "manifest.json").is_file():
        inspect_store(path, rows, step, length, sequences)
    elif (path / "checkpoints").is_dir():
        inspect_workdir(path, rows, step)
    else:
        model = load_model(path)
        print(f"exported model {path}: {model.blueprint.num_params:,} parameters")
        print(json.dumps(model.section, indent=2))


def inspect_store(path: Path, rows: int, step: int, length: int, sequences: str) -> None:
    from data_pipeline.loader import Loader
    from data_pipeline.masking import MaskingSpec
    from data_pipeline.store import TokenStore, read_manifest

    for split in read_manifest(path)["splits"]:
        store = TokenStore(path, split=split)
        print(
            f"{split:>5}: {store.num_documents:,} documents, {store.num_sentences:,} sentences, {store.num_tokens:,} tokens "
            f"in {len(store.shards)} shard(s)"
        )
    tokenizer = store.manifest["tokenizer"]
    print(f"tokenizer: {tokenizer['kind']}, {tokenizer['vocab_size']:,} entries, hash {tokenizer['hash'][:12]}; store fingerprint {store.fingerprint}")
    if rows:
        loader = Loader(
            path, batch_size=max(rows, 1), length=length, sequences=sequences,
            masking=MaskingSpec(rate=0.15, predictions=max(round(0.15 * length) + 1, 1), mask_share=0.8, random_share=0.1), seed=0,
        )
        print(f"{loader.num_sequences:,} sequences of {length} as {sequences}\n")
        print_batch(loader.batch(step), store.tokenizer_dir, rows)


def inspect_workdir(path: Path, rows: int, step: int) -> None:
    section = read_model_section(path)
    print(f"workdir {path}: {section['family']}, {make_blueprint(build_spec(section)).num_params:,} parameters")
    checkpoints = Checkpoints(path / "checkpoints")
    for saved in checkpoints.steps():
        size = sum(file.stat().st_size for file in checkpoints.path(saved).rglob("*") if file.is_file())
        damage = checkpoints.damage(saved)
        print(f"  checkpoint of step {saved:,}: {size / 1e6:,.1f} MB, {f'DAMAGED: {damage}' if damage else 'whole'}")
    lines = (path / "metrics.jsonl").read_text().splitlines() if (path / "metrics.jsonl").is_file() else []
    if lines:
        print(f"  last log line: {lines[-1]}")
    if rows and (path / "config.json").is_file():
        config = read_run_config(path)
        data = open_data(config)
        print(f"\nbatch of step {step:,}, as this run sees it:\n")
        print_batch(make_source(config, data, None).batch(step), path / "tokenizer", rows)


def print_batch(batch: dict, tokenizer_dir: Path, rows: int) -> None:
    from data_pipeline import tokenizers

    print(show_batch(batch, tokenizers.load(tokenizer_dir), rows=rows, color=sys.stdout.isatty()))
