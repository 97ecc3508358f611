"""Mixtures: which of several sources fills each place of the data's order, and with which of its sequences. numpy only.

Enters: the sources' shares. Leaves: `Mixture.locate(positions)`, a pure function of the position that needs no state and no walk, so that the data at
any step is found at once. The order is cut into blocks of BLOCK places. In every block each source has the floor or the ceiling of share x BLOCK places
(systematic sampling: the places' quantiles lie BLOCK apart and start at an offset of the block's own); the offsets take each value once in PERIOD
blocks, evenly spread (bit reversal), so that the proportions are exact over the period. A keyed permutation of each block decides which places they are.
"""

import numpy as np

from data_pipeline.sequences.order import fold, permute

BLOCK = 256  # places
PERIOD = 4096  # blocks, a power of two: shares are kept to one part in BLOCK x PERIOD, a million
UNITS = BLOCK * PERIOD


def shares_of(sizes: np.ndarray, *, weights: tuple[float, ...] = (), alpha: float = 1.0) -> np.ndarray:
    """float64 [S], adding up to 1: `weights` normalised if there are any, else sizes ** alpha normalised (multilingual BERT: 0.7; XLM-R,
    Conneau et al. 2019, section 3.1: 0.3). Raises ValueError if they do not fit."""
    sizes = np.asarray(sizes, np.float64)
    if weights:
        raw = np.asarray(weights, np.float64)
        if len(raw) != len(sizes):
            raise ValueError(f"data.weights has {len(raw)} entries for {len(sizes)} stores; give one for each, or none for size ** data.alpha")
        if not (np.isfinite(raw).all() and (raw > 0).all()):
            raise ValueError(f"data.weights={list(weights)} does not fit; every weight must be above 0 (leave the store out instead)")
    else:
        if not 0 <= alpha <= 1:
            raise ValueError(f"data.alpha={alpha} does not fit; it must lie in [0, 1]: 1 samples by size, 0 all sources alike")
        raw = (sizes / sizes.max()) ** alpha
    return raw / raw.sum()


class Mixture:
    """The places of S sources with these `shares` (float [S]), in an order made from `key` (uint64 [1]).

    Raises ValueError for a share under one part in a million."""

    def __init__(self, shares: np.ndarray, key: np.ndarray):
        self.key = key
        bounds = np.rint(np.concatenate([[0.0], np.cumsum(shares)]) * UNITS).astype(np.int64)
        if np.diff(bounds).min() < 1:
            least = int(np.argmin(np.diff(bounds)))
            raise ValueError(f"source {least} has a share of {shares[least]:.2e} of the mixture; the least that is kept is {1 / UNITS:.1e}: give it more weight")
        self._bounds = bounds
        self._offsets = _bit_reversal(PERIOD)
        # Places of a block below each bound, for every block of the period, and their running totals: [S + 1, PERIOD], [S + 1, PERIOD + 1].
        self._below = -((self._offsets - bounds[:, None]) // PERIOD)
        self._totals = np.concatenate([np.zeros((len(bounds), 1), np.int64), np.cumsum(self._below, axis=1)], axis=1)

    @property
    def shares(self) -> np.ndarray:
        """float64 [S]: the shares as they are kept, exact over BLOCK x PERIOD places."""
        return np.diff(self._bounds) / UNITS

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N] positions in the order -> (source int64 [N], how many places of that source come before, int64 [N])."""
        blocks, slots = np.divmod(positions, BLOCK)
        places = permute(slots, BLOCK, fold(self.key, blocks))
        periods, inside = np.divmod(blocks, PERIOD)
        sources = np.searchsorted(self._bounds, places * PERIOD + self._offsets[inside], side="right") - 1
        before = periods * self._totals[sources + 1, -1] + self._totals[sources + 1, inside]
        before -= periods * self._totals[sources, -1] + self._totals[sources, inside]
        return sources, before + places - self._below[sources, inside]


def _bit_reversal(n: int) -> np.ndarray:
    """int64 [n]: the numbers below n, a power of two, with their bits reversed: every stretch of them is spread evenly."""
    order = np.zeros(1, np.int64)
    while len(order) < n:
        order = np.concatenate([2 * order, 2 * order + 1])
    return order
