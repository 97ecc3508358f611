import json
import shutil
from pydoc_data.topics import topics

import numpy as np
import pytest

from data_pipeline.corpus import Corpus
from data_pipeline.prepare import prepare
from data_pipeline.store import ShardWriter, StoreError, TokenStore, read_manifest, token_dtype
from data_pipeline.tokenizers import load, train


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
            assert (starts == load(store.tokenizer_dir).is_word_start[shard.tokens]).all()
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
    "name", ["train/shard-00001/tokens.npy", "eval/shard-00000/word_starts.npy", "unigram_counts.npy", "tokenizer/vocab.txt"]
)
def test_verify_names_the_file_with_a_flipped_bit(copy, name):
    TokenStore(copy).verify()
    content = bytearray((copy / name).read_bytes())
    content[-3] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(StoreError, match=name):
        TokenStore(copy).verify()


def test_opening_reports_what_is_wrong(copy, tmp_path):
    def complaint(directory=copy, split="train"):
        with pytest.raises(StoreError) as error:
            TokenStore(directory, split)
        return str(error.value)

    assert "does not exist" in complaint(tmp_path / "absent")
    assert "no manifest.json" in complaint(tmp_path)
    assert "train, eval" in complaint(split="test")
    tokens = copy / "train/shard-00000/tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    assert "train/shard-00000/tokens.npy" in complaint() and "bytes" in complaint()
    tokens.unlink()
    assert "lacks the file train/shard-00000/tokens.npy" in complaint()
    manifest = json.loads((copy / "manifest.json").read_text())
    for change, words in [
        ({"version": 2}, "version 2"),
        ({"format": "other"}, "format"),
        ({"tokenizer": {}}, "lacks a field"),
        ({"splits": {"train": {"shards": [{"name": "../../etc"}]}}}, "names a shard"),
    ]:
        (copy / "manifest.json").write_text(json.dumps(manifest | change))
        assert words in complaint()
    (copy / "manifest.json").write_text("{")
    assert "JSON" in complaint()


def test_shard_writer_shifts_chunks_and_leaves_nothing_without_documents(tmp_path):
    writer = ShardWriter(70_000)
    assert writer.write(tmp_path, "train/shard-00000") is None and not list(tmp_path.iterdir())
    writer.add(np.array([5, 6, 7]), np.array([2, 3]), np.array([2]), np.array([1, 0, 1], bool))
    writer.add(np.array([69_999]), np.array([1]), np.array([1]), np.array([1], bool))
    record = writer.write(tmp_path, "train/shard-00000")
    shard = {path.stem: np.load(path) for path in (tmp_path / record["name"]).iterdir()}
    assert shard["tokens"].tolist() == [5, 6, 7, 69_999] and shard["tokens"].dtype == np.uint32
    assert shard["sentence_ends"].tolist() == [2, 3, 4] and shard["document_ends"].tolist() == [2, 3]
    assert np.unpackbits(shard["word_starts"], count=4).tolist() == [1, 0, 1, 1]
    assert (record["tokens"], record["sentences"], record["documents"]) == (4, 3, 2)


def test_token_dtype():
    assert token_dtype(65536) == np.uint16 and token_dtype(65537) == np.uint32
