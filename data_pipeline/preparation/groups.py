"""Groups of sources, what local and Beam runs of `prepare` share. Enters: a corpus. Leaves: its units, and a `Tally` of what was done.

A group is read by one process from its beginning; units never cross its end. So groups can be worked on anywhere, in any order, and
the store's bytes follow from the corpus and the settings alone.
"""

import dataclasses
import itertools
import tempfile
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.preparation.output import LocalOutput, Output
from data_pipeline.preparation.units import Unit, UnitSettings, write_unit
from data_pipeline.sources.corpus import Corpus, Source
from data_pipeline.sources.duplicates import document_hash
from data_pipeline.tokenization import tokenizers

GROUP_UNITS = 8  # the least bytes of a group, in shard sizes: enough that its last, smaller unit does not matter

CHUNK = 500_000  # characters held as text and tokenised at a time, which bounds the memory


@dataclasses.dataclass(frozen=True)
class Job:
    """What every process of a run needs to know. Travels by pickle."""

    corpus: Corpus
    tokenizer_hash: str
    shard_size: int
    settings: UnitSettings

    @property
    def output(self) -> Output:
        return self.settings.output


@dataclasses.dataclass
class Tally:
    """What some units or groups amount to; tallies add up in any order."""

    records: dict[tuple[int, int], dict] = dataclasses.field(default_factory=dict)  # (group, unit) -> record
    read: Counter = dataclasses.field(default_factory=Counter)  # as `Corpus.read` counts, and "duplicates"
    unigrams: np.ndarray | int = 0  # int64 [vocab_size], training split
    new_units: int = 0

    def add(self, other: "Tally") -> None:
        self.records.update(other.records)
        self.read.update(other.read)
        self.unigrams = self.unigrams + other.unigrams
        self.new_units += other.new_units


def make_groups(sources: Sequence[Source], shard_size: int) -> list[list[Source]]:
    """Consecutive sources of together at least GROUP_UNITS x `shard_size` bytes: a function of their sizes alone."""
    groups: list[list[Source]] = [[]]
    size = 0
    for source in sources:
        if size >= GROUP_UNITS * shard_size:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += source.size
    return groups


def cut(documents: Iterable[str], shard_size: int) -> Iterator[tuple[int, Iterator[list[str]]]]:
    """(number, chunks of documents) of each unit: consecutive documents of together at least `shard_size` characters, or the last.

    Exhaust a unit's chunks before the next unit is asked for, as with itertools.groupby.
    """
    for number, chunks in itertools.groupby(_chunks(documents, shard_size), key=lambda numbered: numbered[0]):
        yield number, (chunk for _, chunk in chunks)


def _chunks(documents: Iterable[str], shard_size: int) -> Iterator[tuple[int, list[str]]]:
    number, unit_size = 0, 0
    chunk: list[str] = []
    chunk_size = 0
    for document in documents:
        chunk.append(document)
        chunk_size += len(document)
        if chunk_size >= CHUNK or unit_size + chunk_size >= shard_size:
            yield number, chunk
            unit_size += chunk_size
            chunk, chunk_size = [], 0
            if unit_size >= shard_size:
                number, unit_size = number + 1, 0
    if chunk:
        yield number, chunk


def hash_group(corpus: Corpus, group: int, sources: Sequence[Source]) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """(hash, (group, ordinal)) of every document of a group; the first copy of a document is the one with the least place."""
    for ordinal, document in enumerate(corpus.read(sources, Counter())):
        yield document_hash(document), (group, ordinal)


def one_unit(group: int, number: int, chunks: Iterable[list[str]], job: Job, tokenizer: tokenizers.Tokenizer) -> Tally:
    unit: Unit = write_unit(group, number, chunks, tokenizer, job.settings)
    return Tally({(group, number): unit.record}, Counter(), unit.unigrams, int(unit.is_new))


def whole_group(
    group: int, sources: Sequence[Source], duplicates: Collection[int], job: Job, tokenizer: tokenizers.Tokenizer
) -> Tally:
    """Reads a group and writes its units, without the documents of the ordinals in `duplicates`."""
    tally = Tally()
    for number, chunks in cut(_without(job.corpus.read(sources, tally.read), duplicates, tally.read), job.shard_size):
        tally.add(one_unit(group, number, chunks, job, tokenizer))
    return tally


def _without(documents: Iterable[str], ordinals: Collection[int], counts: Counter) -> Iterator[str]:
    for ordinal, document in enumerate(documents):
        if ordinal in ordinals:
            counts["duplicates"] += 1
        else:
            yield document


_loaded: dict[str, tokenizers.Tokenizer] = {}
_loading = threading.Lock()


def load_tokenizer(job: Job) -> tokenizers.Tokenizer:
    """The tokenizer that lies in the output; loaded once per process."""
    with _loading:
        if job.tokenizer_hash not in _loaded:
            _loaded.clear()
            _loaded[job.tokenizer_hash] = _load_tokenizer(job.output)
        return _loaded[job.tokenizer_hash]


def _load_tokenizer(output: Output) -> tokenizers.Tokenizer:
    if isinstance(output, LocalOutput):
        return tokenizers.load(output.directory / "tokenizer")
    with tempfile.TemporaryDirectory(prefix="bert_jax_tokenizer_") as directory:
        for name in output.names("tokenizer"):
            (Path(directory) / name).write_bytes(output.read(f"tokenizer/{name}"))
        return tokenizers.load(directory)
