"""The order of the data: a keyed permutation of range(n), any index at a time. numpy only.

Enters: indices, n and a key made from (seed, epoch). Leaves: where each index goes. Nothing is stored and nothing is shuffled in memory, so
the sequence at any step is found without reading what came before. A Feistel network with modular addition permutes the smallest
near-square rectangle that holds n; the few outputs beyond n are walked on until they fall inside, which keeps the map a bijection (Black
and Rogaway, "Ciphers with arbitrary finite domains", 2002, sections 3 and 4).

The counter-based hash under it (`fold`) is splitmix64 (Steele, Lea and Flood, 2014) and also serves plans.py and masking.py.
"""

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: the increment of splitmix64
FIRST_MULTIPLIER, SECOND_MULTIPLIER = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
ROUNDS = 8  # four are visibly regular
PLAN, ORDER, MASKS, MIXTURE = range(4)  # what a seed is used for: folded in behind it, so that no two uses share a stream
SMALLEST_SIDE = 4  # smaller rectangles would not reach all orders of a tiny n equally often


def fold(keys: np.ndarray, counters: np.ndarray | int) -> np.ndarray:
    """New uint64 keys from uint64 keys and non-negative integers, broadcast; at least one of them an array with an axis.

    For one key all counters give different results; each bit of either moves every bit of the result."""
    counters = np.asarray(counters).astype(np.uint64)
    values = keys + np.uint64(GOLDEN) * counters + np.uint64(GOLDEN)  # wraps around, as wanted
    values = (values ^ (values >> np.uint64(30))) * np.uint64(FIRST_MULTIPLIER)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(SECOND_MULTIPLIER)
    return values ^ (values >> np.uint64(31))


def make_key(*parts: int) -> np.ndarray:
    """A uint64 [1] key from non-negative integers, such as (seed, epoch). Raises ValueError for a negative part."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        if not 0 <= part < 2**63:
            raise ValueError(f"a seed or an epoch is {part}; it must lie in [0, 2**63)")
        key = fold(key, np.asarray([part]))
    return key


def draw(keys: np.ndarray, counters: np.ndarray | int, below: np.ndarray | int) -> np.ndarray:
    """int64 uniform in [0, below), one for each key and counter (broadcast). Needs 1 <= below <= 2**32; the bias is under below / 2**32."""
    bits = fold(keys, counters) >> np.uint64(32)
    return ((bits * np.asarray(below).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def permute(indices: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where a permutation of range(n) sends each index. `indices` int64 [N], `keys` uint64 [1] or [N] (a batch may straddle two epochs).

    Returns int64 [N]. Raises ValueError if n < 1 or an index lies outside range(n)."""
    indices = np.asarray(indices, np.int64)
    if n < 1 or (indices.size and not (0 <= indices.min() and indices.max() < n)):
        raise ValueError(f"permute: indices must lie in range({n})")
    width = max(SMALLEST_SIDE, int(np.ceil(np.sqrt(n))))
    height = max(SMALLEST_SIDE, -(-n // width))
    keys = np.broadcast_to(keys, indices.shape)
    result = np.empty_like(indices)
    walking, walked = np.arange(indices.size), indices
    while walking.size:
        row, column = np.divmod(walked, width)
        for number in range(0, ROUNDS, 2):
            column = (column + draw(keys, row * ROUNDS + number, width)) % width
            row = (row + draw(keys, column * ROUNDS + number + 1, height)) % height
        walked = row * width + column
        result[walking] = walked
        outside = walked >= n
        walking, walked, keys = walking[outside], walked[outside], keys[outside]
    return result
