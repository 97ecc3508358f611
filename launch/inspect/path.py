"""`bert-jax inspect`: what token stores, recorded batches, a workdir or an exported model hold, and how their batches look."""

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from bert_jax.model.families import build_spec
from bert_jax.recorded import RecordedBatches
from bert_jax.training.checkpoint_files import CheckpointFiles
from bert_jax.training.state import make_blueprint
from launch.config import ConfigError, read_run_config
from launch.data import check_alike, data_paths, description_of, make_source, open_data, sequence_settings
from launch.inspect.batch_view import BatchView, shares, view_source, view_stores, word_starts_by_token, word_starts_of
from launch.inspect.decoded_rows import printable
from launch.inspect.page import write_page
from launch.inspect.store_facts import StoreFacts, read_facts
from launch.inspect.text import describe_record, make_console, print_facts, print_view
from launch.load_model import load_model
from launch.model_section import read_model_section
from launch.phases import phase_at, phases_of
from launch.report.run_log import read_log

CHOICES = ("tokens", "whole_words", "ngrams:3", "spans:0.2:10")
STORE_OPTIONS = {"sequences": "segment_pairs", "masking": "tokens", "rate": 0.15, "length": 128}  # and what they are unless given
BATCH_OPTIONS = {"rows": 2, "step": 0}


@dataclasses.dataclass(frozen=True)
class Look:
    """What to decode: `rows` rows of batch `step`. sequences, masking, rate and length: how a bare store is cut and masked; the other
    places say it themselves. None: not given. verify: hash every file of a store. html: where to write the page, or None."""

    rows: int | None = None
    step: int | None = None
    sequences: str | None = None
    masking: str | None = None
    rate: float | None = None
    length: int | None = None
    verify: bool = False
    html: Path | None = None

    def refuse(self, options: Iterable[str], why: str) -> None:
        """ConfigError if one of these options is given."""
        for name in options:
            value = getattr(self, name)
            if value is not None and value is not False:
                raise ConfigError(f"--{name}{'' if value is True else f'={value}'} does not apply: {why}; leave it out")

    def filled(self) -> "Look":
        """With the defaults of what is not given."""
        defaults = STORE_OPTIONS | BATCH_OPTIONS
        return dataclasses.replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


def inspect_path(text: str, look: Look) -> None:
    """Prints what is at a path, or at several stores parted by commas. Raises ConfigError, or the data's own error, if it cannot."""
    for name in BATCH_OPTIONS:
        if (getattr(look, name) or 0) < 0:
            raise ConfigError(f"--{name}={getattr(look, name)} does not fit; it must not be negative")
    check_page(look.html)
    paths = data_paths(text)
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a directory; give a token store, recorded batches, a workdir or an exported model")
    recordings = [path for path in paths if RecordedBatches.is_at(path)]
    if len(paths) > 1 and recordings:
        raise ConfigError(
            f"{text} names {len(paths)} places, and {recordings[0]} holds recorded batches; a mixture is made of token stores (and then "
            "recorded)"
        )
    if recordings:
        look.refuse(STORE_OPTIONS, f"{paths[0]} holds recorded batches, which are cut and masked already")
        inspect_recording(paths[0], look)
    elif len(paths) > 1 or any((paths[0] / name).is_file() for name in ("manifest.json", "prepare.json")):
        inspect_stores(paths, look.filled())
    elif (paths[0] / "checkpoints").is_dir():
        look.refuse(STORE_OPTIONS, f"{paths[0]} is a workdir, whose config says how its batches are cut and masked")
        inspect_workdir(paths[0], look)
    else:
        why = f"{paths[0]} is no token store, recording or workdir, so it has no batches"
        look.refuse([*STORE_OPTIONS, *BATCH_OPTIONS, "verify", "html"], why)
        model = load_model(paths[0])
        print(f"exported model {paths[0]}: {model.blueprint.num_params:,} parameters")
        print(json.dumps(model.section, indent=2))


