"""Whole numbers counted: lengths, runs, fills. Enters: integer arrays, chunk by chunk. Leaves: quantiles, and bins to draw. numpy only."""

import dataclasses
import functools
import operator
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bin:
    """`count` numbers from `first` to `last`, both included; last=None: without end."""

    first: int
    last: int | None
    count: int

    def __str__(self) -> str:
        if self.last is None:
            return f"{self.first:,}+"
        return f"{self.first:,}" if self.first == self.last else f"{self.first:,}–{self.last:,}"


@dataclasses.dataclass(frozen=True)
class Distribution:
    """How often each number occurred: `values` int64 [V], ascending and different; `counts` int64 [V], all above 0."""

    values: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(*chunks: np.ndarray) -> "Distribution":
        """Of the integers >= 0 in all arrays, of any shape."""
        return Distribution.sum(Distribution(*np.unique(np.asarray(chunk, np.int64), return_counts=True)) for chunk in chunks)

    @staticmethod
    def sum(parts: Iterable["Distribution"]) -> "Distribution":
        nothing = np.zeros(0, np.int64)
        return functools.reduce(operator.add, parts, Distribution(nothing, nothing))

    def __add__(self, other: "Distribution") -> "Distribution":
        values, places = np.unique(np.concatenate([self.values, other.values]), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return Distribution(values, counts)

    def __bool__(self) -> bool:
        return len(self.values) > 0

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.values @ self.counts) / max(1, self.total)

    @property
    def least(self) -> int:
        return int(self.values[0])

    @property
    def greatest(self) -> int:
        return int(self.values[-1])

    def quantile(self, share: float) -> int:
        """The least number that at least `share` of the numbers do not exceed; 0.5: the (lower) median. IndexError if there are none."""
        return int(self.values[np.searchsorted(np.cumsum(self.counts), share * self.total - 1e-9)])

    def count_between(self, first: int, last: int) -> int:
        """How many numbers lie from `first` to `last`, both included."""
        return int(self.counts[np.searchsorted(self.values, first) : np.searchsorted(self.values, last, side="right")].sum())

    def doubling_bins(self, limit: int = 14) -> list[Bin]:
        """Bins from one power of two to the next, or of four, eight ..., so that there are at most `limit`: for lengths."""
        if not self:
            return []
        for stride in range(1, 64):
            low, high = (int(value).bit_length() // stride for value in (self.least, self.greatest))
            if high - low < limit:
                break
        edges = [1 << (stride * power - 1) if power else min(self.least, 1) for power in range(low, high + 2)]
        return self._between(edges)

    def single_bins(self, limit: int = 10) -> list[Bin]:
        """A bin for each number from the least on; the last of `limit` bins holds all that are greater, too: for small numbers."""
        if not self:
            return []
        if self.greatest - self.least < limit:
            return self._between(list(range(self.least, self.greatest + 2)))
        last = self.least + limit - 1
        return [*self._between(list(range(self.least, last + 1))), Bin(last, None, self.count_between(last, self.greatest))]

    def equal_bins(self, most: int, number: int = 10) -> list[Bin]:
        """`number` bins of equal width (at least 1) from 1 to `most`: for parts of a whole."""
        return self._between(np.unique(np.linspace(0, most, min(number, most) + 1).astype(int) + 1).tolist())

    def _between(self, edges: list[int]) -> list[Bin]:
        return [Bin(start, stop - 1, self.count_between(start, stop - 1)) for start, stop in zip(edges, edges[1:])]
