"""TensorFlow Datasets prepared on disk."""

import collections
import itertools
import pickle
import re
import socket
import subprocess
import sys

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipeline.sources import embedded
from data_pipeline.sources.corpus import Corpus, CorpusError

FORMATS = ("tfrecord", "array_record")


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return list(itertools.islice(embedded.documents(), 100))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, documents):
    """data_dir: prose/FORMAT in three shards of the train split and one of test, and wiki40b with its marks."""
    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "title": tfds.features.Text(), "number": tf.int64})
    splits = {"train": documents[:80], "test": documents[80:]}
    marked = [f"\n_START_ARTICLE_\nTitle {number}\n_START_SECTION_\nHistory\n_START_PARAGRAPH_\nOne._NEWLINE_Two." for number in range(4)]
    sets = [("prose", file_format, splits) for file_format in FORMATS] + [("wiki40b", "en", {"train": marked})]
    for name, config, texts in sets:
        rows = {
            split: [(number, {"text": text, "title": f"Title of {number}", "number": number}) for number, text in enumerate(part)]
            for split, part in texts.items()
        }
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name, config=config, version="1.0.0", data_dir=data_dir, features=features, split_datasets=rows,
            file_format=config if config in FORMATS else None, disable_shuffling=True,
            download_config=tfds.download.DownloadConfig(num_shards=3 if name == "prose" else 1, try_download_gcs=False),
        )  # fmt: skip
    return data_dir


@pytest.fixture(autouse=True)
def where(prepared, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(prepared))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_prepared_split_is_read_shard_by_shard(prepared, documents, file_format):
    corpus = Corpus(f"tfds:prose/{file_format}:train")
    assert list(corpus) == documents[:80] and len(corpus.sources) == 3
    assert corpus.progress["bytes"] == corpus.size > 10_000
    again = pickle.loads(pickle.dumps(corpus))
    parts = [list(again.read([source], collections.Counter())) for source in corpus.sources]
    assert all(parts) and [text for part in parts for text in part] == documents[:80]
    assert list(Corpus(f"tfds:prose/{file_format}:1.0.0:test")) == documents[80:]
    assert list(Corpus(f"tfds:{prepared}/prose/{file_format}/1.0.0:test")) == documents[80:]
    assert list(Corpus(f"tfds:prose/{file_format}:train", text_field="title"))[-1] == "Title of 79"


@pytest.mark.parametrize("file_format", FORMATS)
def test_slices(documents, file_format):
    name = f"tfds:prose/{file_format}"
    assert list(Corpus(f"{name}:train[:10%]")) == documents[:8]
    assert list(Corpus([f"{name}:train[:50]", f"{name}:train[50:]"])) == documents[:80]
    corpus = Corpus(f"{name}:train[40:60]+test")
    assert list(corpus) == documents[40:60] + documents[80:]
    assert corpus.progress["bytes"] == corpus.size
    assert len({source.name for source in Corpus([f"{name}:train[:50]", f"{name}:train[50:]"]).sources}) == 4


def test_wiki40b_becomes_plain_paragraphs():
    assert list(Corpus("tfds:wiki40b/en:train")) == [f"Title {number}\nHistory\nOne.\nTwo." for number in range(4)]


def test_what_is_not_on_disk_is_not_fetched(prepared):
    for item, words in [
        ("tfds:lm1b:train", "`tfds build lm1b` downloads and prepares it"),
        ("tfds:wikipedia/20230601.en:train", "`tfds build wikipedia/20230601.en`"),
        ("tfds:no_such_set:train", "no data set no_such_set is prepared"),
        (f"tfds:{prepared}/prose:train", "no prepared data set"),
        ("tfds:prose/tfrecord", "name one of the splits test, train"),
        ("tfds:prose/tfrecord:valid", "no split 'valid'"),
        ("tfds:prose/tfrecord:train[x:5%]", "no split 'train[x:5%]'"),
        ("tfds:prose/tf record:train", "builder name"),
        ("tfds:nodir/x/1.0.0:train", "tfds:DIRECTORY:SPLIT with the directory in which dataset_info.json lies"),
        ("tfds:", "tfds:"),
        (str(prepared / "wiki40b"), f"--input=tfds:{prepared}/wiki40b/en/1.0.0:SPLIT"),
    ]:
        with pytest.raises(CorpusError, match=re.escape(words)) as error:
            Corpus(item)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_feature_without_text(file_format):
    for field in ("body", "number"):
        words = f"00000-of-00003, row 0: no text in field '{field}'.*--text-field.*'number', 'text', 'title'"
        with pytest.raises(CorpusError, match=words):
            list(Corpus(f"tfds:prose/{file_format}:train", text_field=field))


@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_shards(tmp_path, prepared, documents, file_format):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (prepared / "prose" / file_format / "1.0.0").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    corpus = Corpus(f"tfds:{copy}:train", on_error="skip")
    first, second, third = ([*corpus.read([source], collections.Counter())] for source in corpus.sources)
    path = copy / corpus.sources[1].address.rpartition("/")[2]
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content in (b"", whole[:middle], whole[:-1], whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]):
        path.write_bytes(content)
        read = list(corpus)
        assert read[: len(first)] == first and read[-len(third) :] == third
        good = read[len(first) : -len(third)]
        assert all(document in second for document in good)
        assert corpus.skips == {"TFDS shard cut short or damaged": len(second) - len(good)} and len(good) < len(second)
        with pytest.raises(CorpusError, match=f"{path.name}, row .*cut short or damaged"):
            list(Corpus(f"tfds:{copy}:train"))
    if file_format == "tfrecord":  # cut where a record ends
        sizes = [len(record) + 16 for record in tf.data.TFRecordDataset(str(copy / corpus.sources[0].address)).as_numpy_iterator()]
        path = copy / corpus.sources[0].address.rpartition("/")[2]
        path.write_bytes(path.read_bytes()[: -sizes[-1]])
        list(corpus)
        assert corpus.skips["TFDS shard cut short or damaged"] >= 1


def test_bad_records(tmp_path, prepared):
    for path in (prepared / "prose" / "tfrecord" / "1.0.0").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    corpus = Corpus(f"tfds:{tmp_path}:train[:6]", on_error="skip")
    values = [[b"good"], [b"caf\xe9"], [b"a\0b"], [b" "], [b"two", b"strings"]]
    examples = [tf.train.Example(features=tf.train.Features(feature={"text": tf.train.Feature(bytes_list=tf.train.BytesList(value=value))}))
                for value in values]  # fmt: skip
    with tf.io.TFRecordWriter(corpus.sources[0].address) as writer:
        for record in [example.SerializeToString() for example in examples] + [b"\xff no example"]:
            writer.write(record)
    assert list(corpus) == ["good"]
    reasons = ("broken UTF-8", "NUL byte", "empty text", "no text in field 'text'", "malformed record")
    assert corpus.skips == dict.fromkeys(reasons, 1)


def test_tensorflow_is_left_alone_without_tfds(tmp_path):
    (tmp_path / "a.txt").write_text("A document.")
    code = f"""
import sys
from data_pipeline.sources.corpus import Corpus
assert list(Corpus({str(tmp_path)!r})) == ["A document."]
assert not {{"tensorflow", "pyarrow", "fsspec"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
