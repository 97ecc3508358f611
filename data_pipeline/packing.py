"""Token store -> sequences: which pieces of the store make row i, found in O(1) from a plan, and the rows themselves. numpy only.

Enters: a `TokenStore`, a length and a kind. Leaves: `Sequences.gather`, unmasked rows. A row is [CLS] piece [SEP] piece
[SEP] ..., each piece a contiguous range of one document's tokens. The kinds are made in plans.py:

- "segment_pairs": two pieces, A and B (BERT, Devlin et al. 2018, section 3.1 and appendix A.2).
- "full_sentences": sentences up to the length, a new piece where a new document begins (RoBERTa, Liu et al. 2019, section 4.2).
"""

import dataclasses
from pathlib import Path

import numpy as np

from data_pipeline import plans
from data_pipeline.store import TokenStore


@dataclasses.dataclass(frozen=True)
class Rows:
    """B rows of length L, before masking."""

    input_ids: np.ndarray  # uint16 or uint32 [B, L], padded with the pad id
    token_type_ids: np.ndarray  # uint8 [B, L]
    segment_ids: np.ndarray  # uint8 [B, L]: 1 at real tokens, the specials included, 0 at padding
    nsp_labels: np.ndarray  # uint8 [B]: 1 where B is random; zeros for full sentences


class Sequences:
    """The sequences of one split, by number.

    Args: `kind` is "segment_pairs" or "full_sentences"; `length` L >= 8 counts [CLS] and [SEP]; `short_seq_prob` and `duplicates` (passes
    over the corpus with new random choices) apply to segment pairs only. Raises ValueError naming the field that does not fit."""

    def __init__(self, store: TokenStore, *, kind: str, length: int, short_seq_prob: float = 0.1, duplicates: int = 1, seed: int = 0):
        self.store = store
        self.length = length
        settings = plans.Settings(kind, length, short_seq_prob, duplicates, seed)
        if store.num_tokens == 0:
            raise ValueError(f"{store!r} gives no sequence: the split holds no tokens; prepare it from more text, or hold out more")
        self.directory: Path = plans.cached(store, settings)
        self.pairs = kind == "segment_pairs"
        # Pieces of row i: first_pieces[i] to first_pieces[i + 1]; each is `lengths` tokens from the global token offset `starts`.
        self.first_pieces, self.starts, self.lengths, self.labels = (
            np.asarray(np.load(self.directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)) for name in plans.ARRAYS
        )
        self.tokens = [np.asarray(shard.tokens) for shard in store.shards]  # plain views: slicing numpy.memmap itself is 5 times slower

    def __len__(self) -> int:
        return len(self.first_pieces) - 1

    def gather(self, numbers: np.ndarray) -> Rows:
        """The rows of these sequence numbers, int64 [B]. Reads B rows' tokens and nothing else."""
        first, stop = self.first_pieces[numbers], self.first_pieces[numbers + 1]
        counts = stop - first
        row = np.repeat(np.arange(len(numbers)), counts)
        firsts_in_batch = np.cumsum(counts) - counts
        pieces = np.arange(len(row)) - (firsts_in_batch - first)[row]
        starts, lengths = self.starts[pieces], self.lengths[pieces].astype(np.int64)
        ends = np.cumsum(lengths + 1)  # the running width of pieces and their [SEP]s over the batch
        before_row = (ends - lengths - 1)[firsts_in_batch]
        separators = ends - before_row[row]  # the column of each piece's [SEP], as [CLS] takes column 0
        shard = np.searchsorted(self.store.token_offsets, starts, side="right") - 1
        offsets = starts - self.store.token_offsets[shard]

        special = self.store.special
        input_ids = np.full((len(numbers), self.length), special["pad"], self.tokens[0].dtype)
        input_ids[:, 0] = special["cls"]
        input_ids[row, separators] = special["sep"]
        flat = input_ids.reshape(-1)
        targets = row * self.length + separators - lengths
        tokens = self.tokens
        for piece_shard, offset, target, size in zip(shard.tolist(), offsets.tolist(), targets.tolist(), lengths.tolist()):
            flat[target : target + size] = tokens[piece_shard][offset : offset + size]

        columns = np.arange(self.length)
        last = separators[firsts_in_batch + counts - 1][:, None]
        segment_ids = columns <= last
        if self.pairs:
            token_type_ids = (columns > separators[firsts_in_batch][:, None]) & segment_ids
            labels = self.labels[numbers]
        else:
            token_type_ids = np.zeros_like(segment_ids)
            labels = np.zeros(len(numbers), np.uint8)
        return Rows(input_ids, token_type_ids.view(np.uint8), segment_ids.view(np.uint8), labels)
