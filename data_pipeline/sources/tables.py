"""Reads a column of text from Parquet and Arrow files. Enters: a Reading of such a file. Leaves: pieces of documents; rows count from 0.

Arrow files are what Hugging Face's `datasets` writes; `hf:DIRECTORY[:SPLIT]` names a data set on disk (`save_to_disk`).
"""

import io
import json
from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from data_pipeline.sources import files
from data_pipeline.sources.reading import BadInput, CorpusError, Piece, Reading, Source

_BATCH_BYTES = 4 << 20  # text converted at a time
_MAX_BATCH = 256  # rows; the sizes of a column that Parquet stores as a dictionary say little about its text
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def expand_hf(item: str) -> list[Source]:
    """The Arrow files of `hf:DIRECTORY[:SPLIT]`, a data set written by `save_to_disk`. Raises CorpusError if there is none."""
    directory, split = files.split_address(item.removeprefix("hf:"))
    whole = _read_json(f"{directory}/dataset_dict.json")
    if whole is not None:
        splits = whole.get("splits", [])
        if split not in splits:
            why = f"no split {split!r}; " if split else ""
            raise CorpusError(f"{item}: {why}name one of the splits {', '.join(splits)}, as in hf:{directory}:{splits[0]}")
        directory = f"{directory}/{split}"
    state = _read_json(f"{directory}/state.json")
    if state is None:
        raise CorpusError(f"{item}: {directory} is no data set on disk (no state.json); write one with datasets' `save_to_disk`")
    if whole is None and split not in ("", state.get("_split")):
        raise CorpusError(f"{item}: the data set is the split {state.get('_split')!r}; leave {':' + split!r} out")
    names = [file["filename"] for file in state["_data_files"]]
    if any(PurePosixPath(name).name != name for name in (*names, split or "none")):
        raise CorpusError(f"{item}: state.json names files outside of {directory}; write the data set again with `save_to_disk`")
    return [files.source(f"{directory}/{name}") for name in names]


