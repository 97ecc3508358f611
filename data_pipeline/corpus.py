"""Corpora: text files, JSONL and the embedded corpus -> documents, streamed in bounded memory.

Enters: files, directories, globs, or "embedded". Leaves: an iterator of documents (str), in which a line is a paragraph or a sentence.
Nothing is lost silently: bad input either stops the run with file, line and offset, or is skipped and counted by reason.
"""

import dataclasses
import glob
import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_pipeline import embedded
from data_pipeline.sentences import cut

LAYOUTS = ("blank-line", "line", "file")
ON_ERROR = ("fail", "skip")
# A longer document is cut into several at white space, so that no input, be it one line of a gigabyte, exhausts memory.
MAX_DOCUMENT = 1 << 20  # bytes; characters for JSONL
MAX_JSON_LINE = 16 << 20  # bytes

_JSON_SUFFIXES = {".jsonl", ".json", ".ndjson"}
_TEXT_SUFFIXES = {".txt", ".text"}
_OTHER_COMPRESSION = {".zst", ".bz2", ".xz", ".zip", ".7z", ".lz4"}


class CorpusError(ValueError):
    """The corpus cannot be read; the message names the file, the place in it and the fix."""


@dataclasses.dataclass(frozen=True)
class Source:
    name: str  # as given; "embedded" for the embedded corpus
    size: int  # bytes on disk; for the embedded corpus about its characters
    modified_ns: int = 0


@dataclasses.dataclass
class Corpus:
    """The documents of `inputs`: a path, directory or glob, "embedded", or a list of these. May be iterated again.

    `documents` is the layout of text files: documents parted by blank lines ("blank-line"), one a line ("line") or one a file ("file").
    .jsonl, .json and .ndjson files hold one object a line, with the text under `text_field`. Any file may be gzipped (.gz).
    Raises CorpusError if an input is missing, or, with on_error="fail", at the first bad document; with "skip", `skips` counts them.
    """

    inputs: str | Path | Sequence[str | Path]
    documents: str = "blank-line"
    text_field: str = "text"
    on_error: str = "fail"
    sources: list[Source] = dataclasses.field(init=False)
    skips: Counter = dataclasses.field(init=False, default_factory=Counter)  # reason -> documents left out
    progress: Counter = dataclasses.field(init=False, default_factory=Counter)  # "bytes" read so far, of the sizes in `sources`; "cut"

    def __post_init__(self) -> None:
        if self.documents not in LAYOUTS:
            raise CorpusError(f"documents={self.documents!r} is no layout; known layouts: {', '.join(LAYOUTS)}")
        if self.on_error not in ON_ERROR:
            raise CorpusError(f"on_error={self.on_error!r} is unknown; it is one of {', '.join(ON_ERROR)}")
        inputs = [self.inputs] if isinstance(self.inputs, str | Path) else list(self.inputs)
        names = dict.fromkeys(name for item in inputs for name in _expand(str(item)))
        if not names:
            raise CorpusError("no input was given; name a file, a directory, a glob or `embedded`")
        self.sources = [_source(name) for name in names]

    @property
    def size(self) -> int:
        """Bytes of all sources, the end of progress["bytes"]."""
        return sum(source.size for source in self.sources)

    def __iter__(self) -> Iterator[str]:
        """Raises CorpusError as described above, and if the corpus turns out to hold no document at all."""
        self.skips.clear()
        self.progress.clear()
        found = False
        done = 0
        for source in self.sources:
            if source.name == embedded.NAME:
                reader = embedded.documents()
            else:
                reader = _FileReader(self, source.name, done).documents()
            for document in reader:
                found = True
                if source.name == embedded.NAME:
                    self.progress["bytes"] += len(document)
                yield document
            done = self.progress["bytes"] if source.name == embedded.NAME else done + source.size
            self.progress["bytes"] = done
        if not found:
            skipped = ", ".join(f"{count} x {reason}" for reason, count in sorted(self.skips.items()))
            names = ", ".join(source.name for source in self.sources[:3]) + (", ..." if len(self.sources) > 3 else "")
            why = f"(skipped: {skipped})" if skipped else "is empty; check --input"
            raise CorpusError(f"the corpus holds no document: {names} {why}")


