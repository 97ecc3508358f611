"""Which tokens are chosen: no favoured place, the lengths of runs as drawn, and runs that end where their segment does."""

import numpy as np
import pytest

from data_pipeline.batches.mask_choice import choose_tokens, choose_words, find_words, run_lengths
from data_pipeline.sequences import order
from tests.data_pipeline.batches.masking_conformance import gather
from tests.data_pipeline.docstring_stores import SPECIAL, open_word_pieces

CHOICES = ("tokens", "whole_words", "ngrams:3", "spans:0.2:10")


def hashes_of(shape, seed=0):
    return order.fold(order.fold(order.make_key(seed), np.arange(shape[0]))[:, None], np.arange(shape[1]))


def choose(choice, candidates, budget, word_starts=None, seed=0):
    """bool [B, L]: what is chosen, with the same budget in every row; all tokens are words unless told otherwise."""
    hashes, budgets = hashes_of(candidates.shape, seed), np.full(len(candidates), budget)
    if choice == "tokens":
        places = choose_tokens(candidates, hashes, budgets)
    else:
        word_starts = np.ones_like(candidates) if word_starts is None else word_starts
        words = find_words(candidates, candidates, word_starts, candidates.astype(np.uint8))
        places = choose_words(words, hashes, budgets, run_lengths(choice))[0]
    table = np.zeros(candidates.size, bool)
    table[places] = True
    assert (np.diff(places) > 0).all()
    return table.reshape(candidates.shape)


def assert_uniform(table, places):
    """The `places` (int [N]) of the rows are chosen equally often: chi-square of the counts. Runs make near places dependent, so that the
    variance of the statistic is 2 x the sum of all squared correlations."""
    table = table[:, places]
    share = table.mean()
    statistic = ((table.sum(axis=0) - len(table) * share) ** 2 / (len(table) * share * (1 - share))).sum()
    spread = np.sqrt(2 * (np.corrcoef(table.T) ** 2).sum())
    assert abs(statistic - len(places)) < 5 * spread, f"{statistic:.0f} of {len(places)} +- {spread:.0f}"


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("budget", [6, 15])
def test_uniform_over_the_positions_of_a_row(choice, budget):
    """Ends of segments included: two segments, of 30 and 60 words, and padding behind."""
    candidates = np.zeros((20_000, 100), bool)
    candidates[:, 1:31] = candidates[:, 32:92] = True
    table = choose(choice, candidates, budget)
    assert (table.sum(axis=1) == budget).all() and not (table & ~candidates).any()
    assert_uniform(table, np.flatnonzero(candidates[0]))


@pytest.mark.parametrize("choice", CHOICES)
def test_uniform_over_words_of_one_size(choice):
    candidates, word_starts = np.ones((20_000, 90), bool), np.zeros((20_000, 90), bool)
    word_starts[:, ::3] = True
    budget = 13  # four words, and one token more
    table = choose(choice, candidates, budget, word_starts)
    if choice == "tokens":
        assert (table.sum(axis=1) == budget).all()
    else:
        assert (table.sum(axis=1) == 12).all() and (table[:, ::3] == table[:, 2::3]).all()
    assert_uniform(table, np.arange(0, 90, 3))


def test_tokens_are_chosen_independently_of_their_neighbours():
    table = choose("tokens", np.ones((20_000, 128), bool), 19)
    both = (table[:, 1:] & table[:, :-1]).mean()
    expected = 19 * 18 / (128 * 127)
    assert abs(both - expected) < 4 * np.sqrt(expected / table.size)


@pytest.mark.parametrize("choice, mean", [("ngrams:3", 18 / 11), ("spans:0.2:10", 3.797), ("whole_words", 1.0)])
def test_lengths_are_as_drawn(choice, mean):
    """The first run of a row has the length that was drawn for it: its words have one start, and no run was in its way."""
    lengths = run_lengths(choice)
    assert (lengths * np.arange(1, len(lengths) + 1)).sum() == pytest.approx(mean, abs=1e-3)
    candidates = np.ones((20_000, 300), bool)
    hashes = hashes_of(candidates.shape)
    words = find_words(candidates, candidates, candidates, candidates.astype(np.uint8))
    places, starts = choose_words(words, hashes, np.full(len(candidates), len(lengths)), lengths)
    first = np.argmax(hashes, axis=1)
    inside = first <= 300 - len(lengths)  # not cut at the end of the row
    tokens = np.bincount(starts, minlength=candidates.size)[np.arange(len(first)) * 300 + first]
    drawn = np.bincount(tokens[inside], minlength=len(lengths) + 1)
    assert drawn[0] == 0 and drawn.sum() > 19_000
    deviations = (drawn[1:] - drawn.sum() * lengths) / np.sqrt(drawn.sum() * lengths)
    assert abs((deviations**2).sum() - (len(lengths) - 1)) < 4 * np.sqrt(2 * max(1, len(lengths) - 1))


