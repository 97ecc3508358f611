"""Corpora: files, data sets on disk and the embedded corpus -> documents, streamed in bounded memory.

Enters: what files.py, tables.py and tfds_shards.py find under the inputs' names. Leaves: an iterator of documents (str), in which a line is
a paragraph or a sentence. Nothing is lost silently: bad input either stops the run with file, place and fix, or is counted by reason.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_pipeline.sources import embedded, files, text_files
from data_pipeline.sources.reading import CorpusError, Options, Piece, Reading, Source

__all__ = ["Corpus", "CorpusError", "Source", "by_reason"]


@dataclasses.dataclass
class Corpus:
    """The documents of `inputs`: one or a list of what follows. May be iterated again, and sent to another process.

    A file, directory, glob, or URL that fsspec knows: text, JSON lines (also .gz and .zst), Parquet or Arrow; "tfds:NAME:SPLIT",
    "hf:DIRECTORY:SPLIT" or "embedded". `documents` is the layout of text files: documents parted by blank lines ("blank-line"), one a line
    ("line") or one a file ("file"). `text_field` is the JSON field, column or feature with the text. Documents of less than min_characters
    or more than max_characters (0: no limit) are left out and counted; a document of more than MAX_DOCUMENT is cut into several.
    Raises CorpusError if an input is missing, or, with on_error="fail", at the first bad document; with "skip", `skips` counts them.
    """

    inputs: str | Path | Sequence[str | Path]
    documents: str = "blank-line"
    text_field: str = "text"
    on_error: str = "fail"
    min_characters: int = 0
    max_characters: int = 0
    sources: list[Source] = dataclasses.field(init=False)
    progress: Counter = dataclasses.field(init=False, default_factory=Counter)  # the counts of `read` for the present or last iteration

    def __post_init__(self) -> None:
        self._options = Options(self.documents, self.text_field, self.on_error, self.min_characters, self.max_characters)
        inputs = [self.inputs] if isinstance(self.inputs, str | Path) else list(self.inputs)
        self.sources = list({(source.address, source.rows): source for item in inputs for source in _expand(str(item))}.values())
        if not self.sources:
            raise CorpusError("no input was given; name a file, a directory, a glob or `embedded`")

    @property
    def size(self) -> int:
        """Bytes of all sources, the end of progress["bytes"]."""
        return sum(source.size for source in self.sources)

    @property
    def skips(self) -> Counter:
        """Reason -> documents left out because they are unusable."""
        return by_reason(self.progress, "skip")

    @property
    def filtered(self) -> Counter:
        """Reason -> documents left out because of their length."""
        return by_reason(self.progress, "filter")

    def __iter__(self) -> Iterator[str]:
        """Raises CorpusError as described above, and if the corpus turns out to hold no document at all."""
        self.progress.clear()
        yield from self.read(self.sources, self.progress)
        if not self.progress["documents"]:
            left_out = [f"{count:,} x {reason}" for reason, count in sorted((self.skips + self.filtered).items())]
            names = ", ".join(source.name for source in self.sources[:3]) + (", ..." if len(self.sources) > 3 else "")
            why = f"(left out: {', '.join(left_out)})" if left_out else "is empty; check --input"
            raise CorpusError(f"the corpus holds no document: {names} {why}")

    def read(self, sources: Sequence[Source], counts: Counter) -> Iterator[str]:
        """The documents of these sources in order; keeps no state, so that processes may share the sources among them.

        Adds to `counts`: "documents" given, "bytes" read of the sources' sizes, "cut" (how often a document was cut), "skip:REASON" and
        "filter:REASON" (documents left out). Raises CorpusError at a bad document with on_error="fail".
        """
        limited = self.min_characters or self.max_characters
        for source in sources:
            reading = Reading(source, self._options, counts)
            pieces = _pieces(reading)
            for document in reading.within_limits(pieces) if limited else (text for _, text in pieces):
                counts["documents"] += 1
                yield document
            reading.reached(source.size)


def by_reason(counts: Counter, kind: str) -> Counter:
    """What `counts` says of "skip" or "filter": reason -> documents."""
    return Counter({key.removeprefix(f"{kind}:"): count for key, count in counts.items() if key.startswith(f"{kind}:")})


def _embedded_pieces(reading: Reading) -> Iterator[Piece]:
    position = 0
    for number, document in enumerate(embedded.documents()):
        position += len(document)
        reading.reached(position)
        yield number, document


# What reads tables needs libraries that are slow to import, and that text does without.
def _pieces(reading: Reading) -> Iterator[Piece]:
    kind = reading.source.kind
    if kind == "embedded":
        return _embedded_pieces(reading)
    if kind in ("text", "json"):
        return text_files.pieces(reading)
    if kind == "tfds":
        from data_pipeline.sources import tfds_shards

        return tfds_shards.pieces(reading)
    from data_pipeline.sources import tables

    return tables.parquet_pieces(reading) if kind == "parquet" else tables.arrow_pieces(reading)


def _expand(item: str) -> Iterable[Source]:
    """The sources that an input stands for, sorted."""
    if item == embedded.NAME:
        return [Source(item, embedded.MAX_CHARACTERS, kind="embedded", address=item)]
    if item.startswith("tfds:"):
        from data_pipeline.sources import tfds_shards

        return tfds_shards.expand(item)
    if item.startswith("hf:") and not item.startswith("hf://"):
        from data_pipeline.sources import tables

        return tables.expand_hf(item)
    return files.expand(item)
