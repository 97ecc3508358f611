"""Corpus -> token store, on several processes or on Apache Beam, in bounded memory, continuing where it was stopped.

Enters: a corpus and a tokenizer's directory. Leaves: a token store (docs/data.md). The corpus falls into groups of files (groups.py) and
these into units of a fixed amount of text, each of which becomes shards; the store's bytes are the same whatever the number of workers,
the runner and the interruptions.
"""

import dataclasses
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.preparation import begun
from data_pipeline.preparation.groups import Job, Tally, load_tokenizer, make_groups
from data_pipeline.preparation.output import LocalOutput, Output, open_output
from data_pipeline.preparation.units import UnitSettings
from data_pipeline.preparation.workers import run_local
from data_pipeline.sources.corpus import Corpus, CorpusError, by_reason
from data_pipeline.sources.reading import MAX_DOCUMENT
from data_pipeline.stores import manifest as manifests
from data_pipeline.stores import store
from data_pipeline.stores.store import StoreError
from data_pipeline.tokenization import sentences, tokenizers

# Four arrays of two splits may be memory-mapped for each, and Linux allows a process 65,530 maps.
_MOST_SHARDS = 8_000


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `prepare` did; `str` is for people. `counts` as in the manifest; `splits` maps a split to its number of documents."""

    output: str
    counts: dict
    splits: dict[str, int]
    notes: list[str]
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
            f"{counts['unknown'] / max(1, counts['words']):.4%} of words are unknown",
        ]
        if counts["cut"]:
            lines.append(f"  {counts['cut']:,} cuts in documents longer than {MAX_DOCUMENT >> 20} MiB")
        if counts["duplicates"]:
            lines.append(f"  left out {counts['duplicates']:,} documents: copies of earlier ones")
        lines += [f"  left out {number:,} documents: {reason}" for reason, number in sorted(counts["filters"].items())]
        lines += [f"  skipped {number:,} documents: {reason}" for reason, number in sorted(counts["skips"].items())]
        if self.new_units < self.units:
            lines.append(f"  {self.units - self.new_units} of {self.units} shards were already there")
        if self.new_units:
            megabytes = counts["bytes"] / 1e6
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
    min_characters: int = 0,
    max_characters: int = 0,
    deduplicate: bool = False,
    holdout: float = 0.01,
    language: str = "en",
    shard_size: int = 16_000_000,
    workers: int | None = None,
    runner: str = "local",
    runner_flags: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Makes a token store at `output`, a directory or a URL, or completes an interrupted one.

    `documents`, `text_field`, `on_error`, `min_characters`, `max_characters`: see `Corpus`. `deduplicate` leaves out all copies of a
    document but the first. `holdout` is the share of documents, chosen by the hash of their text, that go to the split "eval". `language`
    is for sentence splitting. `shard_size` is in characters of text. `workers` defaults to the usable cores. `runner` is "local", or one
    of Apache Beam's, to which `runner_flags` go, such as "--project=p" (docs/scale.md); `workers` is then Beam's affair.
    Raises CorpusError for bad input, TokenizerError, StoreError if `output` holds something else than the beginning of this very store
    (`overwrite` starts afresh), OSError if the disk fails.
    """
    started = time.monotonic()
    if not 0 <= holdout < 1:
        raise CorpusError(f"holdout {holdout} is not a share of documents; it must be at least 0 and less than 1")
    if shard_size < 1:
        raise StoreError(f"shard_size {shard_size} is too small; give the characters of text per shard, for instance 16000000")
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise StoreError(f"workers {workers} is too small; give 1 or more")
    if runner_flags and runner == "local":
        raise StoreError(f"runner_flags {' '.join(runner_flags)} are for Beam; choose a --runner, such as DataflowRunner")
    corpus = Corpus(
        inputs,
        documents=documents,
        text_field=text_field,
        on_error=on_error,
        min_characters=min_characters,
        max_characters=max_characters,
    )
    if corpus.size > _MOST_SHARDS * shard_size:
        enough = -(-corpus.size // (_MOST_SHARDS // 2 * 1_000_000)) * 1_000_000
        raise StoreError(
            f"shard_size {shard_size} gives about {corpus.size // shard_size:,} shards, too many to be memory-mapped in training; "
            f"set --shard-size={enough}"
        )
    tokenizer = tokenizers.load(tokenizer_dir)
    settings = {
        "inputs": [[Path(source.name).name, source.size] for source in corpus.sources],
        "tokenizer": tokenizer.hash,
        "documents": documents,
        "text_field": text_field,
        "on_error": on_error,
        "min_characters": min_characters,
        "max_characters": max_characters,
        "deduplicate": deduplicate,
        "holdout": holdout,
        "language": language,
        "shard_size": shard_size,
        "sentence_splitter": sentences.version(),
    }
    about = {
        "format": manifests.FORMAT,
        "settings": settings,
        "modified_ns": [source.modified_ns for source in corpus.sources],
        "sources": [{"name": source.name, "size": source.size} for source in corpus.sources],
    }
    place = open_output(output)
    pipeline = None
    if runner != "local":
        from data_pipeline.preparation import beam

        pipeline = beam.new_pipeline(runner, runner_flags)
    with begun.locked(place):
        if overwrite:
            begun.remove(place)
        begun.check(place, about)
        if place.size(manifests.MANIFEST) is not None:
            return _summary(place, time.monotonic() - started, new_units=0)
        with begun.writing(place):
            place.write_json(begun.SETTINGS, about)
            with place.scratch() as scratch:
                tokenizer.save(scratch / "tokenizer")
                place.put(scratch, "tokenizer")
        job = Job(corpus, tokenizer.hash, shard_size, UnitSettings(place, holdout, language))
        groups = make_groups(corpus.sources, shard_size)
        if pipeline is None:
            tally = run_local(job, groups, deduplicate, workers, progress)
            finish(job, tally)
            new_units = tally.new_units
        else:
            beam.run(pipeline, job, groups, deduplicate, finish)
            new_units = None  # known to the workers only
    return _summary(place, time.monotonic() - started, new_units)


def finish(job: Job, tally: Tally) -> None:
    """Completes a store of which all units are written: unigram counts, checksums, the manifest. Raises CorpusError if nothing is there."""
    output, read = job.output, tally.read
    about = json.loads(output.read(begun.SETTINGS))
    counts: Counter[str] = Counter()
    for record in tally.records.values():
        counts.update(record["counts"])
    skips, filters = dict(by_reason(read, "skip")), dict(by_reason(read, "filter"))
    if counts["empty"]:
        skips["no token"] = counts["empty"]
    if not tally.records:
        names = ", ".join(source["name"] for source in about["sources"][:3]) + (", ..." if len(about["sources"]) > 3 else "")
        left_out = ", ".join(f"{count} x {reason}" for reason, count in sorted((skips | filters).items()))
        raise CorpusError(f"the corpus holds no document: {names} {f'(left out: {left_out})' if left_out else 'is empty; check --input'}")
    splits = {}
    for split in store.SPLITS:
        shards = [record["shards"][split] for _, record in sorted(tally.records.items()) if split in record["shards"]]
        if shards:
            totals = {name: sum(shard[name] for shard in shards) for name in ("documents", "sentences", "tokens")}
            splits[split] = {"counts": totals, "shards": shards}
    if "train" not in splits:
        output.remove("units")  # with another --holdout nothing of this is wanted
        raise CorpusError(
            f"no document is left for training: {counts['documents']} documents, --holdout={about['settings']['holdout']}. "
            "Give more text, smaller documents (--documents=line), or --holdout=0"
        )
    tokenizer = load_tokenizer(job)
    with output.scratch() as scratch:
        temporary = scratch / "unigram_counts.npy.tmp"
        with open(temporary, "wb") as file:
            np.save(file, tally.unigrams, allow_pickle=False)
        os.replace(temporary, scratch / "unigram_counts.npy")
        tokenizer.save(scratch / "tokenizer")
        names = ["unigram_counts.npy", *(f"tokenizer/{path.name}" for path in sorted((scratch / "tokenizer").iterdir()))]
        files = {name: store.file_record(scratch / name) for name in names}
        for name in names:
            output.put(scratch, name)
    manifest = {
        "tokenizer": {
            "kind": tokenizer.kind,
            "hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "special": tokenizer.special,
            "special_ids": list(tokenizer.special_ids),
        },
        "sources": about["sources"],
        "settings": {name: value for name, value in about["settings"].items() if name not in ("inputs", "tokenizer")},
        "counts": {
            **{name: counts[name] for name in ("documents", "sentences", "tokens", "words", "unknown", "characters")},
            **{name: read[name] for name in ("bytes", "cut", "duplicates")},
            "filters": dict(sorted(filters.items())),
            "skips": dict(sorted(skips.items())),
        },
        "splits": splits,
        "files": files,
    }
    if isinstance(output, LocalOutput):
        for leftover in [*output.directory.glob("*/shard-*.tmp")]:
            shutil.rmtree(leftover)
    output.write_json(manifests.MANIFEST, manifests.complete(manifest))
    output.remove("units")


def _summary(output: Output, seconds: float, new_units: int | None) -> Summary:
    manifest = manifests.parse_manifest(output.read(manifests.MANIFEST), f"{output}/{manifests.MANIFEST}")
    splits = {split: value["counts"]["documents"] for split, value in manifest["splits"].items()}
    units = len({shard["name"].partition("/")[2] for value in manifest["splits"].values() for shard in value["shards"]})
    notes = []
    if "eval" not in splits and manifest["settings"]["holdout"] > 0:
        notes.append(
            f"no document fell to the held-out share, --holdout={manifest['settings']['holdout']}, so the store has no eval split; "
            "for one, raise --holdout, give more text, or smaller documents (--documents=line)"
        )
    if units > _MOST_SHARDS:
        notes.append(f"{units:,} shards may be too many to be memory-mapped; prepare with a larger --shard-size (docs/scale.md)")
    return Summary(str(output), manifest["counts"], splits, notes, seconds, units if new_units is None else new_units, units)
