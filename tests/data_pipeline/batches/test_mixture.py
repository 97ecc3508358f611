"""A mixture's order: exact proportions in every window, every sequence of a source in turn, and any place found at once."""

import numpy as np
import pytest

from data_pipeline.batches.mixture import BLOCK, UNITS, Mixture, shares_of
from data_pipeline.sequences.order import make_key

SHARES = {
    "two": [0.7, 0.3],
    "xlmr": shares_of(np.geomspace(1, 20_000, 100), alpha=0.3),  # a hundred languages
    "one": [1.0],
    "tail": [0.999, 0.001 - 2e-6, 2e-6],
}


@pytest.fixture(scope="module", params=SHARES)
def mixture(request):
    return Mixture(np.asarray(SHARES[request.param]), make_key(3))


def test_every_aligned_block_has_floor_or_ceiling_of_its_share(mixture):
    sources, _ = mixture.locate(np.arange(64 * BLOCK))
    counts = np.stack([np.bincount(block, minlength=len(mixture.shares)) for block in sources.reshape(64, BLOCK)])
    wanted = mixture.shares * BLOCK
    assert ((counts == np.floor(wanted)) | (counts == np.ceil(wanted))).all()


def test_windows_of_a_few_thousand_sequences_keep_the_proportions(mixture):
    sources, _ = mixture.locate(np.arange(40_000))
    for start in (0, 77, 1003, 30_001):
        counts = np.bincount(sources[start : start + 4096], minlength=len(mixture.shares))
        # Whole blocks keep the share to within the spread of the offsets; only the two cut blocks at the ends are random.
        spread = np.sqrt(BLOCK * mixture.shares * (1 - mixture.shares))
        assert (np.abs(counts - 4096 * mixture.shares) <= 2 + 5 * spread).all()


def test_the_proportions_are_exact_over_a_period():
    mixture = Mixture(np.asarray([0.2, 0.3, 0.5]), make_key(0))
    first = 3 * UNITS  # anywhere
    sources, before = mixture.locate(np.arange(first, first + UNITS))
    np.testing.assert_array_equal(np.bincount(sources), np.rint(np.asarray([0.2, 0.3, 0.5]) * UNITS))
    np.testing.assert_allclose(mixture.shares, [0.2, 0.3, 0.5], atol=1 / UNITS)
    for source in range(3):
        taken = np.sort(before[sources == source])
        np.testing.assert_array_equal(taken, 3 * np.bincount(sources)[source] + np.arange(len(taken)))


def test_each_source_gives_its_sequences_in_turn_without_gap(mixture):
    sources, before = mixture.locate(np.arange(300 * BLOCK))
    for source in np.unique(sources):
        np.testing.assert_array_equal(np.sort(before[sources == source]), np.arange((sources == source).sum()))


def test_any_place_is_found_without_those_before(mixture):
    far = np.asarray([10**12 + 5, 7, 10**15, 10**7])
    together, alone = mixture.locate(far), [mixture.locate(far[i : i + 1]) for i in range(4)]
    for index, (source, before) in enumerate(alone):
        assert source[0] == together[0][index] and before[0] == together[1][index]
    assert (together[1] >= 0).all()


def test_places_within_a_block_are_mixed_and_the_key_matters():
    sources = {seed: Mixture(np.asarray([0.5, 0.5]), make_key(seed)).locate(np.arange(8192))[0] for seed in (1, 2)}
    changes = (np.diff(sources[1]) != 0).mean()
    assert 0.47 < changes < 0.53  # as if tossed
    assert 0.45 < (sources[1] == sources[2]).mean() < 0.55


def test_shares():
    np.testing.assert_allclose(shares_of([1, 3]), [0.25, 0.75])
    np.testing.assert_allclose(shares_of([1, 3], alpha=0.0), [0.5, 0.5])
    np.testing.assert_allclose(shares_of([1, 16], alpha=0.5), [0.2, 0.8])
    np.testing.assert_allclose(shares_of([1, 3], weights=(6, 2)), [0.75, 0.25])
    for wrong, message in (({"weights": (1.0,)}, "1 entries for 2 stores"), ({"weights": (1.0, 0.0)}, "above 0"), ({"alpha": 1.5}, "data.alpha=1.5")):
        with pytest.raises(ValueError, match=message):
            shares_of([1, 3], **wrong)
    with pytest.raises(ValueError, match="source 1 has a share"):
        Mixture(np.asarray([1 - 1e-7, 1e-7]), make_key(0))
