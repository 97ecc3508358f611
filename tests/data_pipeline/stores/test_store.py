import copy as copies
import json
import os
import shutil
from pydoc_data.topics import topics

import numpy as np
import pytest

from data_pipeline.preparation.prepare import prepare
from data_pipeline.sources.corpus import Corpus
from data_pipeline.stores import checksums
from data_pipeline.stores.store import ShardWriter, StoreError, TokenStore, read_manifest, token_dtype
from data_pipeline.tokenization.tokenizers import load, train


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made")
    text = directory / "text.txt"
    text.write_text("\n\n".join(topic.replace("\n\n", "\n") for topic in topics.values()))
    train(Corpus(text), directory / "tokenizer", vocab_size=1000)
    prepare(text, directory / "tokenizer", directory / "store", workers=1, holdout=0.2, shard_size=100_000, progress=False)
    return directory / "store"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "store")


def test_counts_offsets_and_boundaries_agree(made):
    for split in ("train", "eval"):
        store = TokenStore(made, split)
        tokenizer = load(store.tokenizer_dir)
        assert len(store.shards) > 1
        assert store.token_offsets.dtype == np.int64
        assert store.token_offsets[-1] == store.num_tokens == sum(len(shard.tokens) for shard in store.shards)
        assert store.sentence_offsets[-1] == store.num_sentences == sum(len(shard.sentence_ends) for shard in store.shards)
        assert store.document_offsets[-1] == store.num_documents == sum(len(shard.document_ends) for shard in store.shards)
        for shard in store.shards:
            assert isinstance(shard.tokens, np.memmap) and shard.tokens.dtype == np.uint16
            assert shard.sentence_ends[-1] == len(shard.tokens) and shard.document_ends[-1] == len(shard.sentence_ends)
            assert (np.diff(shard.sentence_ends, prepend=0) > 0).all() and (np.diff(shard.document_ends, prepend=0) > 0).all()
            assert len(shard.word_starts) == (len(shard.tokens) + 7) // 8
            starts = np.unpackbits(shard.word_starts, count=len(shard.tokens)).astype(bool)
            continues = [tokenizer.hf.id_to_token(token).startswith("##") for token in shard.tokens.tolist()]
            assert (starts == ~np.array(continues)).all()
            assert starts[0] and starts[shard.sentence_ends[:-1]].all()
            assert not set(store.special.values()) - {store.special["unk"]} & set(shard.tokens.tolist())


def test_unigram_counts_are_those_of_the_training_split(made):
    store = TokenStore(made)
    tokens = np.concatenate([shard.tokens for shard in store.shards])
    assert (store.unigram_counts == np.bincount(tokens, minlength=store.vocab_size)).all()
    assert store.unigram_counts.dtype == np.int64


