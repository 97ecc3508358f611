"""Masking on real text: counts, 80/10/10, no special token, and a row's mask is its own. How tokens are chosen: test_mask_choice.py."""

import numpy as np
import pytest

from data_pipeline.batches.masking import Masker, MaskingSpec
from data_pipeline.sequences import order
from tests.data_pipeline.batches.masking_conformance import apply, check_masking, chosen_table, gather
from tests.data_pipeline.docstring_stores import SPECIAL, VOCAB_SIZE, open_documentation, open_word_pieces

LENGTH, PREDICTIONS = 128, 20
SPECIAL_IDS = list(SPECIAL.values())
CHOICES = ("tokens", "whole_words", "ngrams:3", "spans:0.2:10")


def mask(input_ids, segment_ids, spec=MaskingSpec(predictions=PREDICTIONS), seed=0, epoch=0, example_ids=None, word_starts=None, rate=None):
    """Rows masked for a seed and an epoch; every token is a word unless told otherwise."""
    masker = Masker(spec, length=input_ids.shape[1], vocab_size=VOCAB_SIZE, special=SPECIAL)
    example_ids = np.arange(len(input_ids)) if example_ids is None else example_ids
    word_starts = np.ones(input_ids.shape, bool) if word_starts is None else word_starts
    return masker(input_ids, segment_ids, order.fold(order.make_key(seed, epoch), example_ids), word_starts, rate)


@pytest.fixture(scope="module")
def rows():
    return gather(open_documentation(), LENGTH)


def full_rows(count):
    """Rows of tokens that may all be chosen."""
    return np.random.default_rng(0).integers(200, VOCAB_SIZE, (count, LENGTH)), np.ones((count, LENGTH), np.uint8)


def chi_square(observed):
    expected, freedom = observed.mean(), len(observed) - 1
    return (((observed - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("rate, predictions", [(0.15, 20), (0.15, 10), (0.4, 51), (0.001, 20), (1.0, 128)])
def test_conforms(choice, rate, predictions):
    check_masking(open_word_pieces(), MaskingSpec(rate=rate, predictions=predictions, choice=choice), length=LENGTH)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", ["full_sentences", "packed_documents"])
def test_conforms_on_other_rows(choice, kind):
    check_masking(open_word_pieces(), MaskingSpec(choice=choice, predictions=38), length=256, kind=kind)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_other_shares(choice, shares):
    """The first is ELECTRA's and DeBERTa-v3's generators'."""
    spec = MaskingSpec(predictions=PREDICTIONS, choice=choice, mask_share=shares[0], random_share=shares[1])
    check_masking(open_word_pieces(), spec, length=LENGTH)


def test_exact_number(rows):
    for rate, predictions in [(0.15, 20), (0.15, 10), (0.4, 60), (0.001, 20), (1.0, 128)]:
        output = mask(rows.input_ids, rows.segment_ids, MaskingSpec(rate=rate, predictions=predictions))
        candidates = ((rows.segment_ids == 1) & ~np.isin(rows.input_ids, SPECIAL_IDS)).sum(axis=1)
        expected = [min(predictions, max(1, round(rate * count)), count) for count in candidates.tolist()]
        np.testing.assert_array_equal(output["mlm_weights"].sum(axis=1), expected)


def test_specials_are_never_chosen_nor_drawn(rows):
    assert (rows.input_ids == SPECIAL["unk"]).any()
    for epoch in range(5):
        output = mask(rows.input_ids, rows.segment_ids, MaskingSpec(predictions=PREDICTIONS, mask_share=0.0, random_share=1.0), epoch=epoch)
        chosen = chosen_table(output)
        assert not np.isin(rows.input_ids[chosen], SPECIAL_IDS).any()
        assert not (chosen & (rows.segment_ids == 0)).any()
        assert not np.isin(output["input_ids"][chosen], SPECIAL_IDS).any()


def test_shares_of_mask_random_and_kept(rows):
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


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.5, 0.5)])
def test_uniform_over_the_vocabulary(shares):
    input_ids, segment_ids = full_rows(10_000)
    output = mask(input_ids, segment_ids, MaskingSpec(predictions=PREDICTIONS, mask_share=shares[0], random_share=shares[1]))
    became = output["input_ids"][chosen_table(output)]
    drawn = np.bincount(became[became != SPECIAL["mask"]], minlength=VOCAB_SIZE)
    assert not drawn[SPECIAL_IDS].any()
    assert abs(chi_square(np.delete(drawn, SPECIAL_IDS))) < 4
    assert drawn[[1, 99, 104, VOCAB_SIZE - 1]].min() > 0  # the neighbours of specials and both ends


@pytest.mark.parametrize("what", ["example_ids", "seed", "epoch"])
def test_neighbouring_keys_are_independent(what):
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


