"""A store does not depend on who reads and writes its groups: one process, several, or Beam; and it may lie behind a URL."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest

from data_pipeline.preparation import beam, groups, units, workers
from data_pipeline.preparation.output import RemoteOutput, open_output
from data_pipeline.preparation.prepare import prepare
from data_pipeline.sources import embedded
from data_pipeline.sources.corpus import Corpus, CorpusError, Source
from data_pipeline.stores.store import StoreError, TokenStore
from data_pipeline.tokenization import tokenizers

ROOT = Path(__file__).parents[3]
SIZE = 3_000  # characters per shard


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # a thousand small files
        yield


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(embedded.documents(), 200))


@pytest.fixture(scope="module")
def texts(documents, tmp_path_factory):
    """Files of 20 documents each, in which every ninth document is a copy of one of an earlier, the same or a later file."""
    directory = tmp_path_factory.mktemp("corpus")
    for number in range(10):
        part = documents[20 * number : 20 * number + 20]
        part[::9] = [documents[(7 * number + place) % len(documents)] for place in range(0, 20, 9)]
        (directory / f"{number:02d}.txt").write_text("\n\n".join(part))
    return directory


@pytest.fixture(scope="module")
def tokenizer_dir(documents, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizers.train(documents, directory, vocab_size=2000)
    return directory


def make(texts, tokenizer_dir, output, **changes):
    if changes.get("runner", "local") != "local":
        pytest.importorskip("apache_beam")
    settings = {"workers": 1, "holdout": 0.1, "shard_size": SIZE, "progress": False}
    return prepare(texts, tokenizer_dir, output, **settings | changes)


def digests(store: Path) -> dict[str, str]:
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in store.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def locals_(texts, tokenizer_dir, tmp_path_factory):
    """Output and summary of a local run without and with duplicates left out."""
    directory = tmp_path_factory.mktemp("local")
    return {flag: (directory / str(flag), make(texts, tokenizer_dir, directory / str(flag), deduplicate=flag)) for flag in (False, True)}


def test_groups_are_consecutive_and_large_enough():
    sources = [Source(str(number), size) for number, size in enumerate([5, 100, 1, 79, 1, 1, 90, 200, 3])]
    found = groups.make_groups(sources, 10)
    assert [[source.size for source in group] for group in found] == [[5, 100], [1, 79], [1, 1, 90], [200], [3]]
    assert groups.make_groups(sources[:2], 10) == found[:1]
    assert len(groups.make_groups(Corpus("embedded").sources, 10)) == 1


def test_units_have_their_size_and_chunks_bound_the_memory(documents, monkeypatch):
    monkeypatch.setattr(groups, "CHUNK", 1500)
    found = [(number, list(chunks)) for number, chunks in groups.cut(documents, SIZE)]
    assert [number for number, _ in found] == list(range(len(found))) and len(found) > 20
    assert [document for _, chunks in found for chunk in chunks for document in chunk] == documents
    for _, chunks in found[:-1]:
        sizes = [len(document) for chunk in chunks for document in chunk]
        assert sum(sizes) >= SIZE > sum(sizes[:-1])
    assert all(sum(map(len, chunk[:-1])) < 1500 for _, chunks in found for chunk in chunks)


def test_a_groups_shards_do_not_depend_on_the_other_groups(locals_, texts, tokenizer_dir, tmp_path):
    first = groups.make_groups(Corpus(texts).sources, SIZE)[0]
    make([source.name for source in first], tokenizer_dir, tmp_path / "store")
    found, whole = digests(tmp_path / "store"), digests(locals_[False][0])
    shards = {name for name in whole if "/shard-00000-" in name}
    assert len(shards) > 20 and shards == {name for name in found if "/shard-" in name}
    assert all(found[name] == whole[name] for name in shards)


@pytest.mark.parametrize("flag", [False, True])
def test_workers_that_read_whole_groups_write_the_same(locals_, texts, tokenizer_dir, tmp_path, monkeypatch, flag):
    assert len(groups.make_groups(Corpus(texts).sources, SIZE)) >= workers.GROUPS_PER_WORKER * 2
    tasks = set()
    submit = workers.WorkerPool.submit

    def noting(pool, task, *arguments, **chunks):
        tasks.add(task)
        return submit(pool, task, *arguments, **chunks)

    monkeypatch.setattr(workers.WorkerPool, "submit", noting)
    make(texts, tokenizer_dir, tmp_path / "store", workers=2, deduplicate=flag)
    assert tasks == {groups.one_unit if flag else groups.whole_group}
    assert digests(tmp_path / "store") == digests(locals_[flag][0])


@pytest.mark.parametrize("flag", [False, True])
def test_beam_writes_the_same(locals_, texts, tokenizer_dir, tmp_path, flag):
    local, summary = locals_[flag]
    found = make(texts, tokenizer_dir, tmp_path / "store", runner="DirectRunner", deduplicate=flag)
    assert digests(tmp_path / "store") == digests(local)
    assert found.counts == summary.counts and found.splits == summary.splits
    TokenStore(tmp_path / "store").verify()


def test_duplicates_are_left_out_but_for_the_first(locals_, texts):
    everything = list(Corpus(texts))
    first = list(dict.fromkeys(everything))
    assert len(first) < len(everything) - 10
    with_copies, without = locals_[False][1], locals_[True][1]
    assert with_copies.counts["documents"] == len(everything) and with_copies.counts["duplicates"] == 0
    assert without.counts["documents"] == len(first) and without.counts["duplicates"] == len(everything) - len(first)
    store, tokenizer = TokenStore(locals_[True][0]), tokenizers.load(locals_[True][0] / "tokenizer")
    kept = [document for document in first if not units.is_held_out(document, 0.1)]
    tokens = np.concatenate([shard.tokens for shard in store.shards])
    assert tokens.tolist() == tokenizer.encode("\n".join(kept)).tolist()


def test_later_copies_in_any_order():
    places = [(0, 5), (2, 0), (0, 7), (1, 1)]
    for order in itertools.permutations(places):
        assert sorted(beam._later_copies((b"", iter(order)))) == [(0, 7), (1, 1), (2, 0)]


def test_an_interrupted_beam_run_keeps_its_units(locals_, texts, tokenizer_dir, tmp_path, monkeypatch):
    output = tmp_path / "store"
    write_unit, written = units.write_unit, Counter()

    def failing(group, number, *rest):
        if group == 3 and number == 2:
            raise OSError(28, "No space left on device")
        return write_unit(group, number, *rest)

    monkeypatch.setattr(groups, "write_unit", failing)
    with pytest.raises(RuntimeError, match="No space"):  # the runner hands on the text
        make(texts, tokenizer_dir, output, runner="DirectRunner")
    assert not (output / "manifest.json").exists()
    before = {path: path.stat().st_ino for path in output.glob("*/shard-*/*.npy")}
    monkeypatch.undo()

    def counting(*arguments):
        unit = write_unit(*arguments)
        written[unit.is_new] += 1
        return unit

    monkeypatch.setattr(groups, "write_unit", counting)
    make(texts, tokenizer_dir, output, runner="DirectRunner")
    assert before and all(path.stat().st_ino == inode for path, inode in before.items())
    assert written[False] >= 2 and written[True] >= 2
    assert digests(output) == digests(locals_[False][0])


@pytest.mark.parametrize("runner", ["local", "DirectRunner"])
def test_bad_input_and_empty_corpora_are_told_alike(tokenizer_dir, tmp_path, runner):
    (tmp_path / "a.txt").write_bytes(b"Good text.\n\nBroken \xff text.\n")
    with pytest.raises(CorpusError, match=r"a.txt, line 3, byte 19: broken UTF-8; .*[^\]]$"):
        make(tmp_path / "a.txt", tokenizer_dir, tmp_path / "store", runner=runner)
    (tmp_path / "b.txt").write_text("\n\n")
    with pytest.raises(CorpusError, match="holds no document: .*b.txt is empty"):
        make(tmp_path / "b.txt", tokenizer_dir, tmp_path / "other", runner=runner)
    assert not (tmp_path / "other" / "manifest.json").exists()


# Of the two schemes one uploads whole objects, the other renames.
@pytest.mark.parametrize("scheme, runner", [("memory://", "local"), ("memory://", "DirectRunner"), ("local://", "local")])
def test_a_store_behind_a_url_is_the_same(locals_, texts, tokenizer_dir, tmp_path, runner, scheme):
    url = f"{scheme}{tmp_path}/store"
    summary = make(texts, tokenizer_dir, url, runner=runner)
    assert summary.counts == locals_[False][1].counts
    fsspec.url_to_fs(url)[0].get(url, str(tmp_path / "copy"), recursive=True)
    copied = digests(tmp_path / "copy")
    assert copied == digests(locals_[False][0])
    again = make(texts, tokenizer_dir, url, runner=runner)
    assert again.new_units == 0 and again.counts == summary.counts
    with pytest.raises(StoreError, match="--holdout was 0.1, now 0.2"):
        make(texts, tokenizer_dir, url, runner=runner, holdout=0.2)
    make(texts, tokenizer_dir, url, runner=runner, holdout=0.2, overwrite=True)
    assert json.loads(open_output(url).read("manifest.json"))["settings"]["holdout"] == 0.2


def test_remote_output_completes_what_was_begun(locals_, texts, tokenizer_dir, tmp_path, monkeypatch):
    url = f"memory://{tmp_path}/store"
    upload = RemoteOutput._upload

    def failing(output, file, name):
        if "00003-00001" in name:
            raise OSError(5, "connection lost")
        upload(output, file, name)

    monkeypatch.setattr(RemoteOutput, "_upload", failing)
    with pytest.raises(OSError, match="connection lost while writing shard 3-1"):
        make(texts, tokenizer_dir, url)
    monkeypatch.undo()
    summary = make(texts, tokenizer_dir, url)
    assert 0 < summary.new_units < summary.units
    fsspec.url_to_fs(url)[0].get(url, str(tmp_path / "copy"), recursive=True)
    assert digests(tmp_path / "copy") == digests(locals_[False][0])


def test_outputs_and_runners_that_do_not_exist(texts, tokenizer_dir, tmp_path):
    with pytest.raises(StoreError, match="nosuch://.*a URL that fsspec knows"):
        make(texts, tokenizer_dir, "nosuch://bucket/store")
    with pytest.raises(ValueError, match="NoSuchRunner"):
        make(texts, tokenizer_dir, tmp_path / "store", runner="NoSuchRunner")
    with pytest.raises(StoreError, match="--runner"):
        make(texts, tokenizer_dir, tmp_path / "other", runner_flags=["--project=p"])


def test_a_remote_beginning_without_a_unit_does_not_bar_other_settings(texts, tokenizer_dir, tmp_path):
    url = f"memory://{tmp_path.name}/begun"
    with pytest.raises(CorpusError):
        make(texts, tokenizer_dir, url, min_characters=10**8)
    assert make(texts, tokenizer_dir, url).new_units


def test_flags_that_beam_does_not_know_are_refused_before_anything_is_written(texts, tokenizer_dir, tmp_path):
    for flags, words in (
        (["--projct=p"], "--projct is no flag of Beam"),
        (["--project", "p", "--regoin", "r"], "--regoin is no flag of Beam"),
        (["--project=p", "region=r"], "region=r is no flag: write --runner-flag=--NAME=VALUE"),
    ):
        with pytest.raises(ValueError, match=words):
            make(texts, tokenizer_dir, tmp_path / "store", runner="DirectRunner", runner_flags=flags)
    assert not (tmp_path / "store").exists()


def test_beam_stays_unloaded():
    code = "import sys, data_pipeline.preparation.beam, data_pipeline.preparation.prepare; print({'apache_beam', 'fsspec'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