def test_fingerprint_depends_on_content_alone(made, copy):
    assert TokenStore(made).fingerprint == TokenStore(copy).fingerprint == TokenStore(copy, "eval").fingerprint
    manifest = read_manifest(copy)
    manifest["splits"]["eval"]["shards"][0]["files"]["tokens.npy"]["sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert TokenStore(made).fingerprint != TokenStore(copy).fingerprint


@pytest.mark.parametrize(
    "name", ["train/shard-00000-00001/tokens.npy", "eval/shard-00000-00000/word_starts.npy", "unigram_counts.npy", "tokenizer/vocab.txt"]
)
def test_verify_names_the_file_with_a_flipped_bit(copy, name):
    TokenStore(copy).verify()
    flip(copy / name)
    with pytest.raises(StoreError, match=name):
        TokenStore(copy).verify()


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that were read to be hashed."""
    names = []
    record = checksums.file_record
    monkeypatch.setattr(checksums, "file_record", lambda path: names.append(path.name) or record(path))
    return names


def test_verify_once_reads_each_file_once_and_again_when_it_changed(copy, hashed):
    files = sum(path.is_file() for path in copy.rglob("*")) - 2  # manifest.json, prepare.json
    TokenStore(copy).verify_once()
    assert len(hashed) == files
    TokenStore(copy, "eval").verify_once()
    assert len(hashed) == files
    victim = copy / "train/shard-00000-00001/tokens.npy"
    before = victim.stat()
    flip(victim)
    for _ in range(2):  # damage is not remembered as right, and the rest not read again
        with pytest.raises(StoreError, match=r"shard-00000-00001/tokens.npy: its SHA-256 is \w{12}..., the manifest says \w{12}"):
            TokenStore(copy).verify_once()
    assert hashed[files:] == ["tokens.npy"] * 2
    flip(victim)
    TokenStore(copy).verify_once()
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))  # repaired, but not the file that was seen
    TokenStore(copy).verify_once()
    assert len(hashed) == files + 4


def test_verify_once_sees_a_replaced_file_of_equal_size_and_time(copy):
    TokenStore(copy).verify_once()
    victim = copy / "eval/shard-00000-00000/sentence_ends.npy"
    status = victim.stat()
    shutil.copy(victim, copy / "other")
    flip(copy / "other")
    os.utime(copy / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(copy / "other", victim)
    with pytest.raises(StoreError, match="eval/shard-00000-00000/sentence_ends.npy"):
        TokenStore(copy).verify_once()


def test_another_stores_stamp_vouches_for_nothing(made, copy, tmp_path):
    TokenStore(copy).verify_once()
    other = shutil.copytree(copy, tmp_path / "other")
    flip(other / "unigram_counts.npy")
    with pytest.raises(StoreError, match="unigram_counts.npy"):
        TokenStore(other).verify_once()
    (copy / "plans" / "verified.json").write_text("[")
    TokenStore(copy).verify_once()


def test_a_store_that_cannot_be_written_is_remembered_in_the_cache(copy, hashed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    TokenStore(copy).verify_once()
    count = len(hashed)
    TokenStore(copy).verify_once()
    assert count == len(hashed) and not (copy / "plans").exists()
    assert len(list((tmp_path / "cache" / "bert_jax" / "verified").iterdir())) == 1


def rewrite(store, array_name, change):
    """Changes an array of a shard and makes the manifest agree, as a forger would."""
    path = store / "train/shard-00000-00001" / f"{array_name}.npy"
    np.save(path, change(np.load(path)))
    manifest = read_manifest(store)
    record = next(record for record in manifest["splits"]["train"]["shards"] if record["name"] == "train/shard-00000-00001")
    record["files"][path.name] = checksums.file_record(path)
    (store / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("sentence_ends", lambda ends: np.r_[ends[1], ends[0], ends[2:]], "sentence_ends.npy does not ascend"),
        ("document_ends", lambda ends: np.r_[ends[:-1], ends[-1] + 1], "document_ends.npy ends at"),
        ("tokens", lambda tokens: np.r_[tokens[:-1], np.uint16(1000)], "tokens.npy holds the id 1000, beyond the vocabulary of 1000"),
    ],
)
def test_verify_finds_contradictions_behind_right_checksums(copy, name, change, words):
    rewrite(copy, name, change)
    with pytest.raises(StoreError, match=f"shard-00000-00001/{words}"):
        TokenStore(copy).verify()


@pytest.mark.parametrize(
    "change",
    [lambda ends: ends[:-1], lambda ends: ends.astype(np.int32), lambda ends: ends.astype(object)],
    ids=["short", "int32", "pickle"],
)
def test_an_array_of_another_kind_is_refused_when_it_is_mapped(copy, change):
    rewrite(copy, "document_ends", change)
    shard = TokenStore(copy).shards[1]
    with pytest.raises(StoreError, match="shard-00000-00001/document_ends.npy"):
        _ = shard.document_ends


FORGERIES = {
    "a shard outside": (lambda m: m["splits"]["train"]["shards"][0].update(name="../../etc"), "names a shard '../../etc'"),
    "a shard of the other split": (lambda m: m["splits"]["train"]["shards"][0].update(name="eval/shard-00000-00000"), "in 'train'"),
    "a shard twice": (lambda m: m["splits"]["train"]["shards"].append(m["splits"]["train"]["shards"][0]), "twice"),
    "a file outside": (lambda m: m["files"].update({"tokenizer/../../x": m["files"]["unigram_counts.npy"]}), "none of a store's"),
    "a file in a shard": (lambda m: m["splits"]["eval"]["shards"][0]["files"].update({"../x": {}}), "the files"),
    "negative counts": (lambda m: m["splits"]["eval"]["shards"][0].update(tokens=-1), "-1 tokens"),
    "more documents than tokens": (lambda m: m["splits"]["eval"]["shards"][0].update(documents=10**9), "1000000000 documents"),
    "fractions": (lambda m: m["splits"]["eval"]["shards"][0].update(documents=1.5), "1.5 documents"),
    "sums": (lambda m: m["splits"]["train"]["counts"].update(tokens=7), "counts 7 tokens in train"),
    "no checksum": (lambda m: m["files"]["unigram_counts.npy"].update(sha256="abc"), "SHA-256 of unigram_counts.npy"),
    "no special tokens": (lambda m: m["tokenizer"].update(special={}), "lacks a field"),
    "shards that are no list": (lambda m: m["splits"]["train"].update(shards=3), "another kind"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_manifests_are_refused(made, copy, name):
    forge, words = FORGERIES[name]
    manifest = copies.deepcopy(read_manifest(made))
    forge(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError) as error:
        TokenStore(copy)
    assert words in str(error.value)


def test_opening_reports_what_is_wrong(copy, tmp_path):
    def complaint(directory=copy, split="train"):
        with pytest.raises(StoreError) as error:
            TokenStore(directory, split)
        return str(error.value)

    assert "does not exist" in complaint(tmp_path / "absent")
    assert "no manifest.json" in complaint(tmp_path)
    assert "train, eval" in complaint(split="test")
    tokens = copy / "train/shard-00000-00000/tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    assert "train/shard-00000-00000/tokens.npy" in complaint() and "bytes" in complaint()
    tokens.unlink()
    assert "lacks the file train/shard-00000-00000/tokens.npy" in complaint()
    manifest = json.loads((copy / "manifest.json").read_text())
    for change, words in [
        ({"version": 1}, "version 1"),
        ({"format": "other"}, "format"),
        ({"tokenizer": {}}, "lacks a field"),
    ]:
        (copy / "manifest.json").write_text(json.dumps(manifest | change))
        assert words in complaint()
    (copy / "manifest.json").write_text("{")
    assert "JSON" in complaint()


def test_shard_writer_shifts_chunks_and_leaves_nothing_without_documents(tmp_path):
    writer = ShardWriter(70_000)
    assert writer.write(tmp_path, "train/shard-00000-00000") is None and not list(tmp_path.iterdir())
    writer.add(np.array([5, 6, 7]), np.array([2, 3]), np.array([2]), np.array([1, 0, 1], bool))
    writer.add(np.array([69_999]), np.array([1]), np.array([1]), np.array([1], bool))
    record = writer.write(tmp_path, "train/shard-00000-00000")
    shard = {path.stem: np.load(path) for path in (tmp_path / record["name"]).iterdir()}
    assert shard["tokens"].tolist() == [5, 6, 7, 69_999] and shard["tokens"].dtype == np.uint32
    assert shard["sentence_ends"].tolist() == [2, 3, 4] and shard["document_ends"].tolist() == [2, 3]
    assert np.unpackbits(shard["word_starts"], count=4).tolist() == [1, 0, 1, 1]
    assert (record["tokens"], record["sentences"], record["documents"]) == (4, 3, 2)


def test_token_dtype():
    assert token_dtype(65536) == np.uint16 and token_dtype(65537) == np.uint32
