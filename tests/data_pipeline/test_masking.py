"""Masking on real text: counts, 80/10/10, no special token, no favoured place, and a row's mask is its own affair."""

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline import order
from data_pipeline.masking import Masker, MaskingSpec, fold
from data_pipeline.packing import Sequences
from tests.data_pipeline.docstring_stores import SPECIAL, VOCAB_SIZE, open_documentation

LENGTH, PREDICTIONS = 128, 20
SPECIAL_IDS = list(SPECIAL.values())


@pytest.fixture(scope="module")
def rows():
    sequences = Sequences(open_documentation(), kind="segment_pairs", length=LENGTH)
    return sequences.gather(np.arange(len(sequences)))


@pytest.fixture(scope="module")
def mask():
    """Masks rows with example ids, for a seed and an epoch; every spec is traced once."""
    traced = {}

    def apply(input_ids, segment_ids, spec=MaskingSpec(predictions=PREDICTIONS), seed=0, epoch=0, example_ids=None):
        if spec not in traced:
            masker = Masker(spec, length=input_ids.shape[1], vocab_size=VOCAB_SIZE, special=SPECIAL)
            traced[spec] = tf.function(masker.__call__, reduce_retracing=True)
        example_ids = np.arange(len(input_ids)) if example_ids is None else example_ids
        keys = order.fold(order.make_key(seed, epoch), example_ids)
        output = traced[spec](tf.constant(input_ids.astype(np.int32)), tf.constant(segment_ids), tf.constant(keys))
        return {name: value.numpy() for name, value in output.items()}

    return apply


def full_rows(count):
    """Rows of tokens that may all be chosen."""
    return np.random.default_rng(0).integers(200, VOCAB_SIZE, (count, LENGTH)), np.ones((count, LENGTH), np.uint8)


