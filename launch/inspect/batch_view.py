"""Batches as inspecting shows them: counted over a sample and decoded. Enters: a source of batches (`Loader`, `RecordedBatches`), or the
stores and settings of one. Leaves: `BatchView`."""

import dataclasses
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from launch.inspect.batch_statistics import Batch, BatchStatistics, measure, original_ids
from launch.inspect.decoded_rows import PARTS, SPACE, DecodedRow, decode_rows

SAMPLE_ROWS = 2048
SHOWN_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class BatchView:
    """sequences, choice, rate: as in a config. num_sequences: of an epoch; None of a recording."""

    sequences: str
    choice: str
    rate: float
    num_sequences: int | None
    statistics: BatchStatistics
    source_names: tuple[str, ...]
    rows: list[DecodedRow]


def view_stores(
    paths: Sequence[Path], tokenizer, *, sequences: str, choice: str, rate: float, length: int, rows: int, step: int
) -> BatchView:
    """Batches of the training split as `pretrain` would make them, of several stores mixed by size. step: which `rows` rows to decode."""
    from data_pipeline.batches.loader import Loader
    from data_pipeline.batches.masking import MaskingSpec

    batch_size = max(rows, 1) * math.ceil(SHOWN_AT_ONCE / max(rows, 1))
    masking = MaskingSpec(rate=rate, predictions=min(round(rate * length) + 1, length), mask_share=0.8, random_share=0.1, choice=choice)
    loader = Loader(paths, shares=shares(paths), batch_size=batch_size, length=length, sequences=sequences, masking=masking, seed=0)
    step, first = divmod(step * rows, batch_size)
    word_starts = word_starts_of(loader, {"kind": sequences, "length": length, "seed": 0})
    return view_source(
        loader, tokenizer, word_starts, sequences=sequences, choice=choice, rate=rate, rows=rows, step=step, first=first
    )


def shares(paths: Sequence[Path]) -> tuple[float, ...]:
    """Of the stores in a mixture by size, adding up to 1."""
    from data_pipeline.batches.mixture import shares_of
    from data_pipeline.stores.store import TokenStore

    return tuple(shares_of(np.asarray([TokenStore(path).num_tokens for path in paths])).tolist())


def view_source(
    source,
    tokenizer,
    word_starts: Callable[[Batch], np.ndarray],
    *,
    sequences: str,
    choice: str,
    rate: float,
    rows: int,
    step: int,
    first: int = 0,
) -> BatchView:
    """`rows` rows of batch `step` from row `first` on, decoded, and SAMPLE_ROWS rows from that batch on, but no more than an epoch has,
    counted."""
    shown = source.batch(step)
    number = getattr(source, "num_sequences", None) or source.num_batches * source.batch_size
    return BatchView(
        sequences=sequences,
        choice=choice,
        rate=rate,
        num_sequences=getattr(source, "num_sequences", None),
        statistics=measure(_sample(source, step, shown, min(SAMPLE_ROWS, number)), tokenizer.special, word_starts),
        source_names=source.source_names,
        rows=decode_rows({name: array[first:] for name, array in shown.items()}, tokenizer, rows, source.source_names),
    )


def _sample(source, step: int, batch: Batch, rows: int) -> Iterator[Batch]:
    """The first `rows` rows from `batch`, that of `step`, on, as batches."""
    while rows > 0:
        yield {name: array[:rows] for name, array in batch.items()}
        rows -= len(batch["input_ids"])
        step += 1
        batch = source.batch(step) if rows > 0 else {}


def word_starts_of(loader, settings: dict) -> Callable[[Batch], np.ndarray]:
    """bool [B, L] of a loader's batches, as the stores have them. settings: of `packing.Sequences`."""
    from data_pipeline.sequences.packing import Sequences

    parts = [Sequences(source.store, **settings, with_words=True) for source in loader.sources]
    first_ids = np.asarray([source.first_id for source in loader.sources])

    def look_up(batch: Batch) -> np.ndarray:
        numbers = batch["example_ids"]
        sources = np.searchsorted(first_ids, numbers, side="right") - 1
        starts = np.zeros(batch["input_ids"].shape, bool)
        for number in np.unique(sources):
            rows = sources == number
            starts[rows] = parts[number].gather(numbers[rows] - first_ids[number]).word_starts
        return starts

    return look_up


def word_starts_by_token(tokenizer) -> Callable[[Batch], np.ndarray]:
    """The same for batches without a store, from their tokens: where one begins a word, and behind punctuation.

    Exact for WordPiece; else but for words with characters that are parted among tokens."""

    def look_up(batch: Batch) -> np.ndarray:
        tokens, places = np.unique(original_ids(batch), return_inverse=True)
        flags = np.asarray([_borders(*tokenizer.surface(token)) for token in tokens.tolist()])[places.reshape(batch["input_ids"].shape)]
        before = np.pad(flags[:, :-1], ((0, 0), (1, 0), (0, 0)))
        return flags[..., 0] & ~before[..., 1] | before[..., 2]

    return look_up


def _borders(text: str, continues_word: bool) -> tuple[bool, bool, bool]:
    """Of a token: whether it begins a word, is white space alone, and ends in punctuation, after which a word begins.

    Punctuation as BERT's pre-tokenizer sees it: Unicode's, and all of ASCII's symbols."""
    last = text[-1]
    is_punctuation = unicodedata.category(last).startswith("P") or "!" <= last <= "~" and not last.isalnum()
    return not continues_word, text == SPACE, is_punctuation and not PARTS.fullmatch(text)
