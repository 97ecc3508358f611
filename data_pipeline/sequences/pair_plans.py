"""Pairs of segments: next-sentence prediction as in BERT, sentence order as in ALBERT. numpy only.

Enters: blocks of documents. Leaves: rows of two pieces and their labels. Every choice is a hash of (seed, pass, shard, sentence), except
for the direction of a document, which is a hash of (seed, pass, shard, document).
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_pipeline.sequences.order import PLAN, draw, fold, make_key
from data_pipeline.sequences.plan_parts import Block, Piecewise, Settings, follow
from data_pipeline.stores.store import TokenStore

WAITING_PAIRS = 1 << 20  # of which the random segments are found together: about 230 bytes of memory each

log = logging.getLogger("bert_jax")


class _Pairs(NamedTuple):
    """R pairs, of which N are to get a random B. Token offsets count within the split."""

    a_starts: np.ndarray  # int64 [R]
    a_sizes: np.ndarray  # int64 [R]
    b_starts: np.ndarray  # int64 [R], of the text that follows A: anything where B is to be random
    b_sizes: np.ndarray  # int64 [R]
    is_random: np.ndarray  # bool [R]
    trim_keys: np.ndarray  # uint64 [R]
    documents: np.ndarray  # int64 [N], within the split, that a random B is to come from
    keys: np.ndarray  # uint64 [N], for the choice of B's first sentence
    numbers: np.ndarray  # int64 [N], of A's first sentence within its shard
    wanted: np.ndarray  # uint16 [N], tokens


def segment_pairs(store: TokenStore, settings: Settings, blocks: Iterator[Block], duplicate: int) -> Iterator[Piecewise]:
    """Pairs of segments. From sentence i on, whole sentences of the document are gathered up to a target number of tokens (the most that
    fits, or with `short_seq_prob` a random smaller one), and cut at a random sentence end. The first part is A. B is the rest, or, half of
    the time, and always if there is no rest, sentences from a random place of another document; the unused rest then begins the next pair.
    What is too long is trimmed at a random end of the longer segment, token by token.

    Two differences from the published data: the target is drawn per pair and not once per document, lest one draw cut a whole book into
    tiny pairs; and where the split is one document, B starts at least a quarter of it away from A."""
    if store.num_sentences == 1:
        raise ValueError(f"{store!r} holds one sentence, and segment pairs need two; prepare it from more text, or choose full_sentences")
    # Random segments may lie in any shard. Pairs wait until there are enough of them that going through all shards once is worth it.
    waiting: list[_Pairs] = []
    count = 0
    for block in blocks:
        waiting.append(_cut_pairs(store, settings, block, duplicate))
        count += len(waiting[-1].a_starts)
        if count >= WAITING_PAIRS:
            yield _finished(store, settings, waiting)
            count = 0
    if waiting:
        yield _finished(store, settings, waiting)


def _cut_pairs(store: TokenStore, settings: Settings, block: Block, duplicate: int) -> _Pairs:
    """The pairs of a block, and what their random segments depend on."""
    numbers = block.first_sentence + np.arange(len(block.starts))
    short_key, target_key, cut_key, random_key, document_key, sentence_key, trim_key = fold(
        make_key(settings.seed, PLAN, duplicate, block.shard), np.arange(7)
    )[:, None]
    targets = _targets(short_key, target_key, numbers, settings)
    reach = np.searchsorted(block.ends, block.starts + targets, side="left") + 1
    stops = np.minimum(reach, block.document_stops[block.document_of])
    counts = stops - np.arange(len(stops))
    cuts = np.arange(len(stops)) + np.where(counts == 1, 1, 1 + draw(cut_key, numbers, np.maximum(counts - 1, 1)))
    is_random = (counts == 1) | (draw(random_key, numbers, 2) == 1)

    walk = follow(np.where(is_random, cuts, stops))
    a_starts, b_starts = block.starts[walk], block.ends[cuts[walk] - 1]
    a_sizes, b_sizes = b_starts - a_starts, block.ends[stops[walk] - 1] - b_starts
    is_random = is_random[walk]
    picked, chosen = walk[is_random], numbers[walk[is_random]]
    if store.num_documents > 1:
        own = block.first_document + block.document_of[picked]
        documents = draw(document_key, chosen, store.num_documents - 1)
        documents += documents >= own
    else:
        documents = np.zeros(len(picked), np.int64)
    return _Pairs(
        a_starts + block.token_offset,
        a_sizes,
        b_starts + block.token_offset,
        b_sizes,
        is_random,
        fold(trim_key, numbers[walk]),
        documents,
        np.full(len(chosen), sentence_key),
        chosen,
        np.maximum(targets[picked] - a_sizes[is_random], 1).astype(np.uint16),
    )


def _finished(store: TokenStore, settings: Settings, waiting: list[_Pairs]) -> Piecewise:
    """The rows of these pairs, in order; empties the list."""
    pairs = _Pairs(*map(np.concatenate, zip(*waiting)))
    waiting.clear()
    segments = _random_segments(store, pairs.documents, pairs.keys, pairs.numbers, pairs.wanted)
    pairs.b_starts[pairs.is_random], pairs.b_sizes[pairs.is_random] = segments
    pieces = _trimmed(pairs.a_starts, pairs.a_sizes, pairs.b_starts, pairs.b_sizes, settings.length - 3, pairs.trim_keys)
    return Piecewise(np.full(len(pairs.is_random), 2), *pieces, pairs.is_random)


def sentence_order(store: TokenStore, settings: Settings, blocks: Iterator[Block], duplicate: int) -> Iterator[Piecewise]:
    """Two consecutive segments of a document, swapped half of the time: label 1 (ALBERT, Lan et al. 2019, section 3.1). From a sentence
    on, whole sentences are gathered, at least two, up to the sentence end that is nearest to a target (drawn as for `segment_pairs`), and
    cut at a random sentence end. What is too long is trimmed as there, after the swap.

    Nothing but the order is to give the label away. Hence three differences from ALBERT's code: it gathers until the target is passed, so
    that the later segment holds the sentence that passed it, tends to be longer, and tells the label by its length; here the end nearest to
    the target is taken, and half of the documents are gathered from their last sentence backwards. And it gives a single sentence a
    random segment of another document with label 1, whose topic tells the label; here a last sentence is never left alone, and documents of
    one sentence, which have no order, are left out; a warning counts them."""
    alone = 0
    for block in blocks:
        alone += int((np.diff(block.document_stops, prepend=0) == 1).sum())
        yield _ordered_pairs(settings, block, duplicate)
    if alone and duplicate == 0:
        share = f"{alone:,} of {store.num_documents:,} documents in split {store.split!r} of {store.directory}"
        log.warning(f"sentence_order leaves out {share}: one sentence has no order; segment_pairs or full_sentences would keep them")


def _ordered_pairs(settings: Settings, block: Block, duplicate: int) -> Piecewise:
    most = settings.length - 3
    places = np.arange(len(block.starts))
    numbers = block.first_sentence + places
    short_key, target_key, cut_key, swap_key, mirror_key, trim_key = fold(
        make_key(settings.seed, PLAN, duplicate, block.shard), np.arange(6)
    )[:, None]

    # Mirrored documents: their sentences in reverse, between the same two token offsets.
    stops_at = block.document_stops[block.document_of]
    starts_at = np.concatenate([np.zeros(1, np.int64), block.document_stops[:-1]])[block.document_of]
    documents = block.first_document + np.arange(len(block.document_stops))
    is_mirrored = (draw(mirror_key, documents, 2) == 1)[block.document_of]
    sizes = (block.ends - block.starts)[np.where(is_mirrored, starts_at + stops_at - 1 - places, places)]
    ends = block.starts[0] + np.cumsum(sizes)
    starts = ends - sizes

    aims = starts + _targets(short_key, target_key, numbers, settings)
    passing = np.minimum(np.searchsorted(ends, aims, side="left"), len(ends) - 1)
    stops = np.clip(passing + (ends[passing] - aims <= aims - starts[passing]), places + 2, stops_at)
    is_left_alone = stops == stops_at - 1
    stops = np.where(is_left_alone, np.where(stops_at - places >= 4, stops_at - 2, stops_at), stops)
    walk = follow(stops)
    walk = walk[stops[walk] - walk >= 2]
    cuts = walk + 1 + draw(cut_key, numbers[walk], stops[walk] - walk - 1)

    bounds = np.stack([starts[walk], ends[cuts - 1], ends[stops[walk] - 1]])
    document_starts, document_ends = block.document_bounds
    document = block.document_of[walk]
    begin, middle, end = np.where(is_mirrored[walk], (document_starts + document_ends)[document] - bounds[::-1], bounds)
    labels = draw(swap_key, numbers[walk], 2) == 1
    first_starts, second_starts = np.where(labels, (middle, begin), (begin, middle)) + block.token_offset
    first_sizes, second_sizes = np.where(labels, (end - middle, middle - begin), (middle - begin, end - middle))
    pieces = _trimmed(first_starts, first_sizes, second_starts, second_sizes, most, fold(trim_key, numbers[walk]))
    return Piecewise(np.full(len(walk), 2), *pieces, labels)


def _targets(short_key: np.ndarray, target_key: np.ndarray, numbers: np.ndarray, settings: Settings) -> np.ndarray:
    """The tokens that a pair from each sentence on is to have: int64 [S]."""
    most = settings.length - 3
    is_short = draw(short_key, numbers, 1 << 32) < int(settings.short_seq_prob * 2**32)
    return np.where(is_short, 2 + draw(target_key, numbers, most - 1), most)


def _trimmed(a_starts, a_sizes, b_starts, b_sizes, most: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of segments, int64 [R] each, cut to `most` tokens: starts and lengths of the pieces, int64 [2 R]."""
    # Trimming the longer of the two, one token at a time, ends here.
    a_kept = np.where(a_sizes + b_sizes <= most, a_sizes, np.minimum(a_sizes, np.maximum(most - b_sizes, (most + 1) // 2)))
    b_kept = np.minimum(b_sizes, most - a_kept)
    a_starts = a_starts + _heads(fold(keys, 0), a_sizes - a_kept)
    b_starts = b_starts + _heads(fold(keys, 1), b_sizes - b_kept)
    return np.stack([a_starts, b_starts], axis=1).ravel(), np.stack([a_kept, b_kept], axis=1).ravel()


def _random_segments(store: TokenStore, documents: np.ndarray, keys: np.ndarray, numbers: np.ndarray, wanted: np.ndarray):
    """Whole sentences from a random sentence of each document until `wanted` tokens or its end: token offsets in the split, and sizes.

    Goes through the shards once, from front to back."""
    order = np.argsort(documents)
    documents, keys, numbers, wanted = documents[order], keys[order], numbers[order], wanted[order]
    starts, sizes = np.empty_like(documents), np.empty_like(documents)
    bounds = np.searchsorted(documents, store.document_offsets)
    for shard_number in np.flatnonzero(np.diff(bounds)):
        here = slice(bounds[shard_number], bounds[shard_number + 1])
        # Plain views: with thousands of shards most of the time would go into indexing numpy.memmap.
        shard = store.shards[shard_number]
        document_ends, sentence_ends = np.asarray(shard.document_ends), np.asarray(shard.sentence_ends)
        document = documents[here] - store.document_offsets[shard_number]
        stop = document_ends[document]
        first = np.where(document > 0, document_ends[document - 1], 0)
        if store.num_documents > 1:
            sentence = first + draw(keys[here], numbers[here], stop - first)
        else:
            quarter = np.maximum(1, stop // 4)
            sentence = (numbers[here] + quarter + draw(keys[here], numbers[here], np.maximum(1, stop - 2 * quarter + 1))) % stop
        start = np.where(sentence > 0, sentence_ends[sentence - 1], 0)
        last = np.minimum(np.searchsorted(sentence_ends, start + wanted[here], side="left"), stop - 1)
        starts[here] = start + store.token_offsets[shard_number]
        sizes[here] = sentence_ends[last] - start
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return starts[back], sizes[back]


def _heads(keys: np.ndarray, tosses: np.ndarray) -> np.ndarray:
    """How many of each number of fair coin tosses fall heads: the bits set among that many hashed bits. uint64 [N], int64 [N] -> int64
    [N]."""
    heads = np.zeros(len(tosses), np.int64)
    tossing, word = np.flatnonzero(tosses), 0
    while tossing.size:
        left = np.minimum(tosses[tossing] - 64 * word, 64).astype(np.uint64)
        bits = fold(keys[tossing], word) >> (np.uint64(64) - left)
        heads[tossing] += np.bitwise_count(bits)
        word += 1
        tossing = tossing[tosses[tossing] > 64 * word]
    return heads
