"""Packed documents: nothing is padding whatever the corpus, every token once, no scraps."""

import numpy as np
import pytest

from data_pipeline.sequences import packed_plans, plan_parts
from data_pipeline.sequences.packing import Sequences
from data_pipeline.stores.store import TokenStore
from tests.data_pipeline.docstring_stores import documents, open_documentation, token_ends, write_store

WORDS = [sum(len(sentence) for sentence in document) for document in documents()]  # of real documents
CORPORA = {  # length of a row, random generator -> sizes of documents in tokens
    "0.59 of a row": lambda length, random: [int(0.59 * length)] * 2000,
    "all but fill a row": lambda length, random: [length - 5] * 1000,
    "just over a row": lambda length, random: [length] * 1000,
    "two sizes": lambda length, random: random.choice([length - 6, int(0.45 * length)], 1000),
    "more than half of a row": lambda length, random: random.integers(length // 2, length - 2, 1500),
    "tiny": lambda length, random: random.integers(1, 13, length * 60),
    "all of ten": lambda length, random: [10] * (length * 50),
    "giant": lambda length, random: random.integers(100 * length, 700 * length, 4),
    "real": lambda length, random: random.permutation(np.concatenate([WORDS] * 10)),
}


def store_of(directory, corpus, length, num_shards=1):
    """A store of documents of these sizes, in sentences of up to 20 tokens."""
    sizes = CORPORA[corpus](length, np.random.default_rng(0))
    text = np.arange(max(sizes)) % 2000 + 200
    return TokenStore(write_store(directory, [np.split(text[:size], range(20, size, 20)) for size in sizes], num_shards))


def widths(sequences):
    return np.add.reduceat(sequences.lengths.astype(int) + 2, sequences.first_pieces[:-1])


def assert_whole_text_once(sequences):
    order = np.argsort(sequences.starts)
    starts, stops = sequences.starts[order], (sequences.starts + sequences.lengths)[order]
    assert starts[0] == 0 and stops[-1] == sequences.store.num_tokens
    np.testing.assert_array_equal(stops[:-1], starts[1:])


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("corpus", CORPORA)
def test_nothing_is_padding(corpus, length, tmp_path):
    store = store_of(tmp_path, corpus, length)
    sequences = Sequences(store, kind="packed_documents", length=length)
    assert_whole_text_once(sequences)
    assert widths(sequences).max() <= length
    assert widths(sequences).mean() > 0.99 * length


@pytest.mark.parametrize("length", [128, 512])
@pytest.mark.parametrize("corpus", CORPORA)
def test_no_scraps(corpus, length, tmp_path):
    """No part of a document is shorter than 8 tokens, or than half of it (one token less if that is odd) where it has fewer than 16."""
    store = store_of(tmp_path, corpus, length)
    sequences = Sequences(store, kind="packed_documents", length=length)
    _, document_ends = token_ends(store)
    sizes = np.diff(document_ends, prepend=0)[np.searchsorted(document_ends, sequences.starts, side="right")]
    assert (sequences.lengths >= np.where(sizes < 16, np.maximum(sizes // 2, 1), 8)).all()


def test_documents_that_fit_are_seldom_cut():
    """Of real documents of which most are shorter than a row."""
    store = open_documentation()
    sequences = Sequences(store, kind="packed_documents", length=2048)
    _, document_ends = token_ends(store)
    sizes = np.diff(document_ends, prepend=0)
    parts = np.bincount(np.searchsorted(document_ends, sequences.starts, side="right"))
    assert (sizes <= 2046).sum() > 40 and (parts[sizes <= 2046] > 1).mean() < 0.2


def test_full_rows_of_long_documents(tmp_path):
    """A long document gives full rows; where the remainder goes is chosen so that cuts fall on sentence ends."""
    document = [np.full(size, 300) for size in [20] + [62] * 50]
    store = TokenStore(write_store(tmp_path, [document] * 30))
    sequences = Sequences(store, kind="packed_documents", length=64)
    sentence_ends, _ = token_ends(store)
    assert_whole_text_once(sequences)
    full = sequences.lengths == 62
    assert full.sum() == 30 * 50 and np.isin((sequences.starts + sequences.lengths)[full], sentence_ends).all()


def test_blocks_and_shards_leave_no_holes(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_parts, "BLOCK_SENTENCES", 500)
    store = store_of(tmp_path, "real", 128, num_shards=5)
    assert len(list(plan_parts.blocks(store))) > 50
    sequences = Sequences(store, kind="packed_documents", length=128)
    assert_whole_text_once(sequences)
    assert widths(sequences).mean() > 0.99 * 128


def test_memory_stays_bounded(tmp_path, monkeypatch):
    """Between blocks no more waits than CARRIED_ROWS rows hold."""
    waiting = []
    rows = packed_plans._Pool.rows

    def watched(pool, slots):
        made = rows(pool, slots)
        waiting.append(pool.slots)
        return made

    monkeypatch.setattr(plan_parts, "BLOCK_SENTENCES", 500)
    monkeypatch.setattr(packed_plans._Pool, "rows", watched)
    Sequences(store_of(tmp_path, "real", 128), kind="packed_documents", length=128)
    assert len(waiting) > 50 and max(waiting) <= packed_plans.CARRIED_ROWS * 128 and waiting[-1] == 0
