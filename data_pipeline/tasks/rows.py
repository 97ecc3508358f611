"""Reads a task's files row by row: CSV, TSV, JSON lines, CoNLL, SQuAD, Parquet, Arrow.

Enters: a path, glob or URL, and the `TaskData`. Leaves: pairs of a place ("FILE, line 7") and a row, a dict of the columns wanted to what
the file has there: text in CSV and TSV, JSON's values in the others. Texts may be compressed (.gz, .zst).
"""

import csv
import glob
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from data_pipeline.sources import files
from data_pipeline.sources.reading import BadInput, Source
from data_pipeline.tasks.task_data import TaskData, TaskDataError

Row = tuple[str, Mapping[str, Any]]

FORMAT_OF_SUFFIX = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "squad", ".conll": "conll", ".bio": "conll",
    ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
_DOCUMENT_START = "-DOCSTART-"
_MAX_FIELD = 1 << 24  # characters; a quotation mark that is never closed would else take the whole file
_BATCH_ROWS = 1024  # of Parquet and Arrow


def read(path: str, task: TaskData) -> Iterator[Row]:
    """The rows of all files that `path` names, in sorted order. Raises TaskDataError for a bad row, CorpusError if a glob finds no file."""
    for source in _sources(path):
        yield from _READERS[_format(source, task)](source, task)


def _sources(path: str) -> list[Source]:
    if os.path.isfile(path):
        return [files.source(path)]
    if "://" in path or glob.has_magic(path):
        return files.expand(path)
    raise TaskDataError(f"{path!r} is not a file; give a file, a glob, or tfds:NAME:SPLIT")


