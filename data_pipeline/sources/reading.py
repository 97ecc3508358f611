"""What the readers of a corpus share: its sources, how they are read, and where bad documents and progress are reported.

A reader takes a Reading and yields pieces, (number, text): a document is one piece, or, where it is longer than MAX_DOCUMENT, several
pieces of the same number. The readers are text_files.py, tables.py and tfds_shards.py; corpus.py calls them.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator

from data_pipeline.tokenization.sentences import cut

LAYOUTS = ("blank-line", "line", "file")
ON_ERROR = ("fail", "skip")
# A longer document is cut into several at white space, so that no input, be it one line of a gigabyte, exhausts memory.
MAX_DOCUMENT = 1 << 20  # characters; bytes for text files

NUL_FIX = "remove it, or is the file not text?"

Piece = tuple[int, str]


class CorpusError(ValueError):
    """The corpus cannot be read; the message names the file, the place in it and the fix."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A part of a corpus that can be read alone: a file, a shard of a data set, or the embedded corpus."""

    name: str  # as given, without credentials; "embedded" for the embedded corpus
    size: int  # bytes where it is stored, 0 if a server does not tell; for the embedded corpus about its characters
    modified_ns: int = 0  # local: time of modification; remote: a fingerprint of what its listing says (ETag, time)
    kind: str = "text"  # "text", "json", "parquet", "arrow", "tfds" or "embedded"
    address: str = dataclasses.field(default="", repr=False)  # path or URL
    rows: tuple[int, int] = (0, 0)  # of a TFDS shard: from, to


@dataclasses.dataclass(frozen=True)
class Options:
    """How documents are taken from sources. Raises CorpusError for a value that makes no sense."""

    documents: str = "blank-line"  # layout of text files
    text_field: str = "text"  # field, column or feature that holds the text
    on_error: str = "fail"
    min_characters: int = 0
    max_characters: int = 0  # 0: no limit

    def __post_init__(self) -> None:
        if self.documents not in LAYOUTS:
            raise CorpusError(f"documents={self.documents!r} is no layout; known layouts: {', '.join(LAYOUTS)}")
        if self.on_error not in ON_ERROR:
            raise CorpusError(f"on_error={self.on_error!r} is unknown; it is one of {', '.join(ON_ERROR)}")
        if self.min_characters < 0 or self.max_characters < 0 or 0 < self.max_characters < self.min_characters:
            limits = f"min_characters={self.min_characters}, max_characters={self.max_characters}"
            raise CorpusError(f"{limits} leave no document; give 0 <= min_characters <= max_characters, or max_characters=0 for no limit")


class BadInput(Exception):
    """One document, or the rest of a source, is unusable. `place` is where in the source, such as "line 3, byte 21"."""

    def __init__(self, reason: str, place: str, fix: str):
        super().__init__(reason)
        self.reason = reason
        self.place = place
        self.fix = fix


class Reading:
    """One source while it is read. Counts into `counts`: "bytes", "cut", "skip:REASON", "filter:REASON"."""

    def __init__(self, source: Source, options: Options, counts: Counter):
        self.source = source
        self.options = options
        self.counts = counts
        self._before = counts["bytes"]

    def reached(self, position: int) -> None:
        """Notes that the source is read up to this byte."""
        self.counts["bytes"] = self._before + min(position, self.source.size)

    def reject(self, bad: BadInput, documents: int = 1) -> None:
        """Stops with a CorpusError, or counts `documents` as skipped, whichever `on_error` asks for."""
        if self.options.on_error == "fail":
            place = f", {bad.place}" if bad.place else ""
            raise CorpusError(
                f"{self.source.name}{place}: {bad.reason}; {bad.fix}. --on-error=skip leaves such documents out"
            ) from None
        self.counts[f"skip:{bad.reason}"] += documents

    def pieces(self, number: int, text: str) -> Iterable[Piece]:
        """A whole document as pieces: several if it is long, none if it is white space."""
        if not text or text.isspace():
            self.counts["skip:empty text"] += 1
            return ()
        if len(text) <= MAX_DOCUMENT:
            return ((number, text),)
        parts = cut(text, MAX_DOCUMENT)
        self.counts["cut"] += len(parts) - 1
        return [(number, part) for part in parts]

    def row(self, row: int, value: bytes | None, fields: Iterable[str]) -> Iterable[Piece]:
        """A row of a table as pieces. `value` is UTF-8, or None if the row has no text; `fields` are those it could have."""
        if value is None:
            field = self.options.text_field
            fields = list(fields)
            here = "this row has no string in it; " if field in fields else ""
            fix = f"name the field that holds the text with --text-field; {here}there is {', '.join(map(repr, fields[:8])) or 'no field'}"
            self.reject(BadInput(f"no text in field {field!r}", f"row {row}", fix))
            return ()
        try:
            text = value.decode()
        except UnicodeDecodeError as error:
            self.reject(BadInput("broken UTF-8", f"row {row}, byte {error.start} of its text", "repair the row"))
            return ()
        if "\0" in text:
            self.reject(BadInput("NUL byte", f"row {row}, character {text.index(chr(0))} of its text", NUL_FIX))
            return ()
        return self.pieces(row, text)

    def within_limits(self, pieces: Iterable[Piece]) -> Iterator[str]:
        """The pieces of documents of min_characters to max_characters; the others are counted. Holds max_characters at most."""
        shortest, longest = self.options.min_characters, self.options.max_characters
        held: list[str] = []
        number, size = -1, 0
        for piece_number, text in pieces:
            if piece_number != number:
                yield from self._kept(held, size)
                held, number, size = [], piece_number, 0
            size += len(text)
            held.append(text)
            if longest and size > longest:
                held.clear()
            elif not longest and size >= shortest:
                yield from held
                held.clear()
        yield from self._kept(held, size)

    def _kept(self, held: list[str], size: int) -> list[str]:
        """What is still held of a finished document of `size` characters, if it is to be kept; counts it if not."""
        shortest, longest = self.options.min_characters, self.options.max_characters
        if 0 < size < shortest:
            self.counts[f"filter:shorter than {shortest:,} characters"] += 1
            return []
        if longest and size > longest:
            self.counts[f"filter:longer than {longest:,} characters"] += 1
        return held
