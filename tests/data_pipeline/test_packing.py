"""Sequences from a store of real text: what the rows hold, which pairs are made, and when a plan is made anew."""

import shutil

import numpy as np
import pytest
from tests.data_pipeline.docstring_stores import SPECIAL, documentation, encoded, open_documentation, write_store

from data_pipeline import plans
from data_pipeline.packing import Sequences
from data_pipeline.store import TokenStore

LENGTHS = [16, 128, 512]


def pairs_of(length, **settings):
    store = open_documentation()
    return store, Sequences(store, kind="segment_pairs", length=length, **settings)


def all_tokens(store):
    return np.concatenate([shard.tokens for shard in store.shards])


def token_ends(store):
    """Global token offsets at which sentences end, and at which documents end."""
    sentences = [shard.sentence_ends + offset for shard, offset in zip(store.shards, store.token_offsets)]
    documents = [ends[shard.document_ends - 1] for shard, ends in zip(store.shards, sentences)]
    return np.concatenate(sentences), np.concatenate(documents)


def pieces(sequences):
    starts, stops = sequences.starts, sequences.starts + sequences.lengths
    return starts, stops


@pytest.mark.parametrize("kind", plans.KINDS)
@pytest.mark.parametrize("length", LENGTHS)
def test_rows_spell_their_pieces(kind, length):
    store = open_documentation()
    sequences = Sequences(store, kind=kind, length=length)
    text = all_tokens(store)
    some = np.random.default_rng(0).permutation(len(sequences))[:300]
    rows = sequences.gather(some)
    for row, number in enumerate(some):
        spelled, types = [SPECIAL["cls"]], [0]
        for place, piece in enumerate(range(sequences.first_pieces[number], sequences.first_pieces[number + 1])):
            start, size = sequences.starts[piece], sequences.lengths[piece]
            spelled += [*text[start : start + size], SPECIAL["sep"]]
            types += [place if kind == "segment_pairs" else 0] * (size + 1)
        assert len(spelled) <= length
        padding = length - len(spelled)
        np.testing.assert_array_equal(rows.input_ids[row], spelled + [SPECIAL["pad"]] * padding)
        np.testing.assert_array_equal(rows.token_type_ids[row], types + [0] * padding)
        np.testing.assert_array_equal(rows.segment_ids[row], [1] * len(spelled) + [0] * padding)
    assert rows.input_ids.dtype == np.uint16


@pytest.mark.parametrize("kind", plans.KINDS)
def test_pieces_stay_in_their_documents(kind):
    store = open_documentation()
    starts, stops = pieces(Sequences(store, kind=kind, length=128))
    _, document_ends = token_ends(store)
    assert (starts < stops).all()
    first, last = (np.searchsorted(document_ends, tokens, side="right") for tokens in (starts, stops - 1))
    np.testing.assert_array_equal(first, last)


def pair_columns(length, **settings):
    store, sequences = pairs_of(length, **settings)
    starts, stops = (array.reshape(-1, 2) for array in pieces(sequences))
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


@pytest.mark.parametrize("length", LENGTHS)
def test_full_sentences_hold_the_whole_text_once(length):
    store = open_documentation()
    sequences = Sequences(store, kind="full_sentences", length=length)
    starts, stops = pieces(sequences)
    assert starts[0] == 0 and stops[-1] == store.num_tokens
    np.testing.assert_array_equal(stops[:-1], starts[1:])
    # Rows begin and end at sentences, except for sentences longer than a row.
    sentence_ends, _ = token_ends(store)
    row_stops = stops[sequences.first_pieces[1:] - 1]
    sizes = np.diff(sentence_ends, prepend=0)
    inside = ~np.isin(row_stops, sentence_ends)
    assert (sizes[np.searchsorted(sentence_ends, row_stops[inside])] > length - 2).all()
    # No row could have held its next sentence too.
    width = np.add.reduceat(sequences.lengths.astype(int) + 1, sequences.first_pieces[:-1]) + 1
    following = np.searchsorted(sentence_ends, row_stops[:-1], side="right")
    shard_ends = np.isin(row_stops[:-1], store.token_offsets)
    assert (width[:-1] + sizes[following] > length)[~shard_ends & ~inside[:-1]].all()
    assert width.max() <= length


def test_share_of_real_tokens(record_property):
    store = open_documentation()
    pairs, full = plans.KINDS
    for kind, length, least in ((pairs, 128, 0.8), (pairs, 512, 0.6), (full, 128, 0.8), (full, 512, 0.9)):
        sequences = Sequences(store, kind=kind, length=length)
        share = sequences.gather(np.arange(len(sequences))).segment_ids.mean()
        record_property(f"real tokens, {kind} {length}", f"{share:.3f}")
        assert share > least