def chi_square(observed, expected=None):
    observed = np.asarray(observed, float).ravel()
    expected = observed.mean() if expected is None else expected
    freedom = len(observed) - 1
    return (((observed - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


def chosen_table(output):
    """bool [B, L]: where something is to be predicted."""
    table = np.zeros(output["input_ids"].shape, bool)
    row, slot = np.nonzero(output["mlm_weights"])
    table[row, output["mlm_positions"][row, slot]] = True
    return table


def test_hash_is_that_of_order():
    keys, counters = order.fold(order.make_key(7), np.arange(50)), np.asarray([0, 1, 2, 511, 2**40])
    found = fold(tf.constant(keys)[:, None], tf.constant(counters)[None]).numpy()
    np.testing.assert_array_equal(found, order.fold(keys[:, None], counters))


@pytest.mark.parametrize("rate, predictions", [(0.15, 20), (0.15, 10), (0.4, 60), (0.001, 20), (1.0, 128)])
def test_exact_number(rows, mask, rate, predictions):
    output = mask(rows.input_ids, rows.segment_ids, MaskingSpec(rate=rate, predictions=predictions))
    candidates = ((rows.segment_ids == 1) & ~np.isin(rows.input_ids, SPECIAL_IDS)).sum(axis=1)
    expected = [min(predictions, max(1, round(rate * count)), count) for count in candidates.tolist()]
    weights = output["mlm_weights"]
    np.testing.assert_array_equal(weights.sum(axis=1), expected)
    assert set(np.unique(weights)) <= {0.0, 1.0} and (np.diff(weights, axis=1) <= 0).all()  # used slots first


def test_slots_restore_the_row(rows, mask):
    output = mask(rows.input_ids, rows.segment_ids)
    used = output["mlm_weights"] == 1
    positions, targets = output["mlm_positions"], output["mlm_targets"]
    assert (np.diff(positions, axis=1) > 0)[used[:, 1:]].all()
    assert not positions[~used].any() and not targets[~used].any()
    row, slot = np.nonzero(used)
    restored = output["input_ids"].copy()
    restored[row, positions[row, slot]] = targets[row, slot]
    np.testing.assert_array_equal(restored, rows.input_ids)


def test_specials_are_never_chosen_nor_drawn(rows, mask):
    assert (rows.input_ids == SPECIAL["unk"]).any()
    for epoch in range(5):
        output = mask(rows.input_ids, rows.segment_ids, MaskingSpec(predictions=PREDICTIONS, mask_share=0.0, random_share=1.0), epoch=epoch)
        chosen = chosen_table(output)
        assert not np.isin(rows.input_ids[chosen], SPECIAL_IDS).any()
        assert not (chosen & (rows.segment_ids == 0)).any()
        assert not np.isin(output["input_ids"][chosen], SPECIAL_IDS).any()


def test_shares_of_mask_random_and_kept(rows, mask):
    counts = np.zeros(3)
    for epoch in range(10):
        output = mask(rows.input_ids, rows.segment_ids, epoch=epoch)
        chosen = chosen_table(output)
        became, was = output["input_ids"][chosen], rows.input_ids[chosen]
        counts += [(became == SPECIAL["mask"]).sum(), ((became != SPECIAL["mask"]) & (became != was)).sum(), (became == was).sum()]
    total = counts.sum()
    assert total > 100_000
    for count, share in zip(counts, (0.8, 0.1 * (1 - 1 / VOCAB_SIZE), 0.1)):  # one draw in V is the token itself
        assert abs(count - share * total) < 4 * np.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_other_shares(rows, mask, shares):
    output = mask(rows.input_ids, rows.segment_ids, MaskingSpec(predictions=PREDICTIONS, mask_share=shares[0], random_share=shares[1]))
    chosen = chosen_table(output)
    masked = (output["input_ids"][chosen] == SPECIAL["mask"]).mean()
    kept = (output["input_ids"][chosen] == rows.input_ids[chosen]).mean()
    assert abs(masked - shares[0]) < 0.02 and abs(kept - (1 - sum(shares))) < 0.02


def test_uniform_over_positions(mask):
    input_ids, segment_ids = full_rows(10_000)
    table = chosen_table(mask(input_ids, segment_ids))
    rate = 19 / LENGTH
    assert abs(chi_square(table.sum(axis=0) / (1 - rate), len(table) * rate / (1 - rate))) < 5
    neighbours = (table[:, 1:] & table[:, :-1]).mean()
    assert abs(neighbours - rate * 18 / 127) < 4 * np.sqrt(rate * 18 / 127 / table.size)


def test_uniform_over_the_vocabulary(mask):
    input_ids, segment_ids = full_rows(10_000)
    output = mask(input_ids, segment_ids, MaskingSpec(predictions=PREDICTIONS, mask_share=0.0, random_share=1.0))
    drawn = np.bincount(output["input_ids"][chosen_table(output)], minlength=VOCAB_SIZE)
    assert not drawn[SPECIAL_IDS].any()
    assert abs(chi_square(np.delete(drawn, SPECIAL_IDS))) < 4
    assert drawn[[1, 99, 104, VOCAB_SIZE - 1]].min() > 0  # the neighbours of specials and both ends


@pytest.mark.parametrize("what", ["example_ids", "seed", "epoch"])
def test_neighbouring_keys_are_independent(mask, what):
    """Two keys that differ by one agree in as many places as two random masks would."""
    input_ids, segment_ids = full_rows(4000)
    step = {"example_ids": np.arange(4000) + 1} if what == "example_ids" else {what: 1}
    left, right = mask(input_ids, segment_ids), mask(input_ids, segment_ids, **step)
    both = (chosen_table(left) & chosen_table(right)).mean()
    expected = (19 / LENGTH) ** 2
    if what == "example_ids":  # row i + 1 of the one is row i of the other
        np.testing.assert_array_equal(left["mlm_positions"][1:], right["mlm_positions"][:-1])
    assert abs(both - expected) < 4 * np.sqrt(expected / left["input_ids"].size)
    masked = [output["input_ids"] == SPECIAL["mask"] for output in (left, right)]
    assert abs((masked[0] & masked[1]).mean() - expected * 0.64) < 4 * np.sqrt(expected * 0.64 / input_ids.size)


def test_action_is_independent_of_the_place(mask):
    input_ids, segment_ids = full_rows(10_000)
    output = mask(input_ids, segment_ids)
    masked, chosen = output["input_ids"] == SPECIAL["mask"], chosen_table(output)
    share = masked.sum(axis=0) / chosen.sum(axis=0)
    deviation = (share - 0.8) / np.sqrt(0.16 / chosen.sum(axis=0))
    assert abs((deviation**2).mean() - 1) < 4 * np.sqrt(2 / LENGTH)


def test_a_rows_mask_is_its_own(rows, mask):
    whole = mask(rows.input_ids, rows.segment_ids)
    some = np.random.default_rng(0).permutation(len(rows.input_ids))[:37]
    part = mask(rows.input_ids[some], rows.segment_ids[some], example_ids=some)
    for name in whole:
        np.testing.assert_array_equal(part[name], whole[name][some])


def test_rows_with_few_candidates(mask):
    input_ids = np.full((4, LENGTH), SPECIAL["pad"])
    input_ids[:, :4] = [
        [SPECIAL["cls"], SPECIAL["sep"], SPECIAL["sep"], 0],
        [SPECIAL["cls"], SPECIAL["unk"], SPECIAL["sep"], 0],
        [SPECIAL["cls"], 500, SPECIAL["sep"], 0],
        [0, 0, 0, 0],
    ]
    segment_ids = (np.arange(LENGTH) < 4)[None] & np.asarray([[True], [True], [True], [False]])
    output = mask(input_ids, segment_ids.astype(np.uint8))
    np.testing.assert_array_equal(output["mlm_weights"].sum(axis=1), [0, 0, 1, 0])
    np.testing.assert_array_equal(output["input_ids"][[0, 1, 3]], input_ids[[0, 1, 3]])
    assert output["mlm_positions"][2, 0] == 1 and output["mlm_targets"][2, 0] == 500


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": 1.1}, "rate=1.1"),
        ({"predictions": 0}, "predictions=0"),
        ({"predictions": LENGTH + 1}, "predictions=129 is more than the length 128"),
        ({"mask_share": -0.1}, "mask_share=-0.1"),
        ({"mask_share": 0.95, "random_share": 0.1}, "add up"),
    ],
)
def test_unfit_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Masker(MaskingSpec(**settings), length=LENGTH, vocab_size=VOCAB_SIZE, special=SPECIAL)


def test_specials_must_fit_the_vocabulary():
    with pytest.raises(ValueError, match="'mask' has the id 103"):
        Masker(MaskingSpec(), length=LENGTH, vocab_size=103, special=SPECIAL)
