"""Token store -> sequences: which pieces of the store make row i, found in O(1) from a plan, and the rows themselves. numpy only.

Enters: a `TokenStore`, a length and a kind. Leaves: `Sequences.gather`, unmasked rows. A row is [CLS] piece [SEP] piece
[SEP] ..., or, packed, [CLS] piece [SEP] [CLS] piece [SEP] ...; each piece is a contiguous range of one document's tokens. The kinds are
listed in plans.py:

- "segment_pairs": two pieces, A and B (BERT, Devlin et al. 2018, section 3.1 and appendix A.2).
- "sentence_order": two consecutive pieces, swapped half of the time (ALBERT, Lan et al. 2019, section 3.1).
- "full_sentences": sentences up to the length, a new piece where a new document begins (RoBERTa, Liu et al. 2019, section 4.2).
- "document_sentences": the same within one document.
- "packed_documents": documents, and parts of them to fill the row, each with attention and positions of its own (Krell et al. 2021).
"""

import dataclasses
from pathlib import Path

import numpy as np

from data_pipeline.sequences import plans
from data_pipeline.stores.store import TokenStore


@dataclasses.dataclass(frozen=True)
class Rows:
    """B rows of length L, before masking."""

    input_ids: np.ndarray  # uint16 or uint32 [B, L], padded with the pad id
    token_type_ids: np.ndarray  # uint8 [B, L]
    segment_ids: np.ndarray  # uint16 [B, L]: 0 at padding, k in the k-th document of a packed row, specials included; 1 in other kinds
    position_ids: np.ndarray | None  # uint16 [B, L] for packed documents: from 0 in each document, 0 at padding
    labels: np.ndarray  # uint8 [B], see `Sequences.label_field`; zeros without labels
    word_starts: np.ndarray | None  # bool [B, L]: the first token of each word; False at special tokens and padding


class Sequences:
    """The sequences of one split, by number.

    Args: `kind` is one of `plans.KINDS`; `length` L in [8, 65535] counts the special tokens; `short_seq_prob` and `duplicates` (passes
    over the corpus with new random choices) apply to pairs of segments only; `with_words` reads `Rows.word_starts` too. `label_field`
    names the labels in a batch: "nsp_labels", "sop_labels" or None. Raises ValueError naming the field that does not fit."""

    def __init__(
        self,
        store: TokenStore,
        *,
        kind: str,
        length: int,
        short_seq_prob: float = 0.1,
        duplicates: int = 1,
        seed: int = 0,
        with_words: bool = False,
    ):
        self.store = store
        self.length = length
        settings = plans.Settings(kind, length, short_seq_prob, duplicates, seed)
        if store.num_tokens == 0:
            raise ValueError(f"{store!r} gives no sequence: the split holds no tokens; prepare it from more text, or hold out more")
        self.directory: Path = plans.cached(store, settings)
        self.label_field = plans.KINDS[kind].label_field
        self.packed = plans.KINDS[kind].is_packed
        # Pieces of row i: first_pieces[i] to first_pieces[i + 1]; each is `lengths` tokens from the global token offset `starts`.
        self.first_pieces, self.starts, self.lengths, self.labels = plans.read(self.directory)
        # Plain views: slicing numpy.memmap itself is 5 times slower.
        self.tokens = [np.asarray(shard.tokens) for shard in store.shards]
        self._words = [np.asarray(shard.word_starts) for shard in store.shards] if with_words else None

    def __len__(self) -> int:
        return len(self.first_pieces) - 1

    def gather(self, numbers: np.ndarray) -> Rows:
        """The rows of these sequence numbers, int64 [B]. Reads B rows' tokens and nothing else."""
        first, stop = self.first_pieces[numbers], self.first_pieces[numbers + 1]
        counts = stop - first
        row = np.repeat(np.arange(len(numbers)), counts)
        firsts_in_batch = np.cumsum(counts) - counts
        place = np.arange(len(row)) - firsts_in_batch[row]  # of a piece in its row
        pieces = first[row] + place
        starts, lengths = self.starts[pieces], self.lengths[pieces].astype(np.int64)
        widths = lengths + (2 if self.packed else 1)  # with the special tokens: a row's first [CLS] is no piece's unless packed
        ends = np.cumsum(widths)
        before_row = (ends - widths)[firsts_in_batch]
        separators = ends - before_row[row] - self.packed  # the column of each piece's [SEP]
        firsts = separators - lengths  # the column of each piece's first token
        shard = np.searchsorted(self.store.token_offsets, starts, side="right") - 1
        offsets = starts - self.store.token_offsets[shard]
        targets = row * self.length + firsts

        special = self.store.special
        input_ids = np.full((len(numbers), self.length), special["pad"], self.tokens[0].dtype)
        if self.packed:
            input_ids[row, firsts - 1] = special["cls"]
        else:
            input_ids[:, 0] = special["cls"]
        input_ids[row, separators] = special["sep"]
        flat = input_ids.reshape(-1)
        tokens = self.tokens
        for piece_shard, offset, target, size in zip(shard.tolist(), offsets.tolist(), targets.tolist(), lengths.tolist()):
            flat[target : target + size] = tokens[piece_shard][offset : offset + size]

        columns = np.arange(self.length, dtype=np.uint16)
        used = separators[firsts_in_batch + counts - 1] + 1
        is_real = columns < used[:, None].astype(np.uint16)
        token_type_ids, position_ids = np.zeros(input_ids.shape, np.uint8), None
        if self.packed:
            segment_ids, position_ids = np.zeros(input_ids.shape, np.uint16), np.zeros(input_ids.shape, np.uint16)
            segment_ids[is_real] = np.repeat(place + 1, widths)
            position_ids[is_real] = np.arange(ends[-1]) - np.repeat(ends - widths, widths)
        else:
            segment_ids = is_real.astype(np.uint16)
        if self.label_field:
            token_type_ids = ((columns > separators[firsts_in_batch][:, None]) & is_real).view(np.uint8)
            labels = self.labels[numbers]
        else:
            labels = np.zeros(len(numbers), np.uint8)
        word_starts = None if self._words is None else self._gather_words(shard, offsets, targets, lengths, len(numbers))
        return Rows(input_ids, token_type_ids, segment_ids, position_ids, labels, word_starts)

    def _gather_words(self, shard: np.ndarray, offsets: np.ndarray, targets: np.ndarray, lengths: np.ndarray, rows: int) -> np.ndarray:
        """bool [rows, L] from the packed bits of pieces, int64 [P] each: the bytes that hold them are copied together and unpacked once."""
        first_bytes, stop_bytes = offsets // 8, (offsets + lengths + 7) // 8
        ends = np.cumsum(stop_bytes - first_bytes)
        packed = np.empty(ends[-1], np.uint8)
        words, end = self._words, 0
        for piece_shard, first, stop in zip(shard.tolist(), first_bytes.tolist(), stop_bytes.tolist()):
            start, end = end, end + stop - first
            packed[start:end] = words[piece_shard][first:stop]
        bits = np.unpackbits(packed).view(bool)
        sources = 8 * (ends - stop_bytes + first_bytes) + offsets % 8
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        word_starts = np.zeros(rows * self.length, bool)
        word_starts[np.repeat(targets, lengths) + within] = bits[np.repeat(sources, lengths) + within]
        return word_starts.reshape(rows, self.length)