class _BadInput(Exception):
    """One document is unusable."""

    def __init__(self, reason: str, line: int, offset: int, fix: str):
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.offset = offset
        self.fix = fix


class _Line(NamedTuple):
    content: bytes
    number: int
    offset: int  # bytes from the beginning of the (decompressed) file
    whole: bool  # False for a piece of a long line that goes on


class _FileReader:
    """Documents of one file."""

    def __init__(self, corpus: Corpus, name: str, done: int):
        self._corpus = corpus
        self._name = name
        self._done = done  # bytes of the sources before this one
        self._raw: BinaryIO
        self._compressed = name.endswith(".gz")
        self._position = (1, 0)  # line number and offset reached, for errors of the decompressor

    def documents(self) -> Iterator[str]:
        with open(self._name, "rb") as self._raw:
            file = gzip.GzipFile(fileobj=self._raw) if self._compressed else self._raw
            is_json = Path(self._name.removesuffix(".gz")).suffix.lower() in _JSON_SUFFIXES
            chunks = self._json_documents(file) if is_json else self._text_documents(file)
            try:
                for chunk in chunks:
                    try:
                        document = chunk if isinstance(chunk, str) else _decode(chunk)
                    except _BadInput as bad:
                        self._reject(bad)
                        continue
                    yield document
            except (EOFError, gzip.BadGzipFile, zlib.error):
                line, offset = self._position
                self._reject(_BadInput("gzip data cut short or damaged", line, offset, "copy or compress the file again"))

    def _text_documents(self, file: BinaryIO) -> Iterator[list[_Line]]:
        layout = self._corpus.documents
        lines: list[_Line] = []
        size = 0
        for line in self._lines(file, MAX_DOCUMENT):
            blank = not line.content.strip()
            if layout == "blank-line" and blank and line.whole:
                if lines:
                    yield lines
                lines, size = [], 0
                continue
            if size + len(line.content) > MAX_DOCUMENT and lines:
                self._corpus.progress["cut"] += 1
                yield lines
                lines, size = [], 0
            if blank and not lines:
                continue
            lines.append(line)
            size += len(line.content)
            if layout == "line":
                self._corpus.progress["cut"] += not line.whole
                yield lines
                lines, size = [], 0
        if lines:
            yield lines

    def _json_documents(self, file: BinaryIO) -> Iterator[str]:
        too_long = False
        for line in self._lines(file, MAX_JSON_LINE):
            if too_long or not line.whole:
                if not too_long:
                    fix = f"a line may have {MAX_JSON_LINE} bytes: split the document"
                    self._reject(_BadInput("JSON line too long", line.number, line.offset, fix))
                too_long = not line.whole
                continue
            if not line.content.strip():
                continue
            try:
                text = self._json_text(line)
            except _BadInput as bad:
                self._reject(bad)
                continue
            if not text.strip():
                self._corpus.skips["empty text"] += 1
                continue
            pieces = cut(text, MAX_DOCUMENT)
            self._corpus.progress["cut"] += len(pieces) - 1
            yield from pieces

    def _json_text(self, line: _Line) -> str:
        field = self._corpus.text_field
        text = _decode([line])
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = f"every line must hold one JSON object ({error})"
            raise _BadInput("malformed JSON", line.number, line.offset, why) from None
        if not isinstance(value, dict):
            raise _BadInput("malformed JSON", line.number, line.offset, f"the line holds {type(value).__name__} instead of an object")
        if not isinstance(value.get(field), str):
            known = ", ".join(map(repr, list(value)[:8]))
            fix = f"name the field that holds the text with --text-field; the object has {known or 'no field'}"
            raise _BadInput(f"no text in field {field!r}", line.number, line.offset, fix)
        document = value[field]
        if "\0" in document:
            raise _BadInput("NUL byte", line.number, line.offset, "remove it, or is the file not text?")
        if b"\\ud" in line.content.lower():
            try:
                document.encode()
            except UnicodeEncodeError:
                raise _BadInput("broken UTF-8", line.number, line.offset, "an escape \\uD800 to \\uDFFF stands alone; repair it") from None
        return document

    def _lines(self, file: BinaryIO, limit: int) -> Iterator[_Line]:
        """Lines without their ends. A line of more than `limit` bytes comes in pieces, cut after a space or between characters."""
        rest = b""
        number, offset = 1, 0
        while True:
            read = file.readline(limit)
            content = rest + read if rest else read
            if not content:
                break
            whole = len(read) < limit or read.endswith(b"\n")
            rest = b""
            if not whole:
                end = content.rfind(b" ") + 1 or _character_boundary(content)
                content, rest = content[:end], content[end:]
            consumed = len(content)
            if offset == 0:
                content = content.removeprefix(b"\xef\xbb\xbf")
            self._position = (number, offset)
            yield _Line(content.rstrip(b"\r\n") if whole else content, number, offset, whole)
            number += whole
            offset += consumed
            self._corpus.progress["bytes"] = self._done + (self._raw.tell() if self._compressed else offset)

    def _reject(self, bad: _BadInput) -> None:
        if self._corpus.on_error == "fail":
            raise CorpusError(
                f"{self._name}, line {bad.line}, byte {bad.offset}: {bad.reason}; {bad.fix}. --on-error=skip leaves such documents out"
            ) from None
        self._corpus.skips[bad.reason] += 1