@pytest.mark.parametrize("choice", CHOICES[1:])
@pytest.mark.parametrize("kind", ["segment_pairs", "packed_documents"])
def test_runs_stay_in_their_segment(choice, kind):
    """On real rows: from the start of its run to each chosen token, all are chosen, candidates and of one segment; runs start at words."""
    rows = gather(open_word_pieces(), 128, kind)
    candidates = (rows.segment_ids > 0) & ~np.isin(rows.input_ids, list(SPECIAL.values()))
    text = candidates | (rows.input_ids == SPECIAL["unk"])
    words = find_words(text, candidates, rows.word_starts, rows.segment_ids)
    places, starts = choose_words(words, hashes_of(candidates.shape), np.full(len(candidates), 60), run_lengths(choice))
    np.testing.assert_array_equal(np.isin(starts, places), True)
    assert np.isin(starts, words.starts).all() and (starts <= places).all() and (starts // 128 == places // 128).all()
    allowed = np.zeros(candidates.size, bool)
    allowed[places] = True
    barriers = np.cumsum(~allowed | ~candidates.ravel())
    assert (barriers[starts] == barriers[places]).all()
    assert (rows.segment_ids.ravel()[starts] == rows.segment_ids.ravel()[places]).all()
    pieces = np.flatnonzero(np.diff(places, prepend=-2) > 1)
    assert np.isin(places[pieces], starts).all()  # what stands behind a gap starts a run
    longest = np.bincount(np.searchsorted(words.starts, places, side="right"))  # every word whole
    numbers = np.flatnonzero(longest)
    np.testing.assert_array_equal(longest[numbers], words.sizes[numbers - 1])


@pytest.mark.parametrize("choice", CHOICES[2:])
def test_runs_stay_in_segments_without_separators(choice):
    candidates = np.ones((200, 40), bool)
    segment_ids = np.repeat([[1] * 17 + [2] * 3 + [3] * 20], 200, axis=0)
    words = find_words(candidates, candidates, candidates & (np.arange(40) != 17), segment_ids)
    assert len(words.starts) == 200 * 40  # a word begins with its segment
    places, starts = choose_words(words, hashes_of(candidates.shape), np.full(200, 30), run_lengths(choice))
    np.testing.assert_array_equal(segment_ids.ravel()[places], segment_ids.ravel()[starts])
    assert (places > starts).mean() > 0.2


@pytest.mark.parametrize("choice", CHOICES[1:])
def test_words_larger_than_the_budget(choice):
    """As in google-research/bert: a word that does not fit is passed over, and where none fits nothing is chosen."""
    candidates, word_starts = np.ones((500, 12), bool), np.zeros((500, 12), bool)
    word_starts[:, [0, 3, 6, 9]] = True
    assert not choose(choice, candidates, 2, word_starts).any()
    word_starts[:, 10] = True  # words of 3, 3, 3, 1 and 2 tokens
    np.testing.assert_array_equal(choose(choice, candidates, 1, word_starts).sum(axis=0), [0] * 9 + [500, 0, 0])
    sizes = choose(choice, candidates, 4, word_starts).sum(axis=1)
    assert set(sizes) == {3, 4}  # 3 alone, then only words of 3 and 2 are left (or 2 and 1), else 3 and 1


@pytest.mark.parametrize("choice", CHOICES[1:])
def test_a_budget_of_everything_takes_everything(choice):
    rows = gather(open_word_pieces(), 128)
    candidates = (rows.segment_ids > 0) & ~np.isin(rows.input_ids, list(SPECIAL.values()))
    assert (choose(choice, candidates, 128, rows.word_starts) == candidates).all()
    empty = np.zeros((3, 128), bool)
    assert not choose(choice, empty, 20).any()


@pytest.mark.parametrize(
    "choice",
    ["", "token", "whole_words:2", "ngrams", "ngrams:0", "ngrams:65", "ngrams:x", "spans:0.2", "spans:1.0:10", "spans:0:10", "spans:0.2:0"],
)
def test_unknown_choices(choice):
    with pytest.raises(ValueError, match="masking.choice=.* does not fit"):
        run_lengths(choice)
