"""Which tokens of a row are to be predicted: single tokens, whole words, or runs of whole words. numpy only.

Enters: what may be chosen (bool [B, L]), one hash per position (uint64 [B, L]) and a budget of tokens per row. Leaves: the chosen tokens'
places in the batch, row x L + position, ascending (int64 [C]).

Words and runs are chosen by one rule, vectorised over the rows. The words of a row form a ring, visited in random order; each draws a
length n. A visited word that is free takes the words from itself on, n at most, up to one that is taken already or exceeds what is left
of the budget. At the end, therefore, **every word that was not chosen is larger than what is left of the budget**. As all places of a
ring are alike, no place of a row is favoured, as the first and last words of a segment would be if runs had to fit between its ends. A
run that passes the end of its segment, or an unknown token, is cut there, and its rest is a run of its own, at the beginning of the next
segment (behind the last comes the first).
"""

import dataclasses

import numpy as np

LONGEST = 64  # words in a run
POSITION_BITS = 16  # rows are up to 65,536 tokens


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of B rows that may be chosen, W at most in a row and N in all, in the order of the text."""

    rows: np.ndarray  # int64 [N]
    numbers: np.ndarray  # int64 [N]: the word's number in its row
    starts: np.ndarray  # int64 [N]: the place of the first token
    sizes: np.ndarray  # int64 [N], in tokens
    joined: np.ndarray  # bool [N]: follows the word before directly, in the same segment
    counts: np.ndarray  # int64 [B]: words per row


def run_lengths(choice: str) -> np.ndarray | None:
    """The probabilities of runs of 1, 2, ... words, float64; None for "tokens". Raises ValueError for an unknown choice."""
    kind, *numbers = choice.split(":")
    try:
        if (kind, len(numbers)) == ("tokens", 0):
            return None
        if (kind, len(numbers)) == ("whole_words", 0):
            return np.ones(1)
        if (kind, len(numbers)) == ("ngrams", 1) and 1 <= int(numbers[0]) <= LONGEST:
            weights = 1 / np.arange(1, int(numbers[0]) + 1)
            return weights / weights.sum()
        if (kind, len(numbers)) == ("spans", 2) and 0 < float(numbers[0]) < 1 and 1 <= int(numbers[1]) <= LONGEST:
            weights = (1 - float(numbers[0])) ** np.arange(int(numbers[1]))
            return weights / weights.sum()
    except ValueError:
        pass  # not a number: told below
    raise ValueError(
        f"masking.choice={choice!r} does not fit; it must be tokens, whole_words, ngrams:N or spans:P:N, with 0 < P < 1 and N from 1 to "
        f"{LONGEST} words"
    )


def choose_tokens(candidates: np.ndarray, hashes: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Exactly `budgets` (int64 [B], not above the row's candidates) of the candidates, uniformly without replacement."""
    keys = np.where(candidates, _order(hashes, np.arange(candidates.shape[1])), np.iinfo(np.uint64).max)
    most = max(1, budgets.max(initial=0))
    first = np.sort(np.partition(keys, most - 1, axis=1)[:, :most], axis=1)
    last = np.take_along_axis(first, np.maximum(budgets, 1)[:, None] - 1, axis=1)
    return np.flatnonzero((keys <= last) & (budgets > 0)[:, None])


def find_words(text: np.ndarray, candidates: np.ndarray, word_starts: np.ndarray, segment_ids: np.ndarray) -> Words:
    """The words all of whose tokens are candidates. `text` (bool [B, L]) are the tokens that words are made of, unknown ones included. A
    word begins where `word_starts` says so, at the first token of the row or of a segment, and behind a token that is no text."""
    follows = np.zeros_like(text)
    follows[:, 1:] = text[:, :-1] & (segment_ids[:, 1:] == segment_ids[:, :-1])
    starts = np.flatnonzero(word_starts | ~text | ~follows)
    ends = np.append(starts[1:], text.size)
    allowed = text.take(starts)
    allowed[np.searchsorted(starts, np.flatnonzero(text & ~candidates), side="right") - 1] = False
    starts, ends = starts[allowed], ends[allowed]
    joined = follows.take(starts)
    joined[1:] &= starts[1:] == ends[:-1]
    joined[:1] = False
    rows = starts // text.shape[1]
    counts = np.bincount(rows, minlength=len(text))
    return Words(rows, np.arange(len(rows)) - (np.cumsum(counts) - counts).take(rows), starts, ends - starts, joined, counts)


def choose_words(words: Words, hashes: np.ndarray, budgets: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole words, in runs whose length is drawn from `lengths` (see `run_lengths`); at most `budgets` (int64 [B]) tokens per row.

    Returns the places, and for each that of the first token of its run."""
    takers = _take_runs(words, hashes.take(words.starts), budgets, lengths)
    continues = words.joined.copy()
    continues[1:] &= takers[1:] == takers[:-1]
    first_words = np.maximum.accumulate(np.where(continues, 0, np.arange(len(takers))))
    taken = np.flatnonzero(takers >= 0)
    sizes = words.sizes[taken]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(words.starts[taken], sizes) + within, np.repeat(words.starts[first_words[taken]], sizes)


def _take_runs(words: Words, hashes: np.ndarray, budgets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int64 [N]: of each word the number of the word whose run took it, -1 where it is free. `hashes` uint64 [N].

    Step t visits the t-th word in the random order of every row that is not finished."""
    width = words.counts.max(initial=0)
    slots = words.rows * width + words.numbers

    def padded(values: np.ndarray, fill: int) -> np.ndarray:  # [B x W]
        table = np.full(len(words.counts) * width, fill, values.dtype)
        table[slots] = values
        return table

    low_half = (hashes & np.uint64(2**32 - 1)).astype(np.float64)  # the order is drawn from the high half
    drawn = np.searchsorted(np.cumsum(lengths)[:-1] * 2.0**32, low_half, side="right") + 1
    drawn = padded(np.minimum(drawn, words.counts.take(words.rows)), 0)  # at most once around the ring
    keys = padded(_order(hashes, words.numbers), np.iinfo(np.uint64).max).reshape(len(words.counts), width)
    visits = (np.sort(keys, axis=1) & np.uint64(2**POSITION_BITS - 1)).astype(np.int64)
    sizes, takers = padded(words.sizes, 0), np.full(keys.size, -1)

    left, offsets = budgets.copy(), np.arange(len(lengths))
    rows = np.flatnonzero((left > 0) & (words.counts > 0))
    step = 0
    while rows.size:
        visited = visits[rows, step]
        ring = (rows * width)[:, None] + (visited[:, None] + offsets) % words.counts.take(rows)[:, None]
        spent = np.cumsum(sizes.take(ring), axis=1)
        takes = (offsets < drawn.take(ring[:, :1])) & (takers.take(ring) < 0) & (spent <= left.take(rows)[:, None])
        takes = np.logical_and.accumulate(takes, axis=1)
        run, offset = np.nonzero(takes)
        takers[ring[run, offset]] = visited[run]
        left[rows] -= np.max(spent * takes, axis=1)
        step += 1
        rows = rows[(left.take(rows) > 0) & (words.counts.take(rows) > step)]
    return takers.take(slots)


def _order(hashes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """uint64 keys, all different in a row, whose order is random: the highest 31 bits of the hash first, equal ones by their number."""
    return (~hashes >> np.uint64(33) << np.uint64(POSITION_BITS)) | numbers.astype(np.uint64)