@pytest.mark.parametrize("choice", CHOICES[:3])
def test_action_is_independent_of_the_place(choice):
    input_ids, segment_ids = full_rows(10_000)
    output = mask(input_ids, segment_ids, MaskingSpec(predictions=PREDICTIONS, choice=choice))
    masked, chosen = output["input_ids"] == SPECIAL["mask"], chosen_table(output)
    share = masked.sum(axis=0) / chosen.sum(axis=0)
    deviation = (share - 0.8) / np.sqrt(0.16 / chosen.sum(axis=0))
    assert abs((deviation**2).mean() - 1) < 4 * np.sqrt(2 / LENGTH)


def test_one_draw_decides_for_a_span_and_each_token_of_an_ngram_has_its_own():
    rows = gather(open_word_pieces(), LENGTH)
    agreeing = {}
    for choice in CHOICES[1:]:
        output = apply(rows, MaskingSpec(predictions=PREDICTIONS, choice=choice, mask_share=0.5, random_share=0.0), open_word_pieces())
        masked, chosen = output["input_ids"] == SPECIAL["mask"], chosen_table(output)
        pairs = chosen[:, 1:] & chosen[:, :-1] & ~rows.word_starts[:, 1:]  # neighbours in a word
        assert pairs.sum() > 2000
        agreeing[choice] = (masked[:, 1:] == masked[:, :-1])[pairs].mean()
        pairs = chosen[:, 1:] & chosen[:, :-1] & rows.word_starts[:, 1:]
        agreeing[choice, "words"] = (masked[:, 1:] == masked[:, :-1])[pairs].mean()
    assert agreeing["spans:0.2:10"] == 1 and agreeing["spans:0.2:10", "words"] > 0.8  # not 1: runs may touch
    for choice in ("whole_words", "ngrams:3"):
        assert abs(agreeing[choice] - 0.5) < 0.03 and abs(agreeing[choice, "words"] - 0.5) < 0.03


def test_rows_with_few_candidates():
    pad, unk, cls, sep, _ = SPECIAL.values()
    input_ids = np.full((6, LENGTH), pad)
    input_ids[:, :5] = [
        [cls, sep, sep, pad, pad],
        [cls, unk, sep, pad, pad],
        [cls, 500, sep, pad, pad],
        [pad, pad, pad, pad, pad],
        [cls, 500, 501, sep, pad],
        [cls, 500, unk, 502, sep],
    ]
    segment_ids = (input_ids != pad).astype(np.uint8)
    word_starts = np.isin(input_ids, [500, unk])  # 500 501 and, in the last row, 500; unk 502 are words
    for choice in CHOICES:
        output = mask(input_ids, segment_ids, MaskingSpec(choice=choice, predictions=2), word_starts=word_starts)
        np.testing.assert_array_equal(output["mlm_weights"].sum(axis=1), [0, 0, 1, 0, int(choice == "tokens"), 1])
        assert output["mlm_positions"][2, 0] == 1 and output["mlm_targets"][2, 0] == 500
        if choice != "tokens":
            assert output["mlm_positions"][5, 0] == 1  # 502 is of a word with an unknown token
            both = mask(input_ids, segment_ids, MaskingSpec(choice=choice, predictions=2, rate=1.0), word_starts=word_starts)
            np.testing.assert_array_equal(both["mlm_positions"][4], [1, 2])


def test_rate_goes_linearly_to_its_end(rows):
    spec = MaskingSpec(rate=0.3, end_rate=0.1, predictions=38)
    assert [round(spec.rate_at(step, 100), 6) for step in (0, 25, 50, 100, 150)] == [0.3, 0.25, 0.2, 0.1, 0.1]
    for constant in (MaskingSpec(rate=0.3), MaskingSpec(rate=0.3, end_rate=0)):
        assert constant.rate_at(70, 100) == 0.3
    for rate in (0.3, 0.25, 0.1):
        left = mask(rows.input_ids, rows.segment_ids, spec, rate=rate)
        right = mask(rows.input_ids, rows.segment_ids, MaskingSpec(rate=rate, predictions=38))
        for name, array in left.items():
            np.testing.assert_array_equal(array, right[name])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": 1.1}, "rate=1.1"),
        ({"end_rate": 1.1}, "end_rate=1.1"),
        ({"predictions": 0}, "predictions=0"),
        ({"predictions": LENGTH + 1}, "predictions=129 is more than the length 128"),
        ({"mask_share": -0.1}, "mask_share=-0.1"),
        ({"mask_share": 0.95, "random_share": 0.1}, "add up"),
        ({"choice": "words"}, "choice='words' does not fit; it must be tokens, whole_words"),
    ],
)
def test_unfit_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Masker(MaskingSpec(**settings), length=LENGTH, vocab_size=VOCAB_SIZE, special=SPECIAL)


def test_specials_must_fit_the_vocabulary():
    with pytest.raises(ValueError, match="'mask' has the id 103"):
        Masker(MaskingSpec(), length=LENGTH, vocab_size=103, special=SPECIAL)


def test_words_must_be_given(rows):
    masker = Masker(MaskingSpec(choice="whole_words"), length=LENGTH, vocab_size=VOCAB_SIZE, special=SPECIAL)
    with pytest.raises(ValueError, match="'whole_words' needs word_starts"):
        masker(rows.input_ids, rows.segment_ids, order.fold(order.make_key(0), np.arange(len(rows.input_ids))))