def test_block_size_changes_nothing_in_pairs(monkeypatch, tmp_path):
    whole = pairs_of(128)[1]
    shutil.copytree(documentation(), tmp_path / "store", ignore=shutil.ignore_patterns("plans"))
    monkeypatch.setattr(plans, "BLOCK_SENTENCES", 100)
    in_blocks = Sequences(TokenStore(tmp_path / "store"), kind="segment_pairs", length=128)
    assert len(list(plans.blocks(in_blocks.store))) > 20
    for name in plans.ARRAYS:
        np.testing.assert_array_equal(np.load(whole.directory / f"{name}.npy"), np.load(in_blocks.directory / f"{name}.npy"))


def test_plan_is_made_once(tmp_path, monkeypatch):
    directory = write_store(tmp_path / "store", encoded()[:20])
    made = Sequences(TokenStore(directory), kind="segment_pairs", length=64)
    monkeypatch.setattr(plans, "_write", lambda *_: pytest.fail("made again"))
    again = Sequences(TokenStore(directory), kind="segment_pairs", length=64)
    assert again.directory == made.directory and made.directory.parent == directory / "plans"
    assert [path.name for path in (directory / "plans").iterdir()] == [made.directory.name]
    monkeypatch.undo()
    for settings in ({"length": 65}, {"seed": 1}, {"short_seq_prob": 0.2}, {"duplicates": 2}, {"kind": "full_sentences"}):
        other = Sequences(TokenStore(directory), **({"kind": "segment_pairs", "length": 64} | settings))
        assert other.directory != made.directory


def test_plan_is_made_again_for_another_store(tmp_path):
    names = []
    for texts in (encoded()[:20], encoded()[:19], [*encoded()[1:20], encoded()[0]]):
        shutil.rmtree(tmp_path / "store" / "train", ignore_errors=True)
        (tmp_path / "store").mkdir(exist_ok=True)
        store = TokenStore(write_store(tmp_path / "store", texts))
        sequences = Sequences(store, kind="full_sentences", length=64)
        assert int((sequences.starts + sequences.lengths).max()) == store.num_tokens
        names.append(sequences.directory.name)
    assert len(set(names)) == 3


def test_store_that_cannot_be_written(tmp_path, monkeypatch):
    directory = write_store(tmp_path / "store", encoded()[:5])
    (directory / "plans").write_text("in the way", encoding="utf-8")  # permissions would not stop root
    monkeypatch.setattr(plans.tempfile, "gettempdir", lambda: str(tmp_path))
    made = Sequences(TokenStore(directory), kind="segment_pairs", length=64)
    assert made.directory.parent.parent == tmp_path
    assert Sequences(TokenStore(directory), kind="segment_pairs", length=64).directory == made.directory


def test_two_processes_at_once(tmp_path, monkeypatch):
    """While one writes a plan, another finishes the same: both go on with the other's."""
    directory = write_store(tmp_path / "store", encoded()[:5])
    write, others = plans._write, []

    def overtaken(*arguments):
        monkeypatch.setattr(plans, "_write", write)
        others.append(Sequences(TokenStore(directory), kind="segment_pairs", length=64))
        write(*arguments)

    monkeypatch.setattr(plans, "_write", overtaken)
    mine = Sequences(TokenStore(directory), kind="segment_pairs", length=64)
    assert mine.directory == others[0].directory
    assert [path.name for path in (directory / "plans").iterdir()] == [mine.directory.name]


def test_failed_plan_leaves_nothing(tmp_path, monkeypatch):
    directory = write_store(tmp_path / "store", encoded()[:5])
    monkeypatch.setattr(plans, "_follow", lambda following: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Sequences(TokenStore(directory), kind="segment_pairs", length=64)
    assert list((directory / "plans").iterdir()) == []


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


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"length": 7}, "length=7"),
        ({"length": 10**6}, "length=1000000"),
        ({"kind": "sentences"}, "sequences='sentences'.*segment_pairs, full_sentences"),
        ({"short_seq_prob": 1.5}, "short_seq_prob=1.5"),
        ({"duplicates": 0}, "duplicates=0"),
        ({"kind": "full_sentences", "duplicates": 2}, "duplicates=2.*duplicates=1"),
        ({"seed": -1}, "-1"),
    ],
)
def test_unfit_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Sequences(open_documentation(), **({"kind": "segment_pairs", "length": 64} | settings))