def _format(source: Source, task: TaskData) -> str:
    if task.format != "auto":
        return task.format
    name = PurePosixPath(source.name.removesuffix(files.compression(source.name) or ""))
    format = FORMAT_OF_SUFFIX.get(name.suffix.lower())
    if task.kind == "tokens" and (format in (None, "tsv") or name.suffix == ".txt"):
        return "conll"
    if format == "squad" and task.kind != "span":
        return "jsonl"
    if format is None:
        known = ", ".join(FORMAT_OF_SUFFIX)
        raise TaskDataError(
            f"{source.name}: its name does not tell its format (known endings: {known}); set format to csv, tsv, jsonl, conll, ..."
        )
    return format


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    """Numbers from 1, and lines without their ends."""
    try:
        with files.open_raw(source) as raw:
            for number, line in enumerate(files.decompressed(raw, files.compression(source.name)), 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise TaskDataError(f"{source.name}, line {number}, byte {error.start}: not UTF-8; convert the file") from None
                yield number, text.removesuffix("\n").removesuffix("\r")
    except BadInput as bad:
        raise TaskDataError(f"{source.name}: {bad.reason}; {bad.fix}") from None
    except files.DAMAGE as error:
        if files.is_damage(error):
            raise TaskDataError(f"{source.name}: cut short or damaged ({error}); copy it again") from None
        raise


def _tsv_records(source: Source) -> Iterator[tuple[int, list[str]]]:
    """As GLUE's files are written: quotation marks are characters like others."""
    for number, line in _lines(source):
        if line:
            yield number, line.split("\t")


def _csv_records(source: Source) -> Iterator[tuple[int, list[str]]]:
    """RFC 4180: a quoted cell may hold commas, line ends, and quotation marks, doubled. Numbered by a record's first line."""
    first, current = 1, 0

    def lines() -> Iterator[str]:
        nonlocal current
        for current, line in _lines(source):
            yield line + "\n"

    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    records = csv.reader(lines(), strict=True)
    try:
        for record in records:
            if record:
                yield first, record
            first = current + 1
    except csv.Error as error:
        fix = "a quotation mark within a quoted cell is doubled, and the cell's last one stands before a comma or the line's end"
        raise TaskDataError(f"{source.name}, line {first}: broken CSV ({error}); {fix}") from None


def _table(source: Source, records: Iterable[tuple[int, list[str]]], task: TaskData) -> Iterator[Row]:
    records = iter(records)
    place, names = f"{source.name}, line 1", ""
    if task.has_header:
        _, header = next(records, (1, []))
        indices = {column: header.index(column) for column in task.columns if column in header}
        width, names = len(header), f" ({', '.join(header[:12])})"
        if len(set(header)) < len(header):
            raise TaskDataError(f"{place}: the header names a column twice{names}")
        missing = [column for column in task.columns if column not in indices]
    else:
        first = next(records, None)
        if first is None:
            return
        width, records = len(first[1]), itertools.chain([first], records)
        indices = {column: _column_number(column, width) for column in task.columns}
        missing = [column for column, index in indices.items() if index is None]
    if missing:
        there = (
            f"the header has{names}" if task.has_header else f"it has {width} columns and no header, so give a number from 0 to {width - 1}"
        )
        raise TaskDataError(f"{place}: no column {missing[0]!r}; {there}")
    for number, record in records:
        if len(record) != width:
            raise TaskDataError(f"{source.name}, line {number}: {len(record)} columns where the first line has {width}{names}")
        yield f"{source.name}, line {number}", {column: record[index] for column, index in indices.items()}


def _column_number(name: str, width: int) -> int | None:
    """A column's index; None if the name is no number of a column."""
    if not name.removeprefix("-").isdecimal() or not -width <= int(name) < width:
        return None
    return int(name) % width


def _json_rows(source: Source, task: TaskData) -> Iterator[Row]:
    for number, line in _lines(source):
        place = f"{source.name}, line {number}"
        if not line.strip():
            continue
        yield place, _picked(place, _parsed(place, line), task)


def _parsed(place: str, text: str) -> dict:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskDataError(f"{place}: broken JSON ({error})") from None
    if not isinstance(content, dict):
        raise TaskDataError(f'{place}: JSON, but no object such as {{"text": ...}}')
    return content


def _picked(place: str, row: Mapping[str, Any], task: TaskData) -> dict[str, Any]:
    for column in task.columns:
        if column not in row:
            raise TaskDataError(f"{place}: no column {column!r}; there is {', '.join(map(repr, list(row)[:12])) or 'none'}")
    return {column: row[column] for column in task.columns}


def _conll_rows(source: Source, task: TaskData) -> Iterator[Row]:
    """A sentence each, placed by its first line. Columns are parted by tabs, or, where a line has none, by white space."""
    wanted = {task.tokens: "0" if task.tokens == "tokens" else task.tokens}
    if task.tags is not None:
        wanted[task.tags] = "-1" if task.tags == "tags" else task.tags
    lists: dict[str, list[str]] = {column: [] for column in wanted}
    width = first = 0
    for number, line in itertools.chain(_lines(source), [(0, "")]):
        if not line.strip() or line.startswith(_DOCUMENT_START):
            if lists[task.tokens]:
                yield f"{source.name}, line {first}", lists
                lists = {column: [] for column in wanted}
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        width = width or len(cells)
        if len(cells) != width:
            raise TaskDataError(f"{source.name}, line {number}: {len(cells)} columns where the lines before have {width}")
        if not lists[task.tokens]:
            first = number
        for column, name in wanted.items():
            index = _column_number(name, width)
            if index is None:
                raise TaskDataError(f"{source.name}, line {number}: no column {name!r}; give a number from 0 to {width - 1}, or from -1 on")
            lists[column].append(cells[index])


def _squad_rows(source: Source, task: TaskData) -> Iterator[Row]:
    """SQuAD 1.1 and 2.0; placed by the question's id."""
    try:
        text = "\n".join(line for _, line in _lines(source))
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, TaskDataError):
            raise
        raise TaskDataError(f"{source.name}: broken JSON ({error})") from None
    place = source.name
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    place = f"{source.name}, question {question['id']}"
                    row = {task.text: question["question"], task.text_pair: paragraph["context"]}
                    if task.id is not None:
                        row[task.id] = question["id"]
                    if task.label is not None:
                        answers = question["answers"]
                        if question.get("is_impossible") and answers:
                            raise TaskDataError(f"{place}: it is_impossible, but has answers")
                        row[task.label] = {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}
                    yield place, row
    except (KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise TaskDataError(f"{place}: not as SQuAD's files are ({what}); for a JSON object a line set format to jsonl") from None


def _parquet_rows(source: Source, task: TaskData) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with files.open_raw(source, seekable=True) as raw:
            file = pyarrow.parquet.ParquetFile(raw, page_checksum_verification=True)
            yield from _arrow_batches(
                source, file.schema_arrow.names, file.iter_batches(_BATCH_ROWS, columns=task.columns, use_threads=False), task
            )
    except pyarrow.ArrowException as error:
        raise TaskDataError(f"{source.name}: no Parquet file, or a damaged one ({error})") from None


def _arrow_rows(source: Source, task: TaskData) -> Iterator[Row]:
    import pyarrow
    import pyarrow.ipc

    try:
        with files.open_raw(source, seekable=True) as raw:
            is_file = raw.read(6) == b"ARROW1"
            raw.seek(0)
            reader = pyarrow.ipc.open_file(raw) if is_file else pyarrow.ipc.open_stream(raw)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            yield from _arrow_batches(source, reader.schema.names, batches, task)
    except pyarrow.ArrowException as error:
        raise TaskDataError(f"{source.name}: no Arrow file, or a damaged one ({error})") from None


def _arrow_batches(source: Source, names: list[str], batches: Iterable, task: TaskData) -> Iterator[Row]:
    _picked(source.name, dict.fromkeys(names), task)
    number = 0
    for batch in batches:
        for row in batch.select(task.columns).to_pylist():
            yield f"{source.name}, row {number}", row
            number += 1


_READERS = {
    "csv": lambda source, task: _table(source, _csv_records(source), task),
    "tsv": lambda source, task: _table(source, _tsv_records(source), task),
    "jsonl": _json_rows,
    "conll": _conll_rows,
    "squad": _squad_rows,
    "parquet": _parquet_rows,
    "arrow": _arrow_rows,
}
