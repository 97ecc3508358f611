"""What a batch's masks and rows are like in numbers. Enters: batches of the contract. Leaves: `BatchStatistics`. numpy only.

A candidate is a real token that is not special. A word is chosen if any of its tokens is, and chosen whole if all are. A run is a longest
stretch of chosen tokens, or words, that stand next to each other in one piece of text.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from launch.inspect.distribution import Distribution

Batch = dict[str, np.ndarray]
LABELS = {"nsp_labels": ("B follows A", "B is random"), "sop_labels": ("in order", "swapped")}  # of 0 and of 1


@dataclasses.dataclass(frozen=True)
class BatchStatistics:
    """Counted over `rows` rows of `length` tokens and `slots` prediction slots. Of the chosen tokens, `masked` became the mask token,
    `replaced` another token, and `kept` stayed as they were."""

    rows: int
    length: int
    slots: int
    candidates: int
    masked: int
    replaced: int
    kept: int
    chosen_words: int
    whole_words: int  # chosen whole
    long_chosen_words: int  # of several tokens
    long_whole_words: int
    real: Distribution  # tokens per row that are no padding
    pieces: Distribution  # pieces of text per row: segments, or documents
    predictions: Distribution  # per row
    token_runs: Distribution
    word_runs: Distribution
    labels: dict[str, int]  # in words -> rows
    sources: np.ndarray  # int64 [S]: rows from each source of a mixture

    @property
    def chosen(self) -> int:
        return self.masked + self.replaced + self.kept

    @property
    def real_share(self) -> float:
        """Of all tokens of the rows; the rest is padding."""
        return self.real.mean / self.length

    @property
    def chosen_share(self) -> float:
        """Of the candidates."""
        return self.chosen / max(1, self.candidates)

    @property
    def whole_share(self) -> float | None:
        """Of the chosen words, those chosen whole; None if there are none."""
        return self.whole_words / self.chosen_words if self.chosen_words else None

    @property
    def long_whole_share(self) -> float | None:
        """The same of words of several tokens."""
        return self.long_whole_words / self.long_chosen_words if self.long_chosen_words else None


def measure(batches: Iterable[Batch], special: dict[str, int], word_starts: Callable[[Batch], np.ndarray]) -> BatchStatistics:
    """The statistics of all batches together, which must agree in L and K.

    special: ids of pad, unk, cls, sep and mask. word_starts(batch): bool [B, L], True where a word's first token stands. Raises ValueError
    if there is no batch."""
    parts = [_measure(batch, special, word_starts(batch)) for batch in batches]
    if not parts:
        raise ValueError("there is no batch to measure")
    together = {}
    for field in dataclasses.fields(BatchStatistics):
        values = [getattr(part, field.name) for part in parts]
        if field.name in ("length", "slots"):
            together[field.name] = values[0]
        elif field.name == "labels":
            together[field.name] = {name: sum(value[name] for value in values) for name in values[0]}
        elif field.name == "sources":
            together[field.name] = sum(np.pad(value, (0, max(map(len, values)) - len(value))) for value in values)
        else:
            together[field.name] = Distribution.sum(values) if isinstance(values[0], Distribution) else sum(values)
    return BatchStatistics(**together)


def original_ids(batch: Batch) -> np.ndarray:
    """int32 [B, L]: the tokens before masking."""
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["mlm_weights"])
    ids[rows, batch["mlm_positions"][rows, slots]] = batch["mlm_targets"][rows, slots]
    return ids


def _measure(batch: Batch, special: dict[str, int], word_starts: np.ndarray) -> BatchStatistics:
    seen, original, real = batch["input_ids"], original_ids(batch), batch["segment_ids"] > 0
    rows, slots = np.nonzero(batch["mlm_weights"])
    positions = batch["mlm_positions"][rows, slots]
    chosen = np.zeros(seen.shape, bool)
    chosen[rows, positions] = True
    inputs, targets = seen[rows, positions], batch["mlm_targets"][rows, slots]
    masked, kept = inputs == special["mask"], inputs == targets
    candidates = real & ~np.isin(original, list(special.values()))
    words = _words(real & ~np.isin(original, [special[name] for name in ("pad", "cls", "sep")]), word_starts, chosen)
    sources = batch.get("source_ids")
    return BatchStatistics(
        rows=len(seen),
        length=seen.shape[1],
        slots=batch["mlm_positions"].shape[1],
        candidates=int(candidates.sum()),
        masked=int(masked.sum()),
        replaced=int((~masked & ~kept).sum()),
        kept=int((~masked & kept).sum()),
        real=Distribution.of(real.sum(axis=1)),
        pieces=Distribution.of((real & (original == special["sep"])).sum(axis=1)),
        predictions=Distribution.of(chosen.sum(axis=1)),
        token_runs=Distribution.of(_runs(chosen)),
        labels={
            word: int((batch[name] == label).sum()) for name, both in LABELS.items() if name in batch for label, word in enumerate(both)
        },
        sources=np.zeros(0, np.int64) if sources is None else np.bincount(sources),
        **words,
    )


def _runs(chosen: np.ndarray, begins: np.ndarray | None = None) -> np.ndarray:
    """Lengths int64 [R] of the runs of True along the last axis of a bool array; `begins` (same shape): where a run may not continue."""
    before = np.pad(chosen[..., :-1], [(0, 0)] * (chosen.ndim - 1) + [(1, 0)])
    starts = chosen & ~(before if begins is None else before & ~begins)
    return np.bincount((np.cumsum(starts) - 1)[chosen.reshape(-1)])


def _words(inside: np.ndarray, word_starts: np.ndarray, chosen: np.ndarray) -> dict[str, int | Distribution]:
    """Counts of chosen words. All bool [B, L]; inside: where a token of a word stands. A row that begins within a word begins a word."""
    piece_starts = inside & ~np.pad(inside[:, :-1], ((0, 0), (1, 0)))
    starts = (inside & (word_starts | piece_starts)).reshape(-1)
    word_of = np.cumsum(starts) - 1
    number = int(starts.sum())
    sizes = np.bincount(word_of[inside.reshape(-1)], minlength=number)
    hits = np.bincount(word_of[(inside & chosen).reshape(-1)], minlength=number)
    any_chosen, whole, several = hits > 0, (hits > 0) & (hits == sizes), sizes > 1
    return {
        "chosen_words": int(any_chosen.sum()),
        "whole_words": int(whole.sum()),
        "long_chosen_words": int((any_chosen & several).sum()),
        "long_whole_words": int((whole & several).sum()),
        "word_runs": Distribution.of(_runs(any_chosen, begins=piece_starts.reshape(-1)[starts])),
    }
