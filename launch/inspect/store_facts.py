"""What a token store holds, in numbers, without reading its tokens. Enters: a store's directory. Leaves: `StoreFacts`."""

import dataclasses
from pathlib import Path

import numpy as np

from launch.inspect.decoded_rows import printable
from launch.inspect.distribution import Distribution

SHARDS_READ = 64  # of a split, for the lengths
UNITS = ("documents", "sentences", "tokens")
TEXT_COUNTS = ("characters", "words", "unknown")
REASONS = {
    "skips": "skipped",
    "filters": "left out",
    "duplicates": "left out: copies of earlier documents",
    "cut": "cuts in documents longer than the limit",
}


@dataclasses.dataclass(frozen=True)
class StoreFacts:
    """Lengths are in tokens, of the training split; of a large one, of shards spread evenly over it."""

    directory: Path
    name: str
    splits: dict[str, dict[str, int]]  # -> documents, sentences, tokens, shards
    tokenizer: dict[str, str | int]  # kind, vocab_size, hash
    fingerprint: str
    sources: list[tuple[str, int]]  # name and bytes of each, largest first
    text: dict[str, int]  # characters, words, unknown: over all splits, as far as the manifest counts them
    changes: list[tuple[int, str]]  # documents, and what became of them, most first
    document_lengths: Distribution
    sentence_lengths: Distribution
    shards_read: int


def read_facts(directory: Path) -> StoreFacts:
    """Raises StoreError if there is no store."""
    from data_pipeline.stores.store import TokenStore, read_manifest

    manifest = read_manifest(directory)
    store = TokenStore(directory, split="train")
    spread = np.linspace(0, len(store.shards) - 1, min(len(store.shards), SHARDS_READ)).astype(int)
    lengths = [shard_lengths(store.shards[number]) for number in spread]
    counts = manifest.get("counts", {})
    return StoreFacts(
        directory=Path(directory),
        name=printable(Path(directory).resolve().name),
        splits={
            split: {unit: sum(shard[unit] for shard in value["shards"]) for unit in UNITS} | {"shards": len(value["shards"])}
            for split, value in manifest["splits"].items()
        },
        tokenizer={name: manifest["tokenizer"][name] for name in ("kind", "vocab_size", "hash")},
        fingerprint=store.fingerprint,
        sources=sorted(((printable(source["name"]), source["size"]) for source in manifest.get("sources", [])), key=lambda one: -one[1]),
        text={name: counts[name] for name in TEXT_COUNTS if name in counts},
        changes=_changes(counts),
        document_lengths=Distribution.of(*(documents for documents, _ in lengths)),
        sentence_lengths=Distribution.of(*(sentences for _, sentences in lengths)),
        shards_read=len(spread),
    )


def shard_lengths(shard) -> tuple[np.ndarray, np.ndarray]:
    """int64 [D] and [S]: the lengths of a shard's documents and of its sentences in tokens."""
    sentence_ends = np.asarray(shard.sentence_ends)
    document_ends = sentence_ends[np.asarray(shard.document_ends) - 1]
    return np.diff(document_ends, prepend=0), np.diff(sentence_ends, prepend=0)


def _changes(counts: dict) -> list[tuple[int, str]]:
    found = []
    for name, word in REASONS.items():
        value = counts.get(name) or {}
        if isinstance(value, dict):
            found += [(number, f"{word}: {printable(reason)}") for reason, number in value.items()]
        else:
            found.append((value, word))
    return sorted(found, reverse=True)
