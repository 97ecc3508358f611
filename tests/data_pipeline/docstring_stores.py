"""Small token stores of real English, the documentation that Python carries. In `documentation` one word is one token; in `word_pieces`
long words are several."""

import collections
import functools
import pydoc_data.topics
import re
import tempfile
from pathlib import Path

import numpy as np

from data_pipeline.stores.checksums import file_record
from data_pipeline.stores.manifest import write_json, write_manifest
from data_pipeline.stores.store import ShardWriter, TokenStore, shard_name

SPECIAL = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}  # as in BERT's vocabulary: not all at its beginning
VOCAB_SIZE = 3000
PIECE = 4  # characters


@functools.cache
def documents() -> list[list[list[str]]]:
    """Documents of sentences of words."""
    texts = [" ".join(text.split()) for text in pydoc_data.topics.topics.values()]
    split = [[re.findall(r"\w+|[^\w\s]", sentence) for sentence in re.split(r"(?<=[.:;!?]) ", text)] for text in texts]
    return [kept for kept in ([sentence for sentence in document if sentence] for document in split) if kept]


@functools.cache
def encoded() -> list[list[np.ndarray]]:
    counts = collections.Counter(word for document in documents() for sentence in document for word in sentence)
    free = [number for number in range(VOCAB_SIZE) if number not in SPECIAL.values()]
    number_of = {word: number for (word, _), number in zip(counts.most_common(), free)}
    return [[np.asarray([number_of.get(word, SPECIAL["unk"]) for word in sentence]) for sentence in document] for document in documents()]


@functools.cache
def encoded_pieces() -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """The same text in pieces of at most PIECE characters: token ids, and for each token whether a word starts there (bool)."""

    def cut(word: str) -> list[str]:
        return [("##" if start else "") + word[start : start + PIECE] for start in range(0, len(word), PIECE)]

    text = [[[piece for word in sentence for piece in cut(word)] for sentence in document] for document in documents()]
    counts = collections.Counter(piece for document in text for sentence in document for piece in sentence)
    free = [number for number in range(VOCAB_SIZE) if number not in SPECIAL.values()]
    number_of = {piece: number for (piece, _), number in zip(counts.most_common(), free)}
    ids = [[np.asarray([number_of.get(piece, SPECIAL["unk"]) for piece in sentence]) for sentence in document] for document in text]
    return ids, [[np.asarray([not piece.startswith("##") for piece in sentence]) for sentence in document] for document in text]


def write_store(directory: Path, texts: list[list[np.ndarray]], num_shards: int = 1, word_starts: list | None = None) -> Path:
    """A store of these documents of sentences of token ids, in the training split; the eval split holds the first two. `word_starts` are
    bools shaped like `texts`; without it each token is a word."""
    directory.mkdir(exist_ok=True)
    word_starts = word_starts or [[np.ones(len(sentence), bool) for sentence in document] for document in texts]
    records: dict[str, list[dict]] = {"train": [], "eval": []}
    for split, number, part in [("train", n, slice(n, None, num_shards)) for n in range(num_shards)] + [("eval", 0, slice(2))]:
        writer = ShardWriter(VOCAB_SIZE)
        for document, starts in zip(texts[part], word_starts[part]):
            ends = np.cumsum([len(sentence) for sentence in document])
            writer.add(np.concatenate(document), ends, np.asarray([len(document)]), np.concatenate(starts))
        record = writer.write(directory, shard_name(split, number))
        if record:
            records[split].append(record)
    np.save(directory / "unigram_counts.npy", np.ones(VOCAB_SIZE, np.int64))
    (directory / "tokenizer").mkdir(exist_ok=True)
    write_json(directory / "tokenizer" / "tokenizer_config.json", {})
    manifest = {
        "tokenizer": {"kind": "words", "hash": "0" * 64, "vocab_size": VOCAB_SIZE, "special": SPECIAL},
        "splits": {split: {"shards": shards} for split, shards in records.items()},
        "files": {"unigram_counts.npy": file_record(directory / "unigram_counts.npy")},
    }
    write_manifest(directory, manifest)
    return directory


@functools.cache
def documentation() -> Path:
    """The directory of the shared store: three shards. Do not write into it beyond its plans."""
    keep = tempfile.TemporaryDirectory(prefix="bert_jax_test_store_")
    documentation.keep = keep  # removed at exit
    return write_store(Path(keep.name), encoded(), num_shards=3)


@functools.cache
def word_pieces() -> Path:
    """The directory of a shared store like `documentation` in which long words have several tokens (see `encoded_pieces`)."""
    keep = tempfile.TemporaryDirectory(prefix="bert_jax_test_store_")
    word_pieces.keep = keep  # removed at exit
    ids, word_starts = encoded_pieces()
    return write_store(Path(keep.name), ids, num_shards=3, word_starts=word_starts)


def open_documentation() -> TokenStore:
    return TokenStore(documentation())


def open_word_pieces() -> TokenStore:
    return TokenStore(word_pieces())


def all_tokens(store: TokenStore) -> np.ndarray:
    return np.concatenate([shard.tokens for shard in store.shards])


def token_ends(store: TokenStore) -> tuple[np.ndarray, np.ndarray]:
    """Global token offsets at which sentences end, and at which documents end."""
    sentences = [shard.sentence_ends + offset for shard, offset in zip(store.shards, store.token_offsets)]
    documents = [ends[shard.document_ends - 1] for shard, ends in zip(store.shards, sentences)]
    return np.concatenate(sentences), np.concatenate(documents)