def inspect_stores(paths: tuple[Path, ...], look: Look) -> None:
    from data_pipeline.sequences.plans import KINDS
    from data_pipeline.stores.store import TokenStore
    from data_pipeline.tokenization import tokenizers

    check_cut(look)
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
        try:
            return view_stores(
                paths, tokenizer, sequences=sequences, choice=choice, rate=look.rate, length=look.length, rows=rows, step=look.step
            )
        except RuntimeError as error:
            if isinstance(error.__cause__, IndexError):  # ids or places that no whole store holds
                raise damage(paths, tokenizer.vocab_size) from error
            raise

    print_view(console, view(look.sequences, look.masking, look.rows))
    if look.html:
        views: dict[tuple[str, str], BatchView | str] = {}
        for sequences in KINDS:
            for choice in dict.fromkeys([*CHOICES, look.masking]):
                try:
                    views[sequences, choice] = view(sequences, choice, max(look.rows, 1))
                except ValueError as error:  # a kind that this text or length cannot give
                    views[sequences, choice] = str(error)
        title = f"Token store {facts[0].name}" if len(facts) == 1 else f"A mixture of {len(facts)} token stores"
        write_page(look.html, title, facts, views, (look.sequences, look.masking), shares(paths))
        console.print(f"\n{look.html}", soft_wrap=True)


def inspect_recording(path: Path, look: Look) -> None:
    from data_pipeline.tokenization import tokenizers

    source = RecordedBatches(path)
    if source.tokenizer_dir is None:
        look.refuse([*BATCH_OPTIONS, "html"], f"{path} was recorded without its tokenizer, so its batches cannot be read")
    print(f"recorded batches {path}: {source.num_batches} of {source.batch_size} x {source.length}, {source.predictions} prediction slots")
    if source.tokenizer_dir is None:
        return
    look = look.filled()
    tokenizer = tokenizers.load(source.tokenizer_dir)
    about = description_of(source)
    word_starts, rate = word_starts_by_token(tokenizer), about["masking"]["rate"]
    view = view_of_run(about, source, tokenizer, word_starts, rate=rate, rows=look.rows, step=look.step)
    show_view(view, look, f"Recorded batches {path.resolve().name}", [])


def inspect_workdir(path: Path, look: Look) -> None:
    from data_pipeline.stores.store import TokenStore
    from data_pipeline.tokenization import tokenizers

    section, phases = read_model_section(path), None
    if (path / "config.json").is_file():
        phases = phases_of(read_run_config(path))
        look = look.filled()
        if look.step >= phases[-1].stop:
            raise ConfigError(f"--step={look.step} is not in the run {path}, whose steps are 0 to {phases[-1].stop - 1:,}")
    else:
        look.refuse([*BATCH_OPTIONS, "html"], f"{path} has no config.json, so it does not say how its batches look")
    print(f"workdir {path}: {section['family']}, {make_blueprint(build_spec(section)).num_params:,} parameters")
    print_checkpoints(path / "checkpoints", verify=look.verify)
    log = path / "metrics.jsonl"
    record = last_record(log.read_text(errors="replace").splitlines()) if log.is_file() else None
    if record:
        print(f"  last logged: {printable(describe_record(record))}")
    if phases is None:
        return
    phase = phase_at(phases, look.step + 1)
    data = open_data(phase.config)
    if look.verify and not data.recorded:  # recorded batches are hashed at opening
        for place in data.paths:
            TokenStore(place).verify()
        print("  verified: every file of the data is as it was written")
    source, tokenizer = make_source(phase.config, data, None), tokenizers.load(path / "tokenizer")
    step = look.step - phase.start
    if data.recorded:
        rate, word_starts = phase.config["masking"]["rate"], word_starts_by_token(tokenizer)
    else:
        rate, word_starts = source.masking.rate_at(step, source.rate_steps), word_starts_of(source, sequence_settings(phase.config))
    view = view_of_run(phase.config, source, tokenizer, word_starts, rate=rate, rows=look.rows, step=step)
    print(f"\nbatch of step {look.step:,}, as {phase} sees it:\n")
    facts = [] if data.recorded else [read_facts(place) for place in data.paths]
    show_view(view, look, f"Batches of the run {path.resolve().name}", facts, data.shares)


