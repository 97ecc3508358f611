"""Rows of token ids of differing lengths, and the special tokens around texts. numpy only.

Enters: the ids of texts. Leaves: `TokenRows`, memory-lean, which become padded arrays a batch at a time.

Two layouts are known: [CLS] a [SEP], [CLS] a [SEP] b [SEP] with type 1 for b and the [SEP] behind it (BERT, Devlin et al. 2018, section
3.2), and <s> a </s>, <s> a </s></s> b </s> with type 0 throughout (RoBERTa, as fairseq and transformers encode pairs; XLM-R's is the same).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """The special tokens around texts. separators: how many stand between a pair. second_type: the token type of the pair's second part."""

    cls: int
    sep: int
    pad: int
    separators: int
    second_type: int

    def added(self, is_pair: bool) -> int:
        """How many special tokens a row has."""
        return 2 + self.separators * is_pair


def layout_of(tokenizer) -> Layout:
    """Of a `data_pipeline.tokenization.tokenizers.Tokenizer`: RoBERTa's where [CLS] is named <s>."""
    is_roberta = tokenizer.parts.special["cls"] == "<s>"
    special = tokenizer.special
    return Layout(special["cls"], special["sep"], special["pad"], separators=2 if is_roberta else 1, second_type=0 if is_roberta else 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """N texts as ids without special tokens: text i is ids[ends[i - 1]:ends[i]]."""

    ids: np.ndarray  # unsigned [T]
    ends: np.ndarray  # int64 [N]

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])

    @property
    def lengths(self) -> np.ndarray:
        return self.ends - self.starts


@dataclasses.dataclass(frozen=True, eq=False)
class TokenRows:
    """R rows of token ids, special tokens included: row i is ids[bounds[i]:bounds[i + 1]]; its columns from second[i] on have type 1."""

    ids: np.ndarray  # uint16 or uint32 [T]
    bounds: np.ndarray  # int64 [R + 1]
    second: np.ndarray  # int32 [R]; a row's length where nothing has type 1

    def __len__(self) -> int:
        return len(self.second)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [R]."""
        return np.diff(self.bounds)

    def padded(self, rows: np.ndarray, length: int, pad: int) -> dict[str, np.ndarray]:
        """input_ids, token_type_ids and segment_ids (1 for real tokens), int32 [len(rows), length], of these rows, none of them longer."""
        lengths = self.bounds[rows + 1] - self.bounds[rows]
        columns = np.arange(length, dtype=np.int32)
        is_real = columns < lengths[:, None]
        input_ids = np.full(is_real.shape, pad, np.int32)
        input_ids[is_real] = self.ids[within(self.bounds[rows], lengths)]
        is_second = (columns >= self.second[rows][:, None]) & is_real
        return {"input_ids": input_ids, "token_type_ids": is_second.astype(np.int32), "segment_ids": is_real.astype(np.int32)}


def within(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 indices: starts[0], starts[0] + 1, ... (lengths[0] of them), starts[1], ..."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + lengths, lengths)


def truncate_longest_first(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """How much is kept of pairs with these lengths, int64 [N] each, so that they have `room` tokens at most.

    The longer one loses tokens until both are equally long, then both (transformers' "longest_first"; an odd token stays with the longer,
    or with the second where they are alike)."""
    shorter, longer = np.minimum(first, second), np.maximum(first, second)
    kept_longer = np.where(shorter > room, shorter, np.maximum(shorter, room - shorter))
    is_halved = shorter + kept_longer > room
    shorter = np.where(is_halved, room // 2, shorter)
    longer = np.minimum(np.where(is_halved, room - room // 2, kept_longer), longer)
    is_swapped = first > second
    return np.minimum(first, np.where(is_swapped, longer, shorter)), np.minimum(second, np.where(is_swapped, shorter, longer))


def assemble(
    layout: Layout,
    first: tuple[np.ndarray, np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> TokenRows:
    """Rows from pieces, each (ids [T], starts int64 [R], lengths int64 [R]), with the layout's special tokens."""
    ids, starts, lengths = first
    second_lengths = np.zeros_like(lengths) if second is None else second[2]
    totals = lengths + second_lengths + layout.added(second is not None)
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(totals)])
    row_starts = bounds[:-1]
    result = np.full(bounds[-1], layout.sep, ids.dtype)  # what nothing else is written to
    result[row_starts] = layout.cls
    result[within(row_starts + 1, lengths)] = ids[within(starts, lengths)]
    boundary = totals
    if second is not None:
        offset = lengths + 1 + layout.separators
        result[within(row_starts + offset, second_lengths)] = second[0][within(second[1], second_lengths)]
        boundary = offset if layout.second_type else totals
    return TokenRows(result, bounds, boundary.astype(np.int32))


def joined(parts: list[TokenRows]) -> TokenRows:
    offsets = np.cumsum([0, *(part.bounds[-1] for part in parts[:-1])])
    bounds = [part.bounds[1:] + offset for part, offset in zip(parts, offsets)]
    return TokenRows(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([np.zeros(1, np.int64), *bounds]),
        np.concatenate([part.second for part in parts]),
    )