def parquet_pieces(reading: Reading) -> Iterator[Piece]:
    """Pieces of the documents of a Parquet file: row group after row group, only the text column, a few megabytes at a time."""
    field = reading.options.text_field
    with files.open_raw(reading.source, seekable=True) as raw:
        try:
            file = pyarrow.parquet.ParquetFile(raw, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
            schema = file.schema_arrow
        except (pyarrow.ArrowException, OSError) as error:
            _reject_damage(reading, error, "no Parquet file, or cut short", "", "copy the file again")
            return
        except ValueError as error:  # a server that gives no part of a file
            raise CorpusError(f"{reading.source.name}: {error} Copy the file to a place where it can be read in parts") from error
        total = file.metadata.num_rows
        if not _has_text(reading, schema, total):
            return
        leaf = next(index for index in range(len(file.schema)) if file.schema.column(index).path == field)
        row = 0
        for group in range(file.metadata.num_row_groups):
            metadata = file.metadata.row_group(group)
            end = row + metadata.num_rows
            average = metadata.column(leaf).total_uncompressed_size // max(metadata.num_rows, 1) + 1
            batch_size = min(max(_BATCH_BYTES // average, 1), _MAX_BATCH)
            try:
                batches = file.iter_batches(batch_size, row_groups=[group], columns=[field], use_threads=False)
                for batch in batches:
                    for number, value in enumerate(_values(batch.column(0)), row):
                        yield from reading.row(number, value, schema.names)
                    row += batch.num_rows
                    reading.reached(reading.source.size * row // total)
            except (pyarrow.ArrowException, OSError) as error:
                fix = "the rest of this row group cannot be read: copy or write the file again"
                _reject_damage(reading, error, "Parquet data damaged", f"row {row}", fix, end - row)
            else:
                if row < end:
                    place, fix = f"row {row}", f"the row group should have {end - row} rows more: write the file again"
                    reading.reject(BadInput("Parquet data damaged", place, fix), end - row)
            row = end


def arrow_pieces(reading: Reading) -> Iterator[Piece]:
    """Pieces of the documents of an Arrow file (IPC stream, as `datasets` writes it, or IPC file). Holds one record batch."""
    reason, fix = "Arrow data cut short or damaged", "the rest of the file cannot be read: copy or write it again"
    row = 0
    with files.open_raw(reading.source, seekable=True) as raw:
        try:
            is_file = raw.read(6) == b"ARROW1"
            raw.seek(0)
            file = pyarrow.ipc.open_file(raw) if is_file else pyarrow.ipc.open_stream(raw)
        except (pyarrow.ArrowException, OSError) as error:
            _reject_damage(reading, error, "no Arrow file, or cut short", "", "copy the file again")
            return
        if not _has_text(reading, file.schema, 1):
            return
        column = file.schema.get_field_index(reading.options.text_field)
        batches = (file.get_batch(index) for index in range(file.num_record_batches)) if is_file else file
        try:
            for batch in batches:
                for start in range(0, batch.num_rows, _MAX_BATCH):
                    for number, value in enumerate(_values(batch.column(column).slice(start, _MAX_BATCH)), row + start):
                        yield from reading.row(number, value, file.schema.names)
                row += batch.num_rows
                if not is_file:
                    reading.reached(raw.tell())
            if not is_file:
                raw.seek(-len(_END_OF_STREAM), io.SEEK_END)
                if raw.read() != _END_OF_STREAM:
                    reading.reject(BadInput(reason, f"row {row}", fix))
        except (pyarrow.ArrowException, OSError) as error:
            _reject_damage(reading, error, reason, f"row {row}", fix)


def _reject_damage(reading: Reading, error: Exception, reason: str, place: str, fix: str, documents: int = 1) -> None:
    """Rejects what a damaged file loses; an error of the disk or the network is raised as it is."""
    if not files.is_damage(error):
        raise error
    message = " ".join(str(error).split())[:200]
    reading.reject(BadInput(reason, place, f"{fix} ({message})"), documents)


def _read_json(address: str) -> dict | None:
    """The object in a small JSON file; None if there is no such file."""
    try:
        return json.loads(files.read_bytes(address))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorpusError(f"{address}: malformed JSON ({error}); write the data set again") from None


def _has_text(reading: Reading, schema: pyarrow.Schema, rows: int) -> bool:
    """Whether the column of text is there; if not, all rows are rejected."""
    field = reading.options.text_field
    index = schema.get_field_index(field)
    kind = schema.field(index).type if index >= 0 else None
    if kind is not None and _bytes_type(kind.value_type if pyarrow.types.is_dictionary(kind) else kind):
        return True
    what = f"it holds {kind}" if kind is not None else f"there is {', '.join(map(repr, schema.names[:8])) or 'no column'}"
    fix = f"name the column that holds the text with --text-field; {what}"
    reading.reject(BadInput(f"no text in field {field!r}", "", fix), rows)
    return False


def _bytes_type(kind: pyarrow.DataType) -> pyarrow.DataType | None:
    """The type of the same bytes not taken for text; None for what is not text."""
    for is_kind, bytes_kind in (
        (pyarrow.types.is_string, pyarrow.binary),
        (pyarrow.types.is_large_string, pyarrow.large_binary),
        (pyarrow.types.is_string_view, pyarrow.binary_view),
    ):
        if is_kind(kind):
            return bytes_kind()
    return None


def _values(column: pyarrow.Array) -> list[bytes | None]:
    """The strings as bytes that may be no UTF-8. Raises ArrowInvalid where offsets point out of the data."""
    if pyarrow.types.is_dictionary(column.type):
        dictionary = column.dictionary.cast(_bytes_type(column.type.value_type))
        dictionary.validate(full=True)
        return pyarrow.DictionaryArray.from_arrays(column.indices, dictionary).dictionary_decode().to_pylist()
    values = column.cast(_bytes_type(column.type))
    values.validate(full=True)
    return values.to_pylist()
