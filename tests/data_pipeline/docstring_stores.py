"""Small token stores of real English, the documentation that Python carries, cut into words; one word is one token."""

import collections
import functools
import re
import tempfile
from pathlib import Path

import numpy as np
import pydoc_data.topics

from data_pipeline.store import ShardWriter, TokenStore, file_record, shard_name, write_json, write_manifest

SPECIAL = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}  # as in BERT's vocabulary: not all at its beginning
VOCAB_SIZE = 3000


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


def write_store(directory: Path, texts: list[list[np.ndarray]], num_shards: int = 1) -> Path:
    """A store of these documents of sentences of token ids, in the training split; the eval split holds the first two."""
    directory.mkdir(exist_ok=True)
    records: dict[str, list[dict]] = {"train": [], "eval": []}
    for split, number, part in [("train", n, texts[n::num_shards]) for n in range(num_shards)] + [("eval", 0, texts[:2])]:
        writer = ShardWriter(VOCAB_SIZE)
        for document in part:
            tokens = np.concatenate(document)
            writer.add(tokens, np.cumsum([len(sentence) for sentence in document]), np.asarray([len(document)]), np.ones(len(tokens), bool))
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


def open_documentation() -> TokenStore:
    return TokenStore(documentation())
