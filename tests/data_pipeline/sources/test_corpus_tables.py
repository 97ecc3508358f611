"""Parquet files and Hugging Face data sets on disk."""

import collections
import itertools
import json
import re

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline.sources import embedded
from data_pipeline.sources.corpus import Corpus, CorpusError
from data_pipeline.sources.reading import MAX_DOCUMENT


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return list(itertools.islice(embedded.documents(), 300))


def write_parquet(path, texts, field="text", **options):
    table = pyarrow.table({"id": range(len(texts)), field: texts, "extra": [{"text": "no"}] * len(texts)})
    pyarrow.parquet.write_table(table, path, **{"row_group_size": 70, **options})
    return path


def as_type(texts: list[str], kind: str) -> pyarrow.Array:
    return pyarrow.array(texts).dictionary_encode() if kind == "dictionary" else pyarrow.array(texts, kind)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_parquet_and_arrow_hold_the_same_documents(tmp_path, documents, kind):
    table = pyarrow.table({"id": range(300), "text": as_type(documents, kind)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=70, compression="zstd")
    with pyarrow.ipc.new_stream(tmp_path / "b.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    with pyarrow.ipc.new_file(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        corpus = Corpus(tmp_path / name)
        assert list(corpus) == documents
        assert corpus.progress["bytes"] == corpus.size
    assert list(Corpus(tmp_path)) == documents, "a directory's Parquet files are read, its Arrow files only if asked for"


def test_rows_without_good_text(tmp_path, documents):
    good = documents[:90]
    bad = {
        "broken UTF-8": b"caf\xe9",
        "NUL byte": b"a\0b",
        "no text in field 'body'": None,
        "empty text": b" \n",
    }
    for reason, value in bad.items():
        column = pyarrow.array([text.encode() for text in good[:80]] + [value] + [text.encode() for text in good[80:]], pyarrow.binary())
        text = pyarrow.StringArray.from_buffers(len(column), *column.buffers()[1:], column.buffers()[0])
        table = pyarrow.table({"body": text})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=70)
        with pyarrow.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=70)
        for name in ("a.parquet", "a.arrow"):
            corpus = Corpus(tmp_path / name, text_field="body", on_error="skip")
            assert list(corpus) == good and corpus.skips == {reason: 1}
            if reason != "empty text":
                with pytest.raises(CorpusError, match=f"{name}, row 80.*: {reason}; .*--on-error=skip"):
                    list(Corpus(tmp_path / name, text_field="body"))


def test_a_column_that_is_not_there_or_no_text(tmp_path, documents):
    path = write_parquet(tmp_path / "a.parquet", documents)
    for field, words in [("body", "'id', 'text', 'extra'"), ("id", "holds int64"), ("extra", "holds struct")]:
        with pytest.raises(CorpusError, match=f"a.parquet: no text in field '{field}'.*--text-field.*{words}"):
            list(Corpus(path, text_field=field))
    (tmp_path / "b.txt").write_text("A document.")
    corpus = Corpus(tmp_path, text_field="body", on_error="skip")
    assert list(corpus) == ["A document."] and corpus.skips == {"no text in field 'body'": len(documents)}


@pytest.mark.parametrize("damage", ["cut", "flipped", "no Parquet", "empty"])
def test_damaged_parquet(tmp_path, documents, damage):
    path = write_parquet(tmp_path / "a.parquet", documents, write_page_checksum=True, use_dictionary=False, compression="none")
    whole = path.read_bytes()
    place = whole.index(documents[100].encode()[:20]) if damage == "flipped" else 0
    content = {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:place] + b"#" + whole[place + 1 :],
        "no Parquet": b"plain text " * 100,
        "empty": b"",
    }[damage]
    path.write_bytes(content)
    (tmp_path / "b.txt").write_text("The next file.")
    with pytest.raises(CorpusError, match="a.parquet.*: (no Parquet file, or cut short|Parquet data damaged)"):
        list(Corpus(tmp_path))
    corpus = Corpus(tmp_path, on_error="skip")
    if damage == "flipped":  # costs the row group that it is in, of 70 rows
        assert list(corpus) == documents[:70] + documents[140:] + ["The next file."]
        assert corpus.skips == {"Parquet data damaged": 70}
    else:
        assert list(corpus) == ["The next file."] and corpus.skips == {"no Parquet file, or cut short": 1}


