"""Pairs of segments from a store of real text: which are made, whether their labels are true, and what else may tell the label."""

import logging
import shutil

import numpy as np
import pytest

from data_pipeline.sequences import pair_plans, plan_parts, plans
from data_pipeline.sequences.packing import Sequences
from data_pipeline.stores.store import TokenStore
from tests.data_pipeline.docstring_stores import documentation, encoded, open_documentation, token_ends, write_store

LENGTHS = [16, 128, 512]


def pair_columns(length, kind="segment_pairs", store=None, **settings):
    """Store, sequences; starts and stops of both segments, labels."""
    store = store or open_documentation()
    sequences = Sequences(store, kind=kind, length=length, **settings)
    starts, stops = (array.reshape(-1, 2) for array in (sequences.starts, sequences.starts + sequences.lengths))
    return store, sequences, starts[:, 0], stops[:, 0], starts[:, 1], stops[:, 1], np.asarray(sequences.labels)


@pytest.mark.parametrize("length", LENGTHS)
def test_labels_tell_the_truth(length):
    store, sequences, a_starts, a_stops, b_starts, b_stops, labels = pair_columns(length, duplicates=3)
    sentence_ends, document_ends = token_ends(store)
    a_documents, b_documents = (np.searchsorted(document_ends, starts, side="right") for starts in (a_starts, b_starts))
    follows, full = labels == 0, (a_stops - a_starts) + (b_stops - b_starts) == length - 3
    assert set(labels) == {0, 1}
    assert (a_documents == b_documents)[follows].all() and (a_documents != b_documents)[~follows].all()
    # B begins where A ends, at a sentence's end, unless tokens were trimmed away between them, which happens only to full rows.
    assert (a_stops <= b_starts)[follows].all()
    whole = follows & ~full
    assert whole.any() and (a_stops == b_starts)[whole].all() and np.isin(a_stops[whole], sentence_ends).all()
    boundary = sentence_ends[np.searchsorted(sentence_ends, a_stops[follows], side="left")]
    assert (boundary <= b_starts[follows]).all()
    # A random B begins at a sentence, wherever it was not trimmed.
    assert np.isin(b_starts[~follows & ~full], np.concatenate([[0], sentence_ends])).all()


def test_about_half_of_the_pairs_are_random():
    """A little more than half: a single last sentence has no rest to follow it."""
    labels = pair_columns(128, duplicates=20)[-1]
    assert 0.48 < labels.mean() < 0.58


