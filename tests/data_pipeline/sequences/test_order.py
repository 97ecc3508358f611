"""The order of the data: a bijection for every size, different per seed and epoch, with no favourite place and nothing regular in it."""

import numpy as np
import pytest

from data_pipeline.sequences.order import draw, fold, make_key, permute


def order(n, *parts):
    return permute(np.arange(n), n, make_key(*parts))


def chi_square(observed, expected=None):
    """Standardised: about normal(0, 1) for uniform counts."""
    observed = np.asarray(observed, float).ravel()
    expected = observed.mean() if expected is None else expected
    freedom = len(observed) - 1
    return (((observed - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 255, 1000, 4097, 1_000_003])
def test_is_a_bijection(n):
    visited = np.zeros(n, bool)
    visited[order(n, 3, 1)] = True
    assert visited.all()


def test_part_by_part_is_the_same():
    whole = order(10_007, 1, 2)
    some = np.random.default_rng(0).integers(0, 10_007, 50)
    np.testing.assert_array_equal(permute(some, 10_007, make_key(1, 2)), whole[some])
    keys = np.concatenate([make_key(1, 2)] * 30 + [make_key(1, 3)] * 20)  # a batch that straddles two epochs
    mixed = permute(some, 10_007, keys)
    np.testing.assert_array_equal(mixed[:30], whole[some[:30]])
    np.testing.assert_array_equal(mixed[30:], order(10_007, 1, 3)[some[30:]])


def test_huge_sizes():
    n = 10**12 + 39
    some = permute(np.arange(1000), n, make_key(0))
    assert len(set(some.tolist())) == 1000 and 0 <= some.min() and some.max() < n
    assert abs(some.mean() / n - 0.5) < 0.05


def test_differs_by_seed_and_epoch():
    orders = [order(1000, seed, epoch) for seed in [*range(15), 2**40, 2**40 + 1] for epoch in [0, 1, 2, 10**6]]
    assert len({tuple(one.tolist()) for one in orders}) == len(orders)
    agreements = [(left == right).sum() for i, left in enumerate(orders) for right in orders[:i]]
    assert abs(np.mean(agreements) - 1) < 0.1 and max(agreements) < 10  # random orders agree in one place on average


@pytest.mark.parametrize("n, orders", [(3, 6), (4, 24), (5, 120)])
def test_every_order_of_few_is_equally_likely(n, orders):
    keys = fold(make_key(5), np.arange(orders * 200))
    found = permute(np.tile(np.arange(n), len(keys)), n, np.repeat(keys, n)).reshape(-1, n)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == orders
    assert abs(chi_square(counts)) < 4


def test_every_place_is_equally_likely():
    n, keys = 101, fold(make_key(9), np.arange(4000))
    found = permute(np.tile(np.arange(n), len(keys)), n, np.repeat(keys, n)).reshape(-1, n)
    counts = np.stack([np.bincount(found[:, index], minlength=n) for index in range(n)])
    assert abs(chi_square(counts, len(keys) / n)) < 4


@pytest.mark.parametrize("n", [99_991, 2**17, 100_489])  # odd, a power of two, a square
def test_neighbours_are_unrelated(n):
    found = order(n, 1, 0).astype(float)
    for lag in (1, 2, 16, 317):
        assert abs(np.corrcoef(found[:-lag], found[lag:])[0, 1]) < 4 / np.sqrt(n)
    steps = np.bincount((np.diff(found) % n * 64 // n).astype(int), minlength=64)  # differences between neighbours, in 64 classes
    assert abs(chi_square(steps)) < 4
    squares, _, _ = np.histogram2d(found[:-1], found[1:], bins=32)
    assert abs(chi_square(squares)) < 4
    last_bits = np.bincount(found.astype(int)[:-1] % 8 * 8 + found.astype(int)[1:] % 8, minlength=64)
    assert abs(chi_square(last_bits)) < 4


def test_draws_are_uniform():
    found = draw(make_key(4), np.arange(300_000), 30)
    assert abs(chi_square(np.bincount(found, minlength=30))) < 4
    assert abs(chi_square(np.bincount(found[:-1] * 30 + found[1:], minlength=900))) < 4


def test_unfit_requests():
    with pytest.raises(ValueError, match="range"):
        permute(np.asarray([5]), 5, make_key(0))
    with pytest.raises(ValueError, match="range"):
        permute(np.asarray([0]), 0, make_key(0))
    with pytest.raises(ValueError, match="-1"):
        make_key(-1)