def test_damaged_arrow(tmp_path, documents):
    datasets.Dataset.from_dict({"text": documents}).save_to_disk(tmp_path / "set")
    path = next((tmp_path / "set").glob("*.arrow"))
    whole = path.read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 9, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CorpusError, match=f"{path.name}.*cut short"):
            list(Corpus(f"hf:{tmp_path}/set"))
        corpus = Corpus([f"hf:{tmp_path}/set", "embedded"], on_error="skip")
        read = list(corpus.read(corpus.sources[:1], corpus.progress))
        assert read == documents[: len(read)] and corpus.skips.total() == 1


def test_damage_anywhere_is_an_error_or_other_text(tmp_path, documents):
    """Without checksums damage within the text cannot be told from text; it never ends in a crash or in fewer documents."""
    table = pyarrow.table({"text": documents[:20]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=10)
    with pyarrow.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    for path in (tmp_path / "a.parquet", tmp_path / "a.arrow"):
        whole = path.read_bytes()
        for place in range(0, len(whole), max(len(whole) // 300, 1)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
            corpus = Corpus(path, on_error="skip")
            counts = collections.Counter()
            assert len(list(corpus.read(corpus.sources, counts))) == 20 or any(key.startswith("skip:") for key in counts), place


def test_tables_are_read_in_bounded_memory(tmp_path):
    row = "word " * 200_000  # a megabyte; the file holds 100
    schema = pyarrow.schema({"text": pyarrow.string()})
    # A page, here of two rows, is what Parquet reads at once.
    with pyarrow.parquet.ParquetWriter(tmp_path / "a.parquet", schema, use_dictionary=False, write_batch_size=2) as writer:
        writer.write_table(pyarrow.table({"text": [row + str(number) for number in range(100)]}))  # one row group
    pool = pyarrow.default_memory_pool()
    before = pool.bytes_allocated()
    peak = 0
    lengths = []
    for document in Corpus(tmp_path / "a.parquet"):
        assert len(document) <= MAX_DOCUMENT
        lengths.append(len(document))
        peak = max(peak, pool.bytes_allocated() - before)
    assert sum(lengths) == 100 * len(row) + 190
    assert peak < 24 << 20


def test_hf_splits(tmp_path, documents):
    texts = {"train": documents[:200], "test": documents[200:]}
    whole = datasets.DatasetDict({name: datasets.Dataset.from_dict({"n": range(len(part)), "text": part}) for name, part in texts.items()})
    whole.save_to_disk(tmp_path / "set", num_shards={"train": 3, "test": 1})
    corpus = Corpus(f"hf:{tmp_path}/set:train")
    assert list(corpus) == texts["train"] and len(corpus.sources) == 3
    assert [len(list(corpus.read([source], collections.Counter()))) for source in corpus.sources] == [67, 67, 66]
    assert list(Corpus([f"hf:{tmp_path}/set:test", f"hf:{tmp_path}/set:train"])) == texts["test"] + texts["train"]
    assert list(Corpus(f"hf:{tmp_path}/set/train")) == list(Corpus(f"hf:file://{tmp_path}/set:train")) == texts["train"]
    # Selected and shuffled rows are what is saved.
    whole["train"].shuffle(seed=1).select(range(50)).save_to_disk(tmp_path / "selected")
    assert list(Corpus(f"hf:{tmp_path}/selected")) == whole["train"].shuffle(seed=1)["text"][:50]
    for item, words in [
        (f"hf:{tmp_path}/set", "set: name one of the splits train, test"),
        (f"hf:{tmp_path}/set:valid", "no split 'valid'; name one of the splits train, test"),
        (f"hf:{tmp_path}/selected:valid", "leave ':valid' out"),
        (f"hf:{tmp_path}", "save_to_disk"),
        (str(tmp_path / "set"), f"--input=hf:{tmp_path}/set/"),
    ]:
        with pytest.raises(CorpusError, match=re.escape(words)):
            Corpus(item)
    state = tmp_path / "selected" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../../secret.arrow"}]}))
    with pytest.raises(CorpusError, match="outside"):
        Corpus(f"hf:{tmp_path}/selected")
