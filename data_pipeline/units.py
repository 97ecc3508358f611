"""Units of work of `prepare`: a fixed amount of text becomes one shard per split. Runs in worker processes.

Enters: the documents of a unit. Leaves: files under train/ and eval/, and a record in units/ written last, by which an interrupted
`prepare` knows that the unit is done. What is written depends on the documents and the settings only, not on which process does it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline import sentences, store
from data_pipeline.tokenizers import Tokenizer

_CHUNK = 500_000  # characters tokenised at a time, which bounds a worker's memory


@dataclasses.dataclass(frozen=True)
class UnitSettings:
    output: Path
    holdout: float
    language: str


def text_hash(documents: list[str]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def is_held_out(document: str, holdout: float) -> bool:
    """Whether the document belongs to the eval split: a function of its text alone, so copies of a document stay together."""
    value = int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest())
    return value < holdout * 2.0**64


def record_path(output: Path, number: int) -> Path:
    return output / "units" / f"unit-{number:05d}.json"


def read_record(output: Path, number: int) -> dict | None:
    """The record of a finished unit whose files are all there in full size; None if it has to be done (again)."""
    try:
        record = json.loads(record_path(output, number).read_text(encoding="utf-8"))
        for shard in record["shards"].values():
            for name, file in shard["files"].items():
                if (output / shard["name"] / name).stat().st_size != file["size"]:
                    return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record


def write_unit(number: int, documents: list[str], tokenizer: Tokenizer, settings: UnitSettings) -> dict:
    """Tokenises the documents, writes their shards and the unit's record, and returns the record. Raises OSError if it cannot write."""
    writers = {split: store.ShardWriter(tokenizer.vocab_size) for split in store.SPLITS}
    counts = dict.fromkeys(("documents", "sentences", "tokens", "words", "unknown", "characters", "empty"), 0)
    for chunk in _chunks(documents):
        held_out = [is_held_out(document, settings.holdout) for document in chunk]
        for split, wanted in (("train", False), ("eval", True)):
            texts = [document for document, held in zip(chunk, held_out) if held is wanted]
            tokens, sentence_ends, document_ends = tokenise(texts, tokenizer, settings.language)
            word_starts = tokenizer.is_word_start[tokens]
            writers[split].add(tokens, sentence_ends, document_ends, word_starts)
            counts["documents"] += len(document_ends)
            counts["sentences"] += len(sentence_ends)
            counts["tokens"] += len(tokens)
            counts["words"] += int(word_starts.sum())
            counts["unknown"] += int((tokens == tokenizer.special["unk"]).sum())
            counts["characters"] += sum(map(len, texts))
            counts["empty"] += len(texts) - len(document_ends)
    try:
        shards = {split: writers[split].write(settings.output, store.shard_name(split, number)) for split in store.SPLITS}
        record = {"text": text_hash(documents), "counts": counts, "shards": {split: shard for split, shard in shards.items() if shard}}
        path = record_path(settings.output, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.write_json(path, record)
    except OSError as error:
        fix = "finished shards are kept: mend it and run the same command again"
        raise OSError(error.errno, f"{error.strerror} while writing shard {number} of {settings.output}; {fix}") from error
    return record


def tokenise(documents: list[str], tokenizer: Tokenizer, language: str = "en") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [T] (unsigned), sentence_ends int64 [S], document_ends int64 [D], as in a shard. What has no token is left out."""
    texts: list[str] = []
    counts = []
    for document in documents:
        before = len(texts)
        texts += sentences.split(document, language)
        counts.append(len(texts) - before)
    tokens, ends = tokenizer.encode_sentences(texts)
    kept = np.diff(ends, prepend=0) > 0
    kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    document_ends = kept_before[np.cumsum(np.asarray(counts, np.int64))]
    return tokens, ends[kept], document_ends[np.diff(document_ends, prepend=0) > 0]


def _chunks(documents: list[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
