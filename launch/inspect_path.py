"""`bert-jax inspect`: what token stores, recorded batches, a workdir or an exported model hold, and how their batches look."""

import dataclasses
import json
from pathlib import Path

from bert_jax.model.families import build_spec
from bert_jax.recorded import RecordedBatches
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import make_blueprint
from launch.batch_view import BatchView, view_source, view_stores, word_starts_by_token, word_starts_of
from launch.config import ConfigError, read_run_config
from launch.data import check_alike, data_paths, make_source, open_data, sequence_settings
from launch.decoded_rows import printable
from launch.inspect_page import write_page
from launch.inspect_text import make_console, print_facts, print_view
from launch.load_model import load_model
from launch.model_section import read_model_section
from launch.phases import phase_at, phases_of
from launch.store_facts import StoreFacts, read_facts

CHOICES = ("tokens", "whole_words", "ngrams:3", "spans:0.2:10")


@dataclasses.dataclass(frozen=True)
class Look:
    """What to decode: `rows` rows of batch `step`. sequences, choice, rate and length: how a bare store is cut and masked; the other places
    say it themselves. verify: hash every file of a store. html: where to write the page, or None."""

    rows: int = 2
    step: int = 0
    sequences: str = "segment_pairs"
    choice: str = "tokens"
    rate: float = 0.15
    length: int = 128
    verify: bool = False
    html: Path | None = None


def inspect_path(text: str, look: Look) -> None:
    """Prints what is at a path, or at several stores parted by commas. Raises ConfigError, or the data's own error, if it cannot."""
    for name in ("rows", "step"):
        if getattr(look, name) < 0:
            raise ConfigError(f"--{name}={getattr(look, name)} does not fit; it must not be negative")
    paths = data_paths(text)
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a directory; give a token store, recorded batches, a workdir or an exported model")
    if len(paths) > 1 or (paths[0] / "manifest.json").is_file() and not RecordedBatches.is_at(paths[0]):
        inspect_stores(paths, look)
    elif RecordedBatches.is_at(paths[0]):
        inspect_recording(paths[0], look)
    elif (paths[0] / "checkpoints").is_dir():
        inspect_workdir(paths[0], look)
    else:
        refuse_page(look, "an exported model has no batches")
        model = load_model(paths[0])
        print(f"exported model {paths[0]}: {model.blueprint.num_params:,} parameters")
        print(json.dumps(model.section, indent=2))


def inspect_stores(paths: tuple[Path, ...], look: Look) -> None:
    from data_pipeline.sequences.plans import KINDS
    from data_pipeline.stores.store import TokenStore
    from data_pipeline.tokenization import tokenizers

    console = make_console()
    stores = [TokenStore(path, split="train") for path in paths]
    for store in stores:
        check_alike(stores[0], store)
    facts = [read_facts(path) for path in paths]
    for store, one in zip(stores, facts):
        print_facts(console, one)
        if look.verify:
            store.verify()
            console.print("verified: every file is as it was written\n")
    tokenizer = tokenizers.load(stores[0].tokenizer_dir)

    def view(sequences: str, choice: str, rows: int) -> BatchView:
        return view_stores(
            paths, tokenizer, sequences=sequences, choice=choice, rate=look.rate, length=look.length, rows=rows, step=look.step
        )

    print_view(console, view(look.sequences, look.choice, look.rows))
    if look.html:
        views: dict[tuple[str, str], BatchView | str] = {}
        for sequences in KINDS:
            for choice in dict.fromkeys([*CHOICES, look.choice]):
                try:
                    views[sequences, choice] = view(sequences, choice, max(look.rows, 1))
                except ValueError as error:  # a kind that this text or length cannot give
                    views[sequences, choice] = str(error)
        title = f"Token store {facts[0].name}" if len(facts) == 1 else f"A mixture of {len(facts)} token stores"
        write_page(look.html, title, facts, views, (look.sequences, look.choice))
        console.print(f"\n{look.html}", soft_wrap=True)


def inspect_recording(path: Path, look: Look) -> None:
    from data_pipeline.tokenization import tokenizers

    source = RecordedBatches(path)
    print(f"recorded batches {path}: {source.num_batches} of {source.batch_size} x {source.length}, {source.predictions} prediction slots")
    if source.tokenizer_dir is None:
        refuse_page(look, f"{path} was recorded without its tokenizer")
        return
    tokenizer = tokenizers.load(source.tokenizer_dir)
    about = source.description
    word_starts, rate = word_starts_by_token(tokenizer), about["masking"]["rate"]
    view = view_of_run(about, source, tokenizer, word_starts, rate=rate, rows=look.rows, step=look.step)
    show_view(view, look, f"Recorded batches {path.resolve().name}", [])


def inspect_workdir(path: Path, look: Look) -> None:
    from data_pipeline.tokenization import tokenizers

    section = read_model_section(path)
    print(f"workdir {path}: {section['family']}, {make_blueprint(build_spec(section)).num_params:,} parameters")
    checkpoints = Checkpoints(path / "checkpoints")
    for saved in checkpoints.steps():
        size = sum(file.stat().st_size for file in checkpoints.path(saved).rglob("*") if file.is_file())
        damage = checkpoints.damage(saved)
        print(f"  checkpoint of step {saved:,}: {size / 1e6:,.1f} MB, {f'DAMAGED: {damage}' if damage else 'whole'}")
    lines = (path / "metrics.jsonl").read_text().splitlines() if (path / "metrics.jsonl").is_file() else []
    if lines:
        print(f"  last log line: {printable(lines[-1])}")
    if not (path / "config.json").is_file():
        refuse_page(look, f"{path} has no config.json, so it does not say how its batches look")
        return
    if look.rows or look.html:
        phases = phases_of(read_run_config(path))
        phase = phase_at(phases, look.step + 1)
        data = open_data(phase.config)
        source, tokenizer = make_source(phase.config, data, None), tokenizers.load(path / "tokenizer")
        step = look.step - phase.start
        if data.recorded:
            rate, word_starts = phase.config["masking"]["rate"], word_starts_by_token(tokenizer)
        else:
            rate, word_starts = source.masking.rate_at(step, source.rate_steps), word_starts_of(source, sequence_settings(phase.config))
        view = view_of_run(phase.config, source, tokenizer, word_starts, rate=rate, rows=look.rows, step=step)
        print(f"\nbatch of step {look.step:,}, as {phase} sees it:\n")
        facts = [] if data.recorded else [read_facts(place) for place in data.paths]
        show_view(view, look, f"Batches of the run {path.resolve().name}", facts)


def view_of_run(config: dict, source, tokenizer, word_starts, *, rate: float, rows: int, step: int) -> BatchView:
    """Of batches that a config, or a recording's description of one, made."""
    sequences, choice = config["data"]["sequences"], config["masking"]["choice"]
    return view_source(source, tokenizer, word_starts, sequences=sequences, choice=choice, rate=rate, rows=rows, step=step)


def show_view(view: BatchView, look: Look, title: str, facts: list[StoreFacts]) -> None:
    console = make_console()
    print_view(console, view)
    if look.html:
        write_page(look.html, title, facts, {(view.sequences, view.choice): view}, (view.sequences, view.choice))
        console.print(f"\n{look.html}", soft_wrap=True)


def refuse_page(look: Look, why: str) -> None:
    if look.html:
        raise ConfigError(f"--html={look.html}: {why}; the page is made of batches")