def _decode(lines: list[_Line]) -> str:
    """The text of a document; raises _BadInput with the first bad line."""
    raw = b"\n".join([line.content for line in lines])
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        for line in lines:
            try:
                line.content.decode()
            except UnicodeDecodeError as error:
                fix = "convert the file to UTF-8 (`iconv -f latin1 -t utf-8`), or repair it"
                raise _BadInput("broken UTF-8", line.number, line.offset + error.start, fix) from None
        raise
    if "\0" in text:
        line = next(line for line in lines if b"\0" in line.content)
        raise _BadInput("NUL byte", line.number, line.offset + line.content.index(b"\0"), "remove it, or is the file not text?")
    return text


def _character_boundary(content: bytes) -> int:
    """The last place at which UTF-8 text may be cut, leaving at least one byte on both sides."""
    end = len(content) - 1
    while end > len(content) - 4 and content[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _expand(item: str) -> list[str]:
    """The files that an input stands for, sorted."""
    if item == embedded.NAME:
        return [item]
    if os.path.isfile(item):
        return [item]
    if os.path.isdir(item):
        names = [str(path) for path in sorted(Path(item).rglob("*")) if path.is_file() and _is_text(path)]
        if not names:
            suffixes = ", ".join(sorted(_TEXT_SUFFIXES | _JSON_SUFFIXES))
            raise CorpusError(f"directory {item} holds no file ending in {suffixes} (or these with .gz); give a glob for other names")
        return names
    if glob.has_magic(item):
        names = sorted(name for name in glob.glob(item, recursive=True) if os.path.isfile(name))
        if not names:
            raise CorpusError(f"no file matches {item!r}; check the pattern, and quote it so that the shell leaves it alone")
        return names
    raise CorpusError(f"input {item!r} does not exist; give a file, a directory, a glob, or `{embedded.NAME}`")


def _is_text(path: Path) -> bool:
    return Path(path.name.removesuffix(".gz")).suffix.lower() in _TEXT_SUFFIXES | _JSON_SUFFIXES and not path.name.startswith(".")


def _source(name: str) -> Source:
    if name == embedded.NAME:
        return Source(name, embedded.MAX_CHARACTERS)
    if Path(name).suffix.lower() in _OTHER_COMPRESSION:
        raise CorpusError(f"{name}: of compressed files only .gz is read; decompress it, or compress it with gzip")
    status = os.stat(name)
    return Source(name, status.st_size, status.st_mtime_ns)