def print_checkpoints(directory: Path, *, verify: bool) -> None:
    """A line for each checkpoint, with its verdict: by sizes, or with `verify` by the hashes of all files. Those set aside with the reason."""
    files = CheckpointFiles(directory)
    for step in files.steps():
        size = sum(file.stat().st_size for file in files.path(step).rglob("*") if file.is_file())
        damage = files.damage(step, contents=verify)
        verdict = f"DAMAGED: {damage}" if damage else "whole" if verify else "whole by its sizes (--verify reads and hashes all)"
        print(f"  checkpoint of step {step:,}: {size / 1e6:,.1f} MB, {verdict}")
    for place, reason in files.damaged():
        print(f"  set aside as damaged: {place.name}: {printable(reason)}")
    for place in files.unfinished():
        print(f"  not finished: {place.name} (being saved now, or its save was cut short)")


def last_record(lines: list[str]) -> dict | None:
    """Of a run's log: the last that can be read."""
    for line in reversed(lines):
        log = read_log([line])
        for record in (*log.train, *log.eval, *log.events):
            return record
    return None


def view_of_run(config: dict, source, tokenizer, word_starts, *, rate: float, rows: int, step: int) -> BatchView:
    """Of batches that a config, or a recording's description of one, made."""
    sequences, choice = config["data"]["sequences"], config["masking"]["choice"]
    return view_source(source, tokenizer, word_starts, sequences=sequences, choice=choice, rate=rate, rows=rows, step=step)


def show_view(view: BatchView, look: Look, title: str, facts: list[StoreFacts], mixed: Sequence[float] = ()) -> None:
    console = make_console()
    print_view(console, view)
    if look.html:
        write_page(look.html, title, facts, {(view.sequences, view.choice): view}, (view.sequences, view.choice), mixed)
        console.print(f"\n{look.html}", soft_wrap=True)


def check_page(path: Path | None) -> None:
    """ConfigError unless a page can be written there."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"--html={path} is a directory; name a file, such as --html={path / 'page.html'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--html={path}: there is no directory {path.parent}; make it first, or write the page elsewhere")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--html={path}: the directory {path.parent} may not be written; write the page elsewhere")


def check_cut(look: Look) -> None:
    """ConfigError naming the option unless stores can be cut and masked so."""
    from data_pipeline.batches.masking import MaskingSpec
    from data_pipeline.sequences.plan_parts import Settings
    from data_pipeline.sequences.plans import KINDS

    if look.sequences not in KINDS:
        raise ConfigError(f"--sequences={look.sequences} is not known; choose one of: {', '.join(KINDS)}")
    checks = {
        "length": lambda length: Settings(look.sequences, length, short_seq_prob=0.0, duplicates=1, seed=0),
        "rate": lambda rate: MaskingSpec(rate=rate),
        "masking": lambda choice: MaskingSpec(choice=choice),
    }
    for name, check in checks.items():
        try:
            check(getattr(look, name))
        except ValueError as error:
            raise ConfigError(f"--{name}: {error}") from None


def damage(paths: tuple[Path, ...], vocab_size: int) -> ConfigError:
    names = ",".join(map(str, paths))
    plans = ", ".join(str(path / "plans") for path in paths)
    return ConfigError(
        f"{names} is damaged: it holds an id beyond the vocabulary of {vocab_size:,}, or a place beyond its text; "
        f"`bert-jax inspect {names} --verify` names the file. If all are whole, delete {plans}, which is made again"
    )
