"""Units of work of `prepare`: a fixed amount of text becomes one shard per split. Runs in worker processes and on Beam workers.

Enters: the documents of a unit, in chunks. Leaves: files under train/ and eval/, and a record in units/ written last, by which an
interrupted `prepare` knows that the unit is done. What is written depends on the documents and the settings only, not on which process
does it.
"""

import dataclasses
import hashlib
import io
from collections.abc import Iterable

import numpy as np

from data_pipeline.preparation.output import Output, read_json
from data_pipeline.sources.duplicates import document_hash
from data_pipeline.stores import store
from data_pipeline.tokenization import sentences
from data_pipeline.tokenization.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class UnitSettings:
    output: Output
    holdout: float
    language: str


@dataclasses.dataclass(frozen=True)
class Unit:
    """A finished unit: its record (counts, shards with checksums), int64 [vocab_size] tokens of its training shard, and whether it was
    made now or found there."""

    record: dict
    unigrams: np.ndarray
    is_new: bool


def joined(documents: list[str]) -> bytes:
    """The documents as one message, each with a NUL behind it, which no document holds."""
    return "".join([f"{document}\0" for document in documents]).encode()


def parted(message: bytes) -> list[str]:
    """The inverse of `joined`."""
    return message.decode().split("\0")[:-1]


def is_held_out(document: str, holdout: float) -> bool:
    """Whether the document belongs to the eval split: a function of its text alone, so copies of a document stay together."""
    return int.from_bytes(document_hash(document)[:8]) < holdout * 2.0**64


def record_name(group: int, number: int) -> str:
    return f"units/unit-{group:05d}-{number:05d}.json"


def write_unit(group: int, number: int, chunks: Iterable[list[str]], tokenizer: Tokenizer, settings: UnitSettings) -> Unit:
    """Tokenises the documents, a chunk at a time, and writes their shards and the unit's record, unless an earlier run did.

    Raises StoreError if the earlier run's text was another, and OSError if it cannot write.
    """
    digest = hashlib.sha256()
    known = _read_record(settings.output, record_name(group, number))
    if known is not None:
        for chunk in chunks:
            digest.update(joined(chunk))
        if known["text"] != digest.hexdigest():
            raise store.StoreError(
                f"{settings.output} was begun from other text: the corpus has changed in unit {group}-{number}. "
                "Choose another --output, or --overwrite"
            )
        return Unit(known, _unigrams(known, tokenizer, settings.output), is_new=False)
    writers = {split: store.ShardWriter(tokenizer.vocab_size) for split in store.SPLITS}
    counts = dict.fromkeys(("documents", "sentences", "tokens", "words", "unknown", "characters", "empty"), 0)
    unigrams = np.zeros(tokenizer.vocab_size, np.int64)
    for chunk in chunks:
        digest.update(joined(chunk))
        held_out = [is_held_out(document, settings.holdout) for document in chunk]
        for split, wanted in (("train", False), ("eval", True)):
            texts = [document for document, held in zip(chunk, held_out) if held is wanted]
            tokens, sentence_ends, document_ends, word_starts = tokenise(texts, tokenizer, settings.language)
            writers[split].add(tokens, sentence_ends, document_ends, word_starts)
            if split == "train":
                unigrams += np.bincount(tokens, minlength=len(unigrams))
            counts["documents"] += len(document_ends)
            counts["sentences"] += len(sentence_ends)
            counts["tokens"] += len(tokens)
            counts["words"] += int(word_starts.sum())
            counts["unknown"] += int((tokens == tokenizer.special["unk"]).sum())
            counts["characters"] += sum(map(len, texts))
            counts["empty"] += len(texts) - len(document_ends)
    try:
        with settings.output.scratch() as directory:
            shards = {split: writers[split].write(directory, store.shard_name(split, number, group)) for split in store.SPLITS}
            shards = {split: shard for split, shard in shards.items() if shard}
            for shard in shards.values():
                settings.output.put(directory, shard["name"])
        record = {"text": digest.hexdigest(), "counts": counts, "shards": shards}
        settings.output.write_json(record_name(group, number), record)
    except OSError as error:
        fix = "finished shards are kept: mend it and run the same command again"
        raise OSError(error.errno, f"{error.strerror or error} while writing shard {group}-{number} of {settings.output}; {fix}") from error
    return Unit(record, unigrams, is_new=True)


def _read_record(output: Output, name: str) -> dict | None:
    """The record of a finished unit whose files are all there in full size; None if it has to be done (again)."""
    record = read_json(output, name)
    try:
        for shard in record["shards"].values():
            for file_name, file in shard["files"].items():
                if output.size(f"{shard['name']}/{file_name}") != file["size"]:
                    return None
        _ = record["text"], record["counts"]
    except (KeyError, TypeError, AttributeError):
        return None
    return record


def _unigrams(record: dict, tokenizer: Tokenizer, output: Output) -> np.ndarray:
    if "train" not in record["shards"]:
        return np.zeros(tokenizer.vocab_size, np.int64)
    content = output.read(f"{record['shards']['train']['name']}/tokens.npy")
    return np.bincount(np.load(io.BytesIO(content), allow_pickle=False), minlength=tokenizer.vocab_size)


def tokenise(
    documents: list[str], tokenizer: Tokenizer, language: str = "en"
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [T] (unsigned), sentence_ends int64 [S], document_ends int64 [D], as in a shard, and bool [T]: the token begins a word.

    What has no token is left out.
    """
    texts: list[str] = []
    counts = []
    for document in documents:
        before = len(texts)
        texts += sentences.split(document, language)
        counts.append(len(texts) - before)
    tokens, ends, word_starts = tokenizer.encode_sentences(texts)
    kept = np.diff(ends, prepend=0) > 0
    kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    document_ends = kept_before[np.cumsum(np.asarray(counts, np.int64))]
    return tokens, ends[kept], document_ends[np.diff(document_ends, prepend=0) > 0], word_starts
