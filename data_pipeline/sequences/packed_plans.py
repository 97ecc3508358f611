"""Several documents in one row, attention apart, so that nothing is padding. numpy only.

Enters: blocks of documents. Leaves: rows whose pieces are documents or parts of them, each with its own [CLS] and [SEP], every token once.

Best-fit packing over a histogram of lengths (Krell et al. 2021, "Efficient sequence packing without cross-contamination"): one row is put
together from the counts of each length, longest first, and the same row is then repeated as often as the counts allow. Where no length
fits, a document is cut to fill the row, which the paper does not do. Documents longer than a row first give rows of their own. The only
choice that is not the lengths' is the hashed order among documents of equal length.
"""

import collections
from collections.abc import Iterator

import numpy as np

from data_pipeline.sequences.order import PLAN, fold, make_key
from data_pipeline.sequences.plan_parts import Block, Piecewise, Settings
from data_pipeline.stores.store import TokenStore

LEAST = 8  # tokens of the shortest part that a document is cut into, if rows are long enough
GAP_SHARE = 128  # of this many slots of a row one may stay empty
CARRIED_ROWS = 64  # of pieces kept for the next block: the last pieces of all fit badly
CUT_SHARE = 4  # a row with a cut is repeated for this part of the pieces at most, so that what was cut off finds others to go with
UNDONE = 8  # pieces taken back at most, when nothing fills what they leave
TRIED = 64  # lengths, when two pieces are looked for that fill what is left of a row


def packed_documents(store: TokenStore, settings: Settings, blocks: Iterator[Block], duplicate: int) -> Iterator[Piecewise]:
    """Rows of documents, the longest first. Documents of equal length are taken in hashed order, so that neighbours in the corpus do not
    keep together; a row may mix shards."""
    pool = _Pool(settings.length)
    room = settings.length - 2
    for block in blocks:
        document_starts, document_ends = block.document_bounds
        sizes = document_ends - document_starts
        fits = sizes <= room
        pool.add(block.token_offset + document_starts[fits], sizes[fits], can_cut=sizes[fits] > 1)
        rows, starts, sizes = _long_documents(block.ends, document_starts[~fits], sizes[~fits], room, pool.least)
        yield Piecewise(np.ones(len(rows), np.int64), block.token_offset + rows, np.full(len(rows), room), np.zeros(len(rows)))
        pool.add(block.token_offset + starts, sizes, can_cut=sizes >= 2 * pool.least)
        yield pool.rows(CARRIED_ROWS * settings.length)
    yield pool.rows(0)


def _long_documents(ends: np.ndarray, starts: np.ndarray, sizes: np.ndarray, room: int, least: int) -> tuple[np.ndarray, ...]:
    """Documents longer than `room`, cut: token offsets of full rows; and of what remains offsets and sizes, of `least` tokens or more.

    The remainder of a document lies before, between or behind its full rows: where it makes the most cuts fall on sentence ends. A
    remainder of fewer than `least` tokens is made of one full row more, and halved."""
    full, remainder = np.divmod(sizes, room)
    is_tiny = (remainder > 0) & (remainder < least)
    full, remainder = full - is_tiny, remainder + room * is_tiny

    document = np.repeat(np.arange(len(full)), full + 1)
    number = np.arange(len(document)) - (np.cumsum(full + 1) - full - 1)[document]
    offsets = starts[document] + number * room
    # Row i of n begins with cut i where the remainder comes later, and with shifted cut i where it came before.
    cuts = _are_ends(ends, offsets) & (number > 0)
    shifted = _are_ends(ends, offsets + remainder[document]) & (number < full[document])
    scores = np.cumsum(cuts) - np.cumsum(shifted) + shifted  # cuts up to this number, shifted ones from it on; but for a constant
    place = number[np.lexsort((number, -scores, document))[number == 0]]

    is_row = number < full[document]
    rows = (offsets + np.where(number >= place[document], remainder[document], 0))[is_row]
    starts = starts + place * room
    halves = np.where(is_tiny, _near_middle(ends, starts, remainder, np.maximum(least, remainder - room)), remainder)
    is_piece = remainder > 0
    return (
        rows,
        np.concatenate([starts[is_piece], (starts + halves)[is_tiny]]),
        np.concatenate([halves[is_piece], (remainder - halves)[is_tiny]]),
    )


