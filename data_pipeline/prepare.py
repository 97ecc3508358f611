"""Corpus -> token store, on several processes, in bounded memory, continuing where it was stopped.

Enters: a corpus and a tokenizer's directory. Leaves: a token store (docs/data.md). The parent reads documents into units of a fixed amount
of text, workers turn each into shards; the store's bytes are the same whatever the number of workers and however often it was interrupted.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline import sentences, store, tokenizers, units
from data_pipeline.corpus import Corpus, CorpusError
from data_pipeline.store import StoreError
from data_pipeline.workers import WorkerPool

_SETTINGS = "prepare.json"
_OWN_ENTRIES = ("manifest.json", _SETTINGS, "unigram_counts.npy", "tokenizer", "train", "eval", "units", "plans")
_FLAGS = {
    "inputs": "--input",
    "tokenizer": "--tokenizer",
    "documents": "--documents",
    "text_field": "--text-field",
    "on_error": "--on-error",
    "holdout": "--holdout",
    "shard_size": "--shard-size",
    "language": "--language",
}


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `prepare` did; `str` is for people. `counts` as in the manifest; `splits` maps a split to its number of documents."""

    output: Path
    counts: dict
    splits: dict[str, int]
    notes: list[str]
    bytes_read: int
    seconds: float
    new_units: int
    units: int

    def __str__(self) -> str:
        counts = self.counts
        held = ", ".join(f"{number:,} in {split}" for split, number in self.splits.items())
        lines = [
            f"token store {self.output}",
            f"  documents {counts['documents']:,} ({held}), sentences {counts['sentences']:,}, characters {counts['characters']:,}",
            f"  tokens {counts['tokens']:,}, words {counts['words']:,}: {counts['tokens'] / max(1, counts['words']):.3f} tokens per word, "
            f"{counts['unknown'] / max(1, counts['words']):.4%} of words are [UNK]",
        ]
        if counts["cut"]:
            lines.append(f"  {counts['cut']:,} cuts in documents longer than the limit")
        lines += [f"  skipped {number:,} documents: {reason}" for reason, number in sorted(counts["skips"].items())]
        if self.new_units < self.units:
            lines.append(f"  {self.units - self.new_units} of {self.units} shards were already there")
        if self.new_units:
            megabytes = self.bytes_read / 1e6
            lines.append(f"  {megabytes:.1f} MB in {self.seconds:.1f} s: {megabytes / max(self.seconds, 1e-9):.1f} MB/s")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def prepare(
    inputs: str | Path | Sequence[str | Path],
    tokenizer_dir: str | Path,
    output: str | Path,
    *,
    documents: str = "blank-line",
    text_field: str = "text",
    on_error: str = "fail",
    holdout: float = 0.01,
    language: str = "en",
    shard_size: int = 16_000_000,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Makes a token store at `output`, or completes an interrupted one.

    `documents`, `text_field`, `on_error`: see `Corpus`. `holdout` is the share of documents, chosen by the hash of their text, that go to
    the split "eval". `language` is for sentence splitting. `shard_size` is in characters of text. `workers` defaults to the usable cores.
    Raises CorpusError for bad input, TokenizerError, StoreError if `output` holds something else than the beginning of this very store
    (`overwrite` starts afresh), OSError if the disk fails.
    """
    started = time.monotonic()
    output = Path(output)
    if not 0 <= holdout < 1:
        raise CorpusError(f"holdout {holdout} is not a share of documents; it must be at least 0 and less than 1")
    if shard_size < 1:
        raise StoreError(f"shard_size {shard_size} is too small; give the characters of text per shard, for instance 16000000")
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise StoreError(f"workers {workers} is too small; give 1 or more")
    corpus = Corpus(inputs, documents=documents, text_field=text_field, on_error=on_error)
    tokenizer = tokenizers.load(tokenizer_dir)
    settings = {
        "inputs": [[Path(source.name).name, source.size] for source in corpus.sources],
        "tokenizer": tokenizer.hash,
        "documents": documents,
        "text_field": text_field,
        "on_error": on_error,
        "holdout": holdout,
        "language": language,
        "shard_size": shard_size,
        "sentence_splitter": sentences.version(),
    }
    modified = [source.modified_ns for source in corpus.sources]
    with _locked(output):
        if overwrite:
            _remove(output)
        _check_output(output, settings, modified)
        if (output / store.MANIFEST).exists():
            return _summary(output, store.read_manifest(output), 0, time.monotonic() - started, new_units=0)
        store.write_json(output / _SETTINGS, {"format": store.FORMAT, "settings": settings, "modified_ns": modified})
        tokenizer.save(output / "tokenizer")
        records, new_units = _write_units(corpus, output, settings, workers, progress)
        manifest = _finish(corpus, output, settings, tokenizer, records)
    return _summary(output, manifest, corpus.progress["bytes"], time.monotonic() - started, new_units)


def _write_units(corpus: Corpus, output: Path, settings: dict, workers: int, progress: bool) -> tuple[list[dict], int]:
    """The records of all units in order, and how many of them are new."""
    records: dict[int, dict] = {}
    reached: dict[int, int] = {}  # unit -> bytes of the corpus read when it was cut
    new_units = 0
    unit_settings = units.UnitSettings(output, settings["holdout"], settings["language"])
    bar = tqdm(total=corpus.size, unit="B", unit_scale=True, desc="prepare", disable=None if progress else True)
    with bar, WorkerPool(workers, output / "tokenizer", unit_settings) as pool:

        def keep(finished: Iterator[tuple[int, dict]]) -> None:
            for number, record in finished:
                records[number] = record
                bar.update(max(0, reached.pop(number) - bar.n))

        for number, documents in enumerate(_units(corpus, settings["shard_size"])):
            reached[number] = corpus.progress["bytes"]
            known = units.read_record(output, number)
            if known is None:
                new_units += 1
                keep(pool.submit(number, documents))
            elif known["text"] == units.text_hash(documents):
                keep(iter([(number, known)]))
            else:
                raise StoreError(
                    f"{output} was begun from other text: the corpus has changed in unit {number}. Choose another --output, or --overwrite"
                )
        keep(pool.drain())
    return [records[number] for number in range(len(records))], new_units


def _units(corpus: Corpus, size: int) -> Iterator[list[str]]:
    unit: list[str] = []
    held = 0
    for document in corpus:
        unit.append(document)
        held += len(document)
        if held >= size:
            yield unit
            unit, held = [], 0
    if unit:
        yield unit


def _finish(corpus: Corpus, output: Path, settings: dict, tokenizer: tokenizers.Tokenizer, records: list[dict]) -> dict:
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record["counts"])
    skips = dict(corpus.skips)
    if counts["empty"]:
        skips["no token"] = counts["empty"]
    splits = {}
    for split in store.SPLITS:
        shards = [record["shards"][split] for record in records if split in record["shards"]]
        if shards:
            totals = {name: sum(shard[name] for shard in shards) for name in ("documents", "sentences", "tokens")}
            splits[split] = {"counts": totals, "shards": shards}
    if "train" not in splits:
        raise CorpusError(
            f"no document is left for training: {counts['documents']} documents, --holdout={settings['holdout']}. "
            "Give more text, smaller documents (--documents=line), or --holdout=0"
        )
    unigrams = np.zeros(tokenizer.vocab_size, np.int64)
    for shard in splits["train"]["shards"]:
        tokens = np.load(output / shard["name"] / "tokens.npy", mmap_mode="r", allow_pickle=False)
        for start in range(0, len(tokens), 1 << 20):
            unigrams += np.bincount(tokens[start : start + (1 << 20)], minlength=tokenizer.vocab_size)
    temporary = output / "unigram_counts.npy.tmp"
    with open(temporary, "wb") as file:
        np.save(file, unigrams, allow_pickle=False)
    os.replace(temporary, output / "unigram_counts.npy")

    names = ["unigram_counts.npy", *(f"tokenizer/{path.name}" for path in sorted((output / "tokenizer").iterdir()))]
    manifest = {
        "tokenizer": {
            "kind": tokenizer.kind,
            "hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "special": tokenizer.special,
        },
        "sources": [{"name": source.name, "size": source.size} for source in corpus.sources],
        "settings": {name: value for name, value in settings.items() if name not in ("inputs", "tokenizer")},
        "counts": {
            **{name: counts[name] for name in ("documents", "sentences", "tokens", "words", "unknown", "characters")},
            "cut": corpus.progress["cut"],
            "skips": skips,
        },
        "splits": splits,
        "files": {name: store.file_record(output / name) for name in names},
    }
    for leftover in [*output.glob("*/shard-*.tmp")]:
        shutil.rmtree(leftover)
    store.write_manifest(output, manifest)
    shutil.rmtree(output / "units")
    return store.read_manifest(output)


def _summary(output: Path, manifest: dict, bytes_read: int, seconds: float, new_units: int) -> Summary:
    splits = {split: value["counts"]["documents"] for split, value in manifest["splits"].items()}
    number_of_units = len({shard["name"][-5:] for value in manifest["splits"].values() for shard in value["shards"]})
    notes = []
    if "eval" not in splits and manifest["settings"]["holdout"] > 0:
        notes.append(
            f"no document fell to the held-out share, --holdout={manifest['settings']['holdout']}, so the store has no eval split; "
            "for one, raise --holdout, give more text, or smaller documents (--documents=line)"
        )
    return Summary(output, manifest["counts"], splits, notes, bytes_read, seconds, new_units, number_of_units)


@contextlib.contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Creates the directory and holds it; the lock goes with the process, however that ends."""
    output.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another prepare is writing to {output}; wait for it, or choose another --output") from None
        yield
    finally:
        os.close(descriptor)


def _check_output(output: Path, settings: dict, modified: list[int]) -> None:
    """Raises StoreError unless `output` is free, or holds the beginning or the whole of the store that these settings make."""
    if not set(os.listdir(output)) - {f"{_SETTINGS}.tmp"}:
        return
    try:
        before = json.loads((output / _SETTINGS).read_text(encoding="utf-8"))
        known = before["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{output} is not empty and no token store begun by prepare; choose another --output") from None
    differences = [
        f"{_FLAGS.get(name, name)} was {_short(known.get(name))}, now {_short(value)}"
        for name, value in settings.items()
        if json.loads(json.dumps(value)) != known.get(name)
    ]
    if not differences and (output / store.MANIFEST).exists() and before.get("modified_ns") != modified:
        differences = ["--input files were modified since"]
    if differences:
        raise StoreError(f"{output} holds a token store made otherwise: {'; '.join(differences)}. Choose another --output, or --overwrite")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:150]}... ({len(value)} entries)"


def _remove(output: Path) -> None:
    """Deletes a token store, complete or not, and nothing else."""
    if not os.listdir(output):
        return
    if not (output / _SETTINGS).is_file():
        raise StoreError(f"{output} is no token store, so --overwrite leaves it alone; choose another --output")
    # The manifest goes first: what is half deleted must not pass for a store.
    for name in _OWN_ENTRIES:
        path = output / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
