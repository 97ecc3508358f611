"""Reads prepared TensorFlow Datasets. Enters: `tfds:NAME/CONFIG:SPLIT`, or a Reading of a shard. Leaves: Sources, one a shard; pieces.

Nothing is ever downloaded: a data set that is not prepared on disk is refused, with the command that prepares it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from data_pipeline.sources import files
from data_pipeline.sources.reading import BadInput, CorpusError, Piece, Reading, Source

if TYPE_CHECKING:
    from tensorflow_datasets.core import DatasetBuilder

_ARRAY_RECORD_BATCH = 64  # records
# wiki40b marks where its articles, sections and paragraphs begin: title, section heading and paragraph each become a line.
_WIKI40B_START = b"\n_START_ARTICLE_\n"
_WIKI40B_MARK = re.compile(rb"\n_START_(?:ARTICLE|SECTION|PARAGRAPH)_\n|_NEWLINE_")


def open_builder(item: str) -> tuple["DatasetBuilder", str, str]:
    """The data set of `tfds:NAME[/CONFIG][:VERSION]:SPLIT` or `tfds:DIRECTORY:SPLIT`; NAME or DIRECTORY; SPLIT as given, perhaps empty.

    Raises CorpusError if the data set is not on disk, ImportError without tensorflow-datasets.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import read_only_builder
    except ImportError as error:
        raise ImportError(f"{item} needs tensorflow-datasets ({error}): pip install 'bert-jax[data]'") from error
    name, split = files.split_address(item.removeprefix("tfds:"))
    try:
        if name and tf.io.gfile.exists(os.path.join(os.path.expanduser(name), "dataset_info.json")):
            builder = tfds.builder_from_directory(os.path.expanduser(name))
        elif "/" in name and name.startswith(("/", ".", "~")) or "://" in name:
            raise CorpusError(f"{item}: {name} holds no prepared data set (no dataset_info.json); name the directory of its version")
        else:
            builder = read_only_builder.builder_from_files(name)
    except tfds.core.DatasetNotFoundError:
        where = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
        fix = f"`tfds build {name}` downloads and prepares it; TFDS_DATA_DIR or tfds:DIRECTORY:SPLIT name another place"
        raise CorpusError(f"{item}: no data set {name} is prepared in {where}; {fix}") from None
    except ValueError as error:  # a malformed name, several directories of one data set
        why = str(error).strip().partition("\n")[0][:200]
        fix = "give tfds:NAME[/CONFIG][:VERSION]:SPLIT, or tfds:DIRECTORY:SPLIT with the directory in which dataset_info.json lies"
        raise CorpusError(f"{item}: {why.removesuffix('.')}; {fix}") from None
    return builder, name, split


def expand(item: str) -> list[Source]:
    """The shards of `tfds:NAME[/CONFIG][:VERSION]:SPLIT` or `tfds:DIRECTORY:SPLIT`. SPLIT may be sliced, as in train[:10%].

    Raises CorpusError if the data set is not on disk or has no such split, ImportError without tensorflow-datasets.
    """
    builder, name, split = open_builder(item)
    import tensorflow as tf

    known = ", ".join(sorted(builder.info.splits))
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError, AssertionError) as error:
        why = f"no split {split!r} ({' '.join(str(error).split())}); " if split else ""
        raise CorpusError(f"{item}: {why}name one of the splits {known}, or a slice as in tfds:{name}:train[:10%]") from None
    sources = []
    for instruction in instructions:
        address = os.fspath(instruction.filename)
        if not ("tfrecord" in os.path.basename(address) or "array_record" in os.path.basename(address)):
            raise CorpusError(f"{item}: {address} is neither tfrecord nor array_record; prepare the data set in one of these formats")
        status = tf.io.gfile.stat(address)
        first, last = instruction.skip, instruction.skip + instruction.take
        sliced = "" if last - first == instruction.examples_in_shard else f"[{first}:{last}]"
        size = status.length * instruction.take // instruction.examples_in_shard
        sources.append(Source(address + sliced, size, status.mtime_nsec, "tfds", address, (first, last)))
    return sources


def pieces(reading: Reading) -> Iterator[Piece]:
    """Pieces of the documents of one shard; rows count from 0 in the shard."""
    import google.protobuf.message
    import tensorflow as tf

    first, last = reading.source.rows
    row = first
    why = "records are missing"
    try:
        for record in records(reading.source):
            try:
                features = tf.train.Example.FromString(record).features.feature
            except google.protobuf.message.DecodeError as error:
                fix = f"it is no tf.train.Example ({error}): prepare the data set again"
                reading.reject(BadInput("malformed record", f"row {row}", fix))
            else:
                text = _text(features, reading.options.text_field)
                yield from reading.row(row, text, sorted(features) if text is None else ())
            row += 1
            reading.reached(reading.source.size * (row - first) // (last - first))
    except ShardDamaged as error:
        why = str(error)
    if row < last:
        fix = f"{last - row} records cannot be read: copy the shard or prepare the data set again ({why})"
        reading.reject(BadInput("TFDS shard cut short or damaged", f"row {row}", fix), last - row)


class ShardDamaged(Exception):
    pass


def records(source: Source) -> Iterator[bytes]:
    """The serialised records of the source's rows; raises ShardDamaged after the last good one."""
    import tensorflow as tf

    first, last = source.rows
    if "array_record" not in os.path.basename(source.address):
        try:
            yield from tf.data.TFRecordDataset(source.address).skip(first).take(last - first).as_numpy_iterator()
        except tf.errors.DataLossError as error:
            raise ShardDamaged(error.message) from error
        except tf.errors.OpError as error:
            raise OSError(f"{source.address}: {error.message}") from error
        return
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(source.address)
        reader.seek(first)
        for start in range(first, last, _ARRAY_RECORD_BATCH):
            yield from reader.read(list(range(start, min(start + _ARRAY_RECORD_BATCH, last))))
    except (RuntimeError, ValueError, IndexError) as error:
        raise ShardDamaged(str(error)) from error


def _text(features: Mapping, field: str) -> bytes | None:
    """The feature's only string, None if it is missing or has none."""
    values = features[field].bytes_list.value if field in features else ()
    if len(values) != 1:
        return None
    value = values[0]
    return _WIKI40B_MARK.sub(b"\n", value).strip(b"\n") if value.startswith(_WIKI40B_START) else value