def _are_ends(ends: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return ends[np.minimum(np.searchsorted(ends, offsets), len(ends) - 1)] == offsets


def _near_middle(ends: np.ndarray, starts: np.ndarray, sizes: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Where to cut pieces: after the sentence end nearest to the middle that leaves both parts `least` tokens, or else in the middle."""
    middle = sizes // 2
    after = np.minimum(np.searchsorted(ends, starts + middle), len(ends) - 1)
    later, earlier = (ends[at] - starts for at in (after, np.maximum(after - 1, 0)))
    nearest = np.where(middle - earlier < later - middle, earlier, later)
    return np.where((nearest >= least) & (sizes - nearest >= least), nearest, middle)


class _Pool:
    """Pieces that wait for a row, by class: class 2 n + 1 holds pieces of n tokens that may be cut, class 2 n those that may not.

    A cut leaves `least` tokens on both sides, or, of a document that is itself shorter than two such parts, about half of it."""

    def __init__(self, length: int):
        self.length = length
        self.least = min(LEAST, max(1, (length - 2) // 8))
        self.gap = length // GAP_SHARE
        self.slots = 0  # that all pieces take, [CLS] and [SEP] included
        self._counts = [0] * (2 * length)
        self._starts: dict[int, list[np.ndarray]] = collections.defaultdict(list)  # of the pieces of each class, int64 arrays
        # Sets of classes as bits of one integer: the highest one below a limit is found at once.
        self._present = 0
        self._may_be_cut = sum(1 << (2 * size + 1) for size in range(length))

    def add(self, starts: np.ndarray, sizes: np.ndarray, can_cut: np.ndarray) -> None:
        """int64 [N] token offsets and sizes, bool [N]."""
        classes = 2 * sizes + can_cut
        order = np.lexsort((fold(make_key(PLAN), starts), classes))
        present, first = np.unique(classes[order], return_index=True)
        for number, part in zip(present.tolist(), np.split(starts[order], first[1:])):
            self._put(number, part)

    def rows(self, slots: int) -> Piecewise:
        """Takes rows, until the pieces left take `slots` slots or fewer."""
        none = np.zeros(0, np.int64)
        pieces, all_starts, all_sizes = [none], [none], [none]
        while self.slots > slots:
            row, times = self._next_row()
            starts = np.empty((times, len(row)), np.int64)
            for column, (number, _) in enumerate(row):
                starts[:, column] = self._take(number, times)
            for column, (number, size) in enumerate(row):
                rest = number // 2 - size
                if rest:
                    self._put(2 * rest + (rest >= 2 * self.least), starts[:, column] + size)
            pieces.append(np.full(times, len(row)))
            all_starts.append(starts.ravel())
            all_sizes.append(np.tile([size for _, size in row], times))
        pieces = np.concatenate(pieces)
        return Piecewise(pieces, np.concatenate(all_starts), np.concatenate(all_sizes), np.zeros(len(pieces)))

    def _next_row(self) -> tuple[list[tuple[int, int]], int]:
        """Classes, with the tokens to take of one piece of each; and how often to make such a row. Takes nothing yet."""
        row: list[tuple[int, int]] = []
        left, is_cut = self.length, False
        uses, available = self._uses(row)
        while left > 2:
            choice = self._last(left, uses, available)
            if choice is None and not is_cut:  # the longest that leaves slots enough for a part
                choice = _whole(_highest(available, left - 4 - self.least))
            if choice is None and left > self.gap:
                choice = self._part(left, available)
                if choice is None and not is_cut:
                    kept, choice = self._part_instead(row)
                    left += sum(size + 2 for _, size in row[kept:])
                    row = row[:kept]
                    uses, available = self._uses(row)
                is_cut |= choice is not None
            choice = choice or _whole(_highest(available, left - 2))
            if choice is None:
                break
            row.append(choice)
            number, size = choice
            left -= size + 2
            uses[number] += 1
            if uses[number] == self._counts[number]:
                available ^= 1 << number
        times = min(self._counts[number] // used for number, used in uses.items())
        return row, max(1, times // CUT_SHARE) if is_cut else times

    def _uses(self, row: list[tuple[int, int]]) -> tuple[collections.Counter, int]:
        """How many pieces of each class the row takes, and the set of classes of which more are left."""
        uses = collections.Counter(number for number, _ in row)
        return uses, self._present ^ sum(1 << number for number, used in uses.items() if used == self._counts[number])

    def _last(self, left: int, uses: collections.Counter, available: int) -> tuple[int, int] | None:
        """The piece that fills a row with `left` empty slots, or the longer one of two that do."""
        number = _highest(available, left - 2)
        if number is not None and left - 2 - number // 2 <= self.gap:
            return _whole(number)
        for _ in range(TRIED):
            if number is None or 2 * (number // 2) < left - 4 - self.gap:
                break
            rest = left - 4 - number // 2
            other = _highest(available, rest)
            if other is not None and rest - other // 2 <= self.gap and self._counts[number] - uses[number] > (number == other):
                return _whole(number)
            number = _highest(available, number // 2 - 1)
        return None

    def _part_instead(self, row: list[tuple[int, int]]) -> tuple[int, tuple[int, int] | None]:
        """How many pieces of a row of whole ones to keep so that parts fill it, and the first part; or all of them, and None."""
        for kept in range(len(row) - 1, max(len(row) - UNDONE, 0) - 1, -1):
            left = self.length - sum(size + 2 for _, size in row[:kept])
            part = self._part(left, self._uses(row[:kept])[1])
            if part:
                return kept, part
        return len(row), None

    def _part(self, left: int, available: int) -> tuple[int, int] | None:
        """A piece to cut and the tokens to take of it, so that the row is full with it or with more such parts. The longest piece, or the
        longest of those documents that are short themselves."""
        for limit in (self.length, 2 * self.least - 1):
            number = _highest(available & self._may_be_cut, limit)
            if number is None:
                break
            size = number // 2
            least = min(self.least, size // 2)
            parts = -(-left // (size - least + 2))
            if parts * (least + 2) <= left:
                return number, min(size - least, left - 2 - (parts - 1) * (least + 2))
        return None

    def _put(self, number: int, starts: np.ndarray) -> None:
        self._starts[number].append(starts)
        self._counts[number] += len(starts)
        self.slots += len(starts) * (number // 2 + 2)
        self._present |= 1 << number

    def _take(self, number: int, count: int) -> np.ndarray:
        self._counts[number] -= count
        self.slots -= count * (number // 2 + 2)
        if not self._counts[number]:
            self._present ^= 1 << number
        stack, taken = self._starts[number], []
        while count:
            part = stack.pop()
            if len(part) > count:
                stack.append(part[count:])
            taken.append(part[:count])
            count -= len(taken[-1])
        return np.concatenate(taken)


def _highest(classes: int, size: int) -> int | None:
    """The highest class of at most `size` tokens, or None."""
    number = (classes & ((1 << (2 * size + 2)) - 1)).bit_length() - 1 if size > 0 else -1
    return number if number >= 0 else None


def _whole(number: int | None) -> tuple[int, int] | None:
    return None if number is None else (number, number // 2)
