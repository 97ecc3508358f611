"""What plans are made of: settings, blocks of whole documents, rows of pieces. numpy only.

Enters: a `TokenStore`. Leaves: `blocks`, one part of it after the other in bounded memory, for the kinds of sequences to walk over.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_pipeline.sequences.order import make_key
from data_pipeline.stores.store import TokenStore

BLOCK_SENTENCES = 1 << 19  # bounds the memory: about 150 bytes per sentence


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a plan depends on besides the store; plans.py checks the kind."""

    kind: str
    length: int
    short_seq_prob: float
    duplicates: int
    seed: int

    def __post_init__(self):
        if not 8 <= self.length <= 65535:
            raise ValueError(f"length={self.length} does not fit; it must lie in [8, 65535]")
        if not 0 <= self.short_seq_prob <= 1:
            raise ValueError(f"short_seq_prob={self.short_seq_prob} is not a probability; it must lie in [0, 1]")
        if self.duplicates < 1:
            raise ValueError(f"duplicates={self.duplicates} leaves no sequence; it must be at least 1")
        make_key(self.seed)


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole documents of one shard: S sentences, D documents. Token offsets count within the shard; sentence numbers within the block."""

    shard: int
    token_offset: int  # of the shard within the split
    first_sentence: int  # within the shard
    first_document: int  # within the split
    starts: np.ndarray  # int64 [S], token offsets
    ends: np.ndarray  # int64 [S]
    document_stops: np.ndarray  # int64 [D], exclusive sentence numbers
    document_of: np.ndarray  # int64 [S]

    @property
    def document_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [D] each: the token offsets at which the documents start and end."""
        ends = self.ends[self.document_stops - 1]
        return np.concatenate([self.starts[:1], ends[:-1]]), ends


@dataclasses.dataclass(frozen=True)
class Piecewise:
    """Some rows of a plan: R rows of P pieces in all."""

    pieces: np.ndarray  # int64 [R], pieces of each row
    starts: np.ndarray  # int64 [P], token offsets within the split
    lengths: np.ndarray  # int64 [P]
    labels: np.ndarray  # [R]


def blocks(store: TokenStore) -> Iterator[Block]:
    for number, shard in enumerate(store.shards):
        document_ends = np.concatenate([np.zeros(1, np.int64), shard.document_ends])  # a copy in memory: one entry per document
        first = 0
        while first < shard.num_documents:
            begin = document_ends[first]
            last = max(first + 1, int(np.searchsorted(document_ends, begin + BLOCK_SENTENCES, side="right")) - 1)
            end = document_ends[last]
            ends = np.asarray(shard.sentence_ends[begin:end])
            starts = np.concatenate([np.asarray([shard.sentence_ends[begin - 1] if begin else 0]), ends[:-1]])
            sizes = np.diff(document_ends[first : last + 1])
            document_of = np.repeat(np.arange(last - first), sizes)
            offset, before = int(store.token_offsets[number]), int(store.document_offsets[number])
            yield Block(number, offset, int(begin), before + first, starts, ends, np.cumsum(sizes), document_of)
            first = last


def close_ends(store: TokenStore) -> None:
    """Closes the memory maps of sentence and document ends, which open again when asked for. Linux limits a process to 65,530 maps, and
    rows need none of these."""
    for shard in store.shards:
        for name in ("sentence_ends", "document_ends"):
            vars(shard).pop(name, None)


def follow(following: np.ndarray) -> np.ndarray:
    """The walk 0, following[0], following[following[0]], ... until it leaves the array."""
    table, walk, here = following.tolist(), [], 0
    while here < len(table):
        walk.append(here)
        here = table[here]
    return np.asarray(walk, np.int64)
