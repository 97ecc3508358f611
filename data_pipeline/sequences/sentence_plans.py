"""Rows of contiguous sentences (RoBERTa, Liu et al. 2019, section 4.2): across documents, or within one. numpy only.

Enters: a block of documents. Leaves: rows that hold its whole text once, in order. A sentence longer than a row is cut into parts.
"""

import numpy as np

from data_pipeline.sequences.plan_parts import Block, Piecewise, Settings, follow
from data_pipeline.stores.store import TokenStore


def full_sentences(store: TokenStore, settings: Settings, block: Block, duplicate: int) -> Piecewise:
    """FULL-SENTENCES: sentences while they fit; a row may go on into the next document, behind a [SEP], but not into the next block or
    shard."""
    room = settings.length - 2
    starts, ends, document = _parts(block, room)
    separators = document  # each document before this one ended with a [SEP]
    walk = follow(np.searchsorted(ends + separators, starts + separators + room, side="right"))
    row_starts = starts[walk]
    piece_starts = np.union1d(row_starts, block.document_bounds[0])
    lengths = np.diff(piece_starts, append=block.ends[-1])
    first_pieces = np.searchsorted(piece_starts, row_starts)
    pieces = np.diff(first_pieces, append=len(piece_starts))
    return Piecewise(pieces, piece_starts + block.token_offset, lengths, np.zeros(len(walk)))


def document_sentences(store: TokenStore, settings: Settings, block: Block, duplicate: int) -> Piecewise:
    """DOC-SENTENCES: sentences of one document while they fit. The end of a document is a row of its own; RoBERTa's larger batches
    where rows are short are not made, as shapes are fixed."""
    room = settings.length - 2
    starts, ends, document = _parts(block, room)
    document_stops = np.searchsorted(document, document, side="right")
    walk = follow(np.minimum(np.searchsorted(ends, starts + room, side="right"), document_stops))
    row_starts = starts[walk]
    lengths = np.diff(row_starts, append=block.ends[-1])
    return Piecewise(np.ones(len(walk), np.int64), row_starts + block.token_offset, lengths, np.zeros(len(walk)))


def _parts(block: Block, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sentences, the long ones cut to `room` tokens: token offsets of starts and ends, and the document of each."""
    parts = np.maximum(1, -(-(block.ends - block.starts) // room))
    sentence = np.repeat(np.arange(len(parts)), parts)
    part = np.arange(len(sentence)) - (np.cumsum(parts) - parts)[sentence]
    starts = block.starts[sentence] + part * room
    return starts, np.minimum(starts + room, block.ends[sentence]), block.document_of[sentence]
