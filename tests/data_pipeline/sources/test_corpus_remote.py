"""Corpora behind URLs, read through fsspec: its memory:// file system, and a web server on this machine."""

import collections
import functools
import gzip
import http.server
import itertools
import json
import pickle
import threading

import datasets
import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from fsspec.registry import known_implementations

from data_pipeline.sources import embedded
from data_pipeline.sources.corpus import Corpus, CorpusError


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return list(itertools.islice(embedded.documents(), 100))


@pytest.fixture
def contents(documents, tmp_path) -> dict[str, bytes]:
    text = "\n\n".join(documents).encode()
    lines = "".join(json.dumps({"text": document}) + "\n" for document in documents).encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": documents}), tmp_path / "table.parquet", row_group_size=30)
    return {
        "a.txt": text,
        "b.txt.gz": gzip.compress(text),
        "sub/deep/c.jsonl": lines,
        "sub/d.jsonl.zst": zstandard.compress(lines),
        "e.parquet": (tmp_path / "table.parquet").read_bytes(),
        "ignored.bin": b"\0",
    }


@pytest.fixture
def memory(contents):
    file_system = fsspec.filesystem("memory")
    file_system.rm("/", recursive=True) if file_system.ls("/") else None
    for name, content in contents.items():
        file_system.pipe(f"/bucket/{name}", content)
    yield file_system
    file_system.rm("/bucket", recursive=True)


@pytest.fixture
def server(contents, tmp_path):
    for name, content in contents.items():
        (tmp_path / "site" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "site" / name).write_bytes(content)
    (tmp_path / "site" / "large.txt").write_bytes(b"word " * (6 << 18))  # more than is read at once

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "site"))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_files_directories_and_globs(memory, documents):
    for name in ("a.txt", "b.txt.gz", "sub/deep/c.jsonl", "sub/d.jsonl.zst", "e.parquet", "sub", "*.parquet", "**/*.jsonl"):
        corpus = Corpus(f"memory://bucket/{name}")
        assert list(corpus) == documents * (2 if name == "sub" else 1), name
        assert corpus.progress["bytes"] == corpus.size > 0
    whole = Corpus("memory://bucket")
    assert [source.name for source in whole.sources] == [
        f"memory://bucket/{name}" for name in ("a.txt", "b.txt.gz", "e.parquet", "sub/d.jsonl.zst", "sub/deep/c.jsonl")
    ]
    again = pickle.loads(pickle.dumps(whole))
    assert [list(again.read([source], collections.Counter())) for source in whole.sources] == [documents] * 5
    assert len(Corpus(["memory://bucket", "memory://bucket/*.txt"]).sources) == 5, "a file named twice is read once"


def test_a_changed_file_is_told(memory):
    before = Corpus("memory://bucket/a.txt").sources
    assert Corpus("memory://bucket/a.txt").sources == before
    memory.pipe("/bucket/a.txt", memory.cat("/bucket/a.txt").swapcase())
    (after,) = Corpus("memory://bucket/a.txt").sources
    assert after.size == before[0].size and after.modified_ns != before[0].modified_ns


def test_damage_is_told_with_its_place(memory, contents):
    for name, place in [("b.txt.gz", "line"), ("sub/d.jsonl.zst", "line"), ("e.parquet", "Parquet")]:
        memory.pipe(f"/bucket/{name}", contents[name][:-20])
        with pytest.raises(CorpusError, match=f"memory://bucket/{name}.*{place}.*cut short"):
            list(Corpus(f"memory://bucket/{name}"))


def test_a_data_set_on_disk(memory, documents, tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": documents})}).save_to_disk(tmp_path / "set")
    memory.put(str(tmp_path / "set"), "/bucket/set", recursive=True)
    assert list(Corpus("hf:memory://bucket/set:train")) == documents
    with pytest.raises(CorpusError, match="--input=hf:memory://bucket/set/train:SPLIT"):
        Corpus("memory://bucket/set")


def test_a_web_server(server, documents):
    for name in ("a.txt", "b.txt.gz", "sub/d.jsonl.zst", "sub/*.zst"):
        corpus = Corpus(f"http://{server}/{name}")
        assert list(corpus) == documents, name
        assert corpus.progress["bytes"] == corpus.size > 0
    assert list(Corpus(f"http://{server}/sub/")) == documents * 2
    assert sum(map(len, Corpus(f"http://{server}/large.txt"))) == 5 * (6 << 18)
    with pytest.raises(CorpusError, match="e.parquet: .*range requests.*Copy the file"):  # Python's own server has none
        list(Corpus(f"http://{server}/e.parquet"))
    # What may be secret in an address is neither shown nor stored.
    (source,) = Corpus(f"http://user:word@{server}/b.txt.gz?signature=secret").sources
    assert source.name == f"http://{server}/b.txt.gz" and "secret" not in repr(source)
    with pytest.raises(CorpusError, match="does not exist") as error:
        Corpus(f"http://{server}/absent.txt?signature=secret")
    assert "secret" not in str(error.value)


def test_what_cannot_be_reached(memory, monkeypatch):
    for item, words in [
        ("memory://bucket/absent.txt", "does not exist"),
        ("memory://bucket/*.absent", "no file matches"),
        ("memory://bucket/x.txt::simplecache", "chained"),
        ("nowhere://bucket/a.txt", "Protocol not known.*gs://"),
        ("http://127.0.0.1:1/*.txt", "cannot be listed: ClientConnector"),
    ]:
        with pytest.raises(CorpusError, match=words):
            Corpus(item)
    monkeypatch.setitem(known_implementations, "far", {"class": "far_away_fs.FileSystem", "err": "Please install far_away_fs"})
    with pytest.raises(ImportError, match="far://bucket/a.txt: Please install far_away_fs .pip install far_away_fs."):
        Corpus("far://bucket/a.txt")