def test_the_coin_is_fair_where_nothing_is_forced(tmp_path):
    """Documents of two long sentences: the first pair of each has both, and the choice is free."""
    texts = [[np.full(10, 200 + number), np.full(10, 200 + number)] for number in range(2000)]
    store = TokenStore(write_store(tmp_path, texts))
    sequences = Sequences(store, kind="segment_pairs", length=32, short_seq_prob=0.0)
    at_first = sequences.starts[::2] % 20 == 0
    assert at_first.sum() == 2000
    assert abs(sequences.labels[at_first].mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)
    # The unused second sentence is put back: it begins a pair of its own exactly where the first pair's B was random.
    assert len(sequences) - 2000 == sequences.labels[at_first].sum()
    # All other documents are equally likely.
    second = sequences.starts[1::2][sequences.labels == 1] // 20
    quarters = np.bincount(second * 4 // 2000, minlength=4)
    assert np.abs(quarters - quarters.mean()).max() < 4 * np.sqrt(quarters.mean())


def test_random_documents_come_from_every_shard():
    store, _, _, _, b_starts, _, labels = pair_columns(128, duplicates=5)
    shards = np.searchsorted(store.token_offsets, b_starts[labels == 1], side="right") - 1
    documents = np.diff(store.document_offsets)
    share = np.bincount(shards, minlength=3) / len(shards)
    np.testing.assert_allclose(share, documents / documents.sum(), atol=0.05)


def test_duplicates_are_other_pairs_of_the_same_text():
    _, sequences, a_starts, a_stops, b_starts, _, _ = pair_columns(128, duplicates=2)
    once = pair_columns(128, duplicates=1)[1]
    half = len(once)
    np.testing.assert_array_equal(sequences.starts[: 2 * half], once.starts)
    pairs = list(zip(a_starts.tolist(), a_stops.tolist(), b_starts.tolist()))
    assert len(set(pairs[:half]) & set(pairs[half:])) < 0.2 * half
    other_seed = pair_columns(128, seed=1)[1]
    assert len(set(once.starts.tolist()) ^ set(other_seed.starts.tolist())) > 0.2 * half


@pytest.mark.parametrize("length", LENGTHS)
def test_short_sequences(length):
    """Without short sequences every row is full unless its document ends or B's does."""
    lengths = {}
    for probability in (0.0, 0.1, 1.0):
        store, _, a_starts, a_stops, b_starts, b_stops, labels = pair_columns(length, short_seq_prob=probability)
        _, document_ends = token_ends(store)
        size = (a_stops - a_starts) + (b_stops - b_starts)
        lengths[probability] = size.mean()
        if probability == 0:
            stuck = np.isin(b_stops, document_ends)
            assert (size[~stuck] == length - 3).all()
    assert lengths[0.0] > lengths[0.1] > lengths[1.0]


def test_trimming_takes_from_both_ends(tmp_path):
    """Two sentences too long for a row, between fillers: tokens go from the longer one until both are equal, at either end."""
    texts = [[np.arange(200, 300), np.arange(300, 400)] for _ in range(400)]
    sequences = Sequences(TokenStore(write_store(tmp_path, texts)), kind="segment_pairs", length=64, short_seq_prob=0.0)
    sizes = np.asarray(sequences.lengths).reshape(-1, 2)
    np.testing.assert_array_equal(np.unique(sizes, axis=0), [[31, 30]])
    first = np.asarray(sequences.starts) % 100  # of 69 or 70 tokens taken, this many from the front
    assert abs(first.mean() - 34.75) < 4 * np.sqrt(69.5 / 4 / len(first))
    assert abs(first.std() - np.sqrt(69.5 / 4)) < 0.5


@pytest.mark.parametrize("kind", ["segment_pairs", "sentence_order"])
def test_block_size_changes_nothing_in_pairs(kind, monkeypatch, tmp_path):
    whole = pair_columns(128, kind)[1]
    shutil.copytree(documentation(), tmp_path / "store", ignore=shutil.ignore_patterns("plans"))
    monkeypatch.setattr(plan_parts, "BLOCK_SENTENCES", 100)
    monkeypatch.setattr(pair_plans, "WAITING_PAIRS", 150)
    in_blocks = Sequences(TokenStore(tmp_path / "store"), kind=kind, length=128)
    assert len(list(plan_parts.blocks(in_blocks.store))) > 20 and len(whole) > 4 * 150
    for name in plans.ARRAYS:
        np.testing.assert_array_equal(np.load(whole.directory / f"{name}.npy"), np.load(in_blocks.directory / f"{name}.npy"))


class Counted:
    """A shard that counts how often its sentence ends are asked for."""

    def __init__(self, shard):
        self.shard, self.count = shard, 0

    def __getattr__(self, name):
        self.count += name == "sentence_ends"
        return getattr(self.shard, name)


@pytest.mark.parametrize("most", [500, 1 << 20])
def test_random_segments_of_many_pairs_are_found_in_one_visit_to_each_shard(most, tmp_path, monkeypatch):
    """And not in one for each block, which would make the time quadratic in the number of shards; nor of all pairs, for want of memory."""
    monkeypatch.setattr(plan_parts, "BLOCK_SENTENCES", 100)
    monkeypatch.setattr(pair_plans, "WAITING_PAIRS", most)
    visits = {}
    for kind in ("full_sentences", "segment_pairs"):
        store = TokenStore(write_store(tmp_path / kind, encoded(), num_shards=10))
        store.shards = [Counted(shard) for shard in store.shards]
        pairs = len(Sequences(store, kind=kind, length=16))
        visits[kind] = np.asarray([shard.count for shard in store.shards])
    batches = (visits["segment_pairs"] - visits["full_sentences"]).max()
    assert pairs > 5 * 500 and pairs / (2 * most) <= batches <= pairs / most + 1


def test_one_document(tmp_path):
    """Random segments then come from elsewhere in it."""
    store = TokenStore(write_store(tmp_path / "one", [max(encoded(), key=len)]))
    sequences = Sequences(store, kind="segment_pairs", length=64, short_seq_prob=0.0)
    total = int(sequences.store.num_sentences)
    ends, _ = token_ends(sequences.store)
    a, b = np.searchsorted(ends, sequences.starts, side="right").reshape(-1, 2)[sequences.labels == 1].T
    apart = np.minimum((a - b) % total, (b - a) % total)
    assert len(a) > 10 and (apart >= total // 4 - 3).all()  # trimming may move the first token by a sentence or so
    with pytest.raises(ValueError, match="one sentence"):
        Sequences(TokenStore(write_store(tmp_path / "least", [[np.asarray([7, 8])]])), kind="segment_pairs", length=64)


def shuffled_sentences(count, fewest, most):
    """Documents of so many sentences of the documentation, each drawn at random: in any order they are equally likely."""
    random = np.random.default_rng(0)
    pool = [sentence for document in encoded() for sentence in document]
    return [[pool[number] for number in random.integers(0, len(pool), size)] for size in random.integers(fewest, most + 1, count)]


def rank_excess(values, is_one):
    """How likely a value where `is_one` is higher than another one, less 1/2; and the standard deviation of that where it makes no
    difference (Mann-Whitney)."""
    order = np.sort(values)
    ranks = (np.searchsorted(order, values, side="left") + np.searchsorted(order, values, side="right") + 1) / 2
    ones, zeros = is_one.sum(), (~is_one).sum()
    excess = (ranks[is_one].sum() - ones * (ones + 1) / 2) / (ones * zeros) - 0.5
    return excess, np.sqrt((len(values) + 1) / (12 * ones * zeros))


@pytest.mark.parametrize("length", LENGTHS)
def test_order_labels_tell_the_truth(length):
    """The segments of a pair are neighbours in one document, and stand in the order of the label."""
    store, _, a_starts, a_stops, b_starts, b_stops, labels = pair_columns(length, "sentence_order", duplicates=3)
    sentence_ends, document_ends = token_ends(store)
    swapped = labels == 1
    np.testing.assert_array_equal(swapped, b_starts < a_starts)
    first_starts, first_stops = np.where(swapped, b_starts, a_starts), np.where(swapped, b_stops, a_stops)
    second_starts, second_stops = np.where(swapped, a_starts, b_starts), np.where(swapped, a_stops, b_stops)
    np.testing.assert_array_equal(*(np.searchsorted(document_ends, tokens, side="right") for tokens in (first_starts, second_stops - 1)))
    boundary = sentence_ends[np.searchsorted(sentence_ends, first_stops)]
    full = (a_stops - a_starts) + (b_stops - b_starts) == length - 3
    assert (boundary <= second_starts).all() and (boundary == first_stops)[~full].all() and (boundary == second_starts)[~full].all()
    for stops in (first_stops, second_stops):
        assert np.isin(stops[~full], sentence_ends).all()


def test_order_is_swapped_half_of_the_time(tmp_path):
    labels = pair_columns(64, "sentence_order", TokenStore(write_store(tmp_path, shuffled_sentences(1000, 2, 40))))[-1]
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(labels))


@pytest.mark.parametrize("length, shuffled", [(16, True), (64, True), (128, True), (128, False), (512, False)])
def test_only_the_order_gives_the_label(length, shuffled, tmp_path):
    """Not the lengths of the two segments, and not whether they begin and end with a sentence."""
    store = TokenStore(write_store(tmp_path, shuffled_sentences(3000, 2, 40))) if shuffled else open_documentation()
    store, _, a_starts, a_stops, b_starts, b_stops, labels = pair_columns(length, "sentence_order", store)
    sentence_ends = np.concatenate([[0], token_ends(store)[0]])
    a_sizes, b_sizes = a_stops - a_starts, b_stops - b_starts
    cut = [~np.isin(tokens, sentence_ends) for tokens in (a_starts, a_stops, b_starts, b_stops)]
    for clue in (a_sizes, b_sizes, a_sizes - b_sizes, *cut):
        excess, deviation = rank_excess(clue.astype(int), labels == 1)
        assert abs(excess) < 4 * deviation


def test_lengths_give_little_away_within_one_document(tmp_path):
    """All of which is gathered in one direction. ALBERT's way has an excess of 0.1 here."""
    store = TokenStore(write_store(tmp_path, shuffled_sentences(1, 30000, 30000)))
    _, _, a_starts, a_stops, b_starts, b_stops, labels = pair_columns(128, "sentence_order", store)
    excess, deviation = rank_excess((a_stops - a_starts) - (b_stops - b_starts), labels == 1)
    assert abs(excess) < 0.025 + 4 * deviation


def test_order_leaves_no_text_out_but_what_it_trims(tmp_path, caplog):
    """Each sentence of a document of two or more is in one pair; documents of one sentence are in none, and counted."""
    sizes_of = ([5], [5, 6], [5, 6, 7], [5] * 9, [7], [20, 20, 20, 30], [30, 30, 5], [30] * 40)
    texts = [[np.full(size, 200 + size) for size in sizes] for sizes in sizes_of]
    store, sequences, a_starts, a_stops, b_starts, b_stops, _ = pair_columns(64, "sentence_order", TokenStore(write_store(tmp_path, texts)))
    covered = np.zeros(store.num_tokens, int)
    for start, stop in zip(np.append(a_starts, b_starts), np.append(a_stops, b_stops)):
        covered[start:stop] += 1
    _, document_ends = token_ends(store)
    assert covered.max() == 1
    shares = np.add.reduceat(covered, np.append(0, document_ends[:-1])) / np.diff(document_ends, prepend=0)
    np.testing.assert_array_equal(shares[:6], [0, 1, 1, 1, 0, 1])
    assert (shares[6:] > 0.9).all()
    assert caplog.record_tuples == [("bert_jax", logging.WARNING, caplog.messages[0])]
    assert "leaves out 2 of 8 documents in split 'train'" in caplog.text
    caplog.clear()
    pair_columns(64, "sentence_order", TokenStore(write_store(tmp_path / "long", texts[1:4])), duplicates=2)
    assert not caplog.messages
    pair_columns(64, "sentence_order", TokenStore(write_store(tmp_path / "mixed", texts)), duplicates=2)
    assert len(caplog.messages) == 1
    with pytest.raises(ValueError, match="sentence_order needs a document of two sentences"):
        pair_columns(64, "sentence_order", TokenStore(write_store(tmp_path / "single", texts[:1])))
