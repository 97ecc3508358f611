"""Rows of every kind from a store of real text, and when a plan is made anew."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.sequences import pair_plans, plans
from data_pipeline.sequences.packing import Sequences
from data_pipeline.stores.store import TokenStore
from tests.data_pipeline.docstring_stores import (
    SPECIAL,
    all_tokens,
    encoded,
    open_documentation,
    open_word_pieces,
    token_ends,
    write_store,
)

LENGTHS = [16, 128, 512]


@pytest.mark.parametrize("kind", plans.KINDS)
@pytest.mark.parametrize("length", LENGTHS)
def test_rows_spell_their_pieces(kind, length):
    store = open_word_pieces()
    sequences = Sequences(store, kind=kind, length=length, with_words=True)
    text = all_tokens(store)
    words = np.concatenate([np.unpackbits(shard.word_starts)[: shard.num_tokens] for shard in store.shards])
    some = np.random.default_rng(0).permutation(len(sequences))[:300]
    rows = sequences.gather(some)
    for row, number in enumerate(some):
        spelled, types, segments, positions, starts = [], [], [], [], []
        for place, piece in enumerate(range(sequences.first_pieces[number], sequences.first_pieces[number + 1])):
            start, size = sequences.starts[piece], sequences.lengths[piece]
            has_cls = place == 0 or kind == "packed_documents"
            spelled += [SPECIAL["cls"]] * has_cls + [*text[start : start + size], SPECIAL["sep"]]
            starts += [0] * has_cls + [*words[start : start + size], 0]
            types += [place if sequences.label_field else 0] * (size + 1 + has_cls)
            segments += [place + 1 if kind == "packed_documents" else 1] * (size + 1 + has_cls)
            positions += range(size + 2)
        assert len(spelled) <= length
        padding = [0] * (length - len(spelled))
        np.testing.assert_array_equal(rows.input_ids[row], spelled + [SPECIAL["pad"]] * len(padding))
        np.testing.assert_array_equal(rows.token_type_ids[row], types + padding)
        np.testing.assert_array_equal(rows.segment_ids[row], segments + padding)
        np.testing.assert_array_equal(rows.word_starts[row], starts + padding)
        if kind == "packed_documents":
            np.testing.assert_array_equal(rows.position_ids[row], positions + padding)
        assert rows.labels[row] == (sequences.labels[number] if sequences.label_field else 0)
    assert rows.input_ids.dtype == rows.segment_ids.dtype == np.uint16 and rows.word_starts.dtype == bool
    assert (rows.position_ids is None) == (kind != "packed_documents")
    assert Sequences(store, kind=kind, length=length).gather(some[:2]).word_starts is None


def test_label_fields():
    fields = {kind: Sequences(open_documentation(), kind=kind, length=64).label_field for kind in plans.KINDS}
    assert fields == dict.fromkeys(plans.KINDS) | {"segment_pairs": "nsp_labels", "sentence_order": "sop_labels"}


@pytest.mark.parametrize("kind", plans.KINDS)
@pytest.mark.parametrize("length", [8, 9, 65535])
def test_any_length(kind, length):
    """Of one store; a row of 65,535 holds more documents than a byte can count."""
    sequences = Sequences(open_documentation(), kind=kind, length=length)
    rows = sequences.gather(np.arange(min(len(sequences), 50)))
    assert rows.input_ids.shape == rows.segment_ids.shape == (min(len(sequences), 50), length)
    assert (rows.segment_ids.max(axis=1) > 0).all()


@pytest.mark.parametrize("kind", plans.KINDS)
def test_pieces_stay_in_their_documents(kind):
    store = open_documentation()
    sequences = Sequences(store, kind=kind, length=128)
    starts, stops = sequences.starts, sequences.starts + sequences.lengths
    _, document_ends = token_ends(store)
    assert (starts < stops).all()
    first, last = (np.searchsorted(document_ends, tokens, side="right") for tokens in (starts, stops - 1))
    np.testing.assert_array_equal(first, last)


@pytest.mark.parametrize(
    "kind, shares",
    [
        ("segment_pairs", (0.8, 0.6)),
        ("sentence_order", (0.8, 0.6)),
        ("full_sentences", (0.8, 0.9)),
        ("document_sentences", (0.8, 0.7)),
        ("packed_documents", (0.99, 0.99)),
    ],
)
def test_share_of_real_tokens(kind, shares):
    for length, least in zip((128, 512), shares):
        sequences = Sequences(open_documentation(), kind=kind, length=length)
        assert (sequences.gather(np.arange(len(sequences))).segment_ids > 0).mean() > least


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
    monkeypatch.setattr(pair_plans, "follow", lambda following: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Sequences(TokenStore(directory), kind="segment_pairs", length=64)
    assert list((directory / "plans").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists memory maps")
@pytest.mark.parametrize("kind", plans.KINDS)
def test_only_tokens_stay_mapped(kind, tmp_path):
    """A process may have 65,530 memory maps; a store has thousands of shards."""
    sequences = Sequences(TokenStore(write_store(tmp_path / "store", encoded(), num_shards=20)), kind=kind, length=64)
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path / "store" / "train") in line]
    assert len(mapped) == len(sequences.store.shards) and {Path(path).name for path in mapped} == {"tokens.npy"}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"length": 7}, "length=7"),
        ({"length": 10**6}, "length=1000000"),
        ({"kind": "sentences"}, "sequences='sentences'.*segment_pairs, .*, packed_documents"),
        ({"short_seq_prob": 1.5}, "short_seq_prob=1.5"),
        ({"duplicates": 0}, "duplicates=0"),
        ({"kind": "full_sentences", "duplicates": 2}, "duplicates=2: full_sentences.*duplicates=1"),
        ({"kind": "packed_documents", "duplicates": 2}, "duplicates=2: packed_documents.*duplicates=1"),
        ({"seed": -1}, "-1"),
    ],
)
def test_unfit_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Sequences(open_documentation(), **({"kind": "segment_pairs", "length": 64} | settings))


def test_a_damaged_plan_is_named(tmp_path):
    store = TokenStore(write_store(tmp_path / "store", encoded()[:30]))
    directory = Sequences(store, kind="full_sentences", length=32).directory
    path = directory / "starts.npy"
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(ValueError, match="plan .* is damaged; delete that directory"):
        Sequences(store, kind="full_sentences", length=32)
    shutil.rmtree(directory)
    assert len(Sequences(store, kind="full_sentences", length=32))
