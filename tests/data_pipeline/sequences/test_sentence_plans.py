"""Rows of contiguous sentences: the whole text once, as much of it in each row as fits."""

import numpy as np
import pytest

from data_pipeline.sequences.packing import Sequences
from tests.data_pipeline.docstring_stores import open_documentation, token_ends

LENGTHS = [16, 128, 512]


@pytest.mark.parametrize("kind", ["full_sentences", "document_sentences"])
@pytest.mark.parametrize("length", LENGTHS)
def test_sentences_hold_the_whole_text_once(kind, length):
    store = open_documentation()
    sequences = Sequences(store, kind=kind, length=length)
    starts, stops = sequences.starts, sequences.starts + sequences.lengths
    assert starts[0] == 0 and stops[-1] == store.num_tokens
    np.testing.assert_array_equal(stops[:-1], starts[1:])
    # Rows begin and end at sentences, except for sentences longer than a row.
    sentence_ends, document_ends = token_ends(store)
    row_stops = stops[sequences.first_pieces[1:] - 1]
    sizes = np.diff(sentence_ends, prepend=0)
    inside = ~np.isin(row_stops, sentence_ends)
    assert (sizes[np.searchsorted(sentence_ends, row_stops[inside])] > length - 2).all()
    # No row could have held its next sentence too.
    width = np.add.reduceat(sequences.lengths.astype(int) + 1, sequences.first_pieces[:-1]) + 1
    following = np.searchsorted(sentence_ends, row_stops[:-1], side="right")
    must_end = np.isin(row_stops[:-1], store.token_offsets if kind == "full_sentences" else document_ends)
    assert (width[:-1] + sizes[following] > length)[~must_end & ~inside[:-1]].all()
    assert width.max() <= length
    if kind == "document_sentences":
        assert np.isin(document_ends, row_stops).all()
