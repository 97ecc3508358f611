"""Reads text files and JSON lines, plain or compressed. Enters: a Reading of such a file. Leaves: pieces of documents."""

import codecs
import json
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from data_pipeline.sources import files
from data_pipeline.sources.reading import MAX_DOCUMENT, NUL_FIX, BadInput, Piece, Reading

MAX_JSON_LINE = 16 << 20  # bytes

_JSON_KINDS = {int: "a number", float: "a number", bool: "true or false", type(None): "null", list: "an array", dict: "an object"}
_PROGRESS = 1 << 16  # bytes between two reports of progress


class _Line(NamedTuple):
    content: bytes
    number: int
    offset: int  # bytes from the beginning of the (decompressed) file
    whole: bool  # False for a piece of a long line that goes on


class _FileReader:
    def __init__(self, reading: Reading):
        self._reading = reading
        self._raw: BinaryIO
        self._compression = files.compression(reading.source.name)
        self._position = (1, 0)  # line number and offset reached, for errors of the decompressor

    def pieces(self) -> Iterator[Piece]:
        is_json = self._reading.source.kind == "json"
        with files.open_raw(self._reading.source) as self._raw:
            try:
                file = files.decompressed(self._raw, self._compression)
                yield from self._json_pieces(file) if is_json else self._text_pieces(file)
            except BadInput as bad:
                self._reading.reject(bad)
            except files.DAMAGE as error:
                if not files.is_damage(error):
                    raise
                line, offset = self._position
                fix = "copy or compress the file again"
                self._reject(f"{files.CODECS[self._compression]} data cut short or damaged", line, offset, fix)

    def _text_pieces(self, file: BinaryIO) -> Iterator[Piece]:
        for number, lines in self._text_documents(file):
            try:
                text = _decode(lines)
            except BadInput as bad:
                self._reading.reject(bad)
                continue
            yield number, text

    def _text_documents(self, file: BinaryIO) -> Iterator[tuple[int, list[_Line]]]:
        layout = self._reading.options.documents
        lines: list[_Line] = []
        number = size = 0
        for line in self._lines(file, MAX_DOCUMENT):
            blank = not line.content.strip()
            if layout == "blank-line" and blank and line.whole:
                if lines:
                    yield number, lines
                    lines, size = [], 0
                number += 1
                continue
            if size + len(line.content) > MAX_DOCUMENT and lines:
                self._reading.counts["cut"] += 1
                yield number, lines
                lines, size = [], 0
            if blank and not lines:
                continue
            lines.append(line)
            size += len(line.content)
            if layout == "line":
                self._reading.counts["cut"] += not line.whole
                yield line.number, lines
                lines, size = [], 0
        if lines:
            yield number, lines

    def _json_pieces(self, file: BinaryIO) -> Iterator[Piece]:
        too_long = False
        for line in self._lines(file, MAX_JSON_LINE):
            if too_long or not line.whole:
                if not too_long:
                    fix = f"a line may have {MAX_JSON_LINE} bytes: split the document"
                    self._reject("JSON line too long", line.number, line.offset, fix)
                too_long = not line.whole
                continue
            if not line.content.strip():
                continue
            try:
                text = self._json_text(line)
            except BadInput as bad:
                self._reading.reject(bad)
                continue
            yield from self._reading.pieces(line.number, text)

    def _json_text(self, line: _Line) -> str:
        field = self._reading.options.text_field
        text = _decode([line])
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _bad("malformed JSON", line.number, line.offset, f"every line must hold one JSON object ({error})") from None
        if not isinstance(value, dict):
            raise _bad("malformed JSON", line.number, line.offset, f"the line holds {type(value).__name__} instead of an object")
        if not isinstance(value.get(field), str):
            if field in value:
                has = f"it holds {_JSON_KINDS[type(value[field])]} instead of a string"
            else:
                has = f"the object has {', '.join(map(repr, list(value)[:8])) or 'no field'}"
            fix = f"name the field that holds the text with --text-field; {has}"
            raise _bad(f"no text in field {field!r}", line.number, line.offset, fix)
        document = value[field]
        if "\0" in document:
            raise _bad("NUL byte", line.number, line.offset, NUL_FIX)
        if b"\\ud" in line.content.lower():
            try:
                document.encode()
            except UnicodeEncodeError:
                raise _bad("broken UTF-8", line.number, line.offset, "an escape \\uD800 to \\uDFFF stands alone; repair it") from None
        return document

    def _lines(self, file: BinaryIO, limit: int) -> Iterator[_Line]:
        """Lines without their ends. A line of more than `limit` bytes comes in pieces, cut after a space or between characters."""
        rest = b""
        number, offset, reported = 1, 0, 0
        while True:
            self._position = (number, offset)
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
            yield _Line(content.rstrip(b"\r\n") if whole else content, number, offset, whole)
            number += whole
            offset += consumed
            if offset - reported >= _PROGRESS:
                reported = offset
                self._reading.reached(self._raw.tell() if self._compression else offset)

    def _reject(self, reason: str, line: int, offset: int, fix: str) -> None:
        self._reading.reject(_bad(reason, line, offset, fix))


def pieces(reading: Reading) -> Iterator[Piece]:
    """Pieces of the documents of one file, in the layout of reading.options (text) or one document a line (JSON)."""
    return _FileReader(reading).pieces()


def _bad(reason: str, line: int, offset: int, fix: str) -> BadInput:
    return BadInput(reason, f"line {line}, byte {offset}", fix)


def _decode(lines: list[_Line]) -> str:
    """The text of a document; raises BadInput with the first bad line."""
    raw = b"\n".join([line.content for line in lines])
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        for line in lines:
            try:
                line.content.decode()
            except UnicodeDecodeError as error:
                fix = _how_to_make_it_text(line)
                raise _bad("broken UTF-8", line.number, line.offset + error.start, fix) from None
        raise
    if "\0" in text:
        line = next(line for line in lines if b"\0" in line.content)
        raise _bad("NUL byte", line.number, line.offset + line.content.index(b"\0"), NUL_FIX)
    return text


def _how_to_make_it_text(line: _Line) -> str:
    """The fix for a line that is no UTF-8; a file's first line may tell what it is instead."""
    if line.offset == 0 and line.content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is UTF-16: convert it to UTF-8 (`iconv -f utf-16 -t utf-8`)"
    kind = files.content_kind(line.content) if line.offset == 0 else None
    if kind:
        return f"the file holds {kind} data: name it so, or decompress it"
    return "convert the file to UTF-8 (`iconv -f latin1 -t utf-8`), or repair it"


def _character_boundary(content: bytes) -> int:
    """The last place at which UTF-8 text may be cut, leaving at least one byte on both sides."""
    end = len(content) - 1
    while end > len(content) - 4 and content[end] & 0xC0 == 0x80:
        end -= 1
    return end
