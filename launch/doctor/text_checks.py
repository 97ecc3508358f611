"""Checks of `bert-jax doctor` on stored text: vocabulary, copies, held-out documents that training holds too. numpy only.

Enters: token stores. Leaves: a `Check` each. Of a large store as many documents are read as hold `TOKENS_READ` tokens, from shards spread over it.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from launch.doctor.check import OK, SKIP, WARN, Check, graded

TOKENS_READ = 30_000_000
SHORT = 8  # tokens; shorter sentences repeat by nature
MULTIPLIER = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64


@dataclasses.dataclass(frozen=True)
class Hashes:
    """uint64 hashes of documents and of sentences of `SHORT` tokens or more, each with its length in tokens. whole: nothing was left unread."""

    documents: np.ndarray
    document_tokens: np.ndarray
    sentences: np.ndarray
    sentence_tokens: np.ndarray
    whole: bool


def range_hashes(tokens: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """uint64 [N]: equal for equal tokens. tokens: integers [T]; starts, stops: [N], 0 <= start < stop <= T.

    A polynomial of mixed tokens modulo 2^64, from prefix sums, so that overlapping ranges cost nothing more."""
    from data_pipeline.sequences.order import fold

    def powers(base: int) -> np.ndarray:
        steps = np.full(len(tokens) + 1, base, np.uint64)
        steps[0] = 1
        return np.multiply.accumulate(steps)

    mixed = fold(np.uint64(0), tokens.astype(np.int64))
    sums = np.concatenate([np.zeros(1, np.uint64), np.add.accumulate(mixed * powers(MULTIPLIER)[:-1])])
    return fold((sums[stops] - sums[starts]) * powers(pow(MULTIPLIER, -1, 2**64))[starts], stops - starts)


def read_hashes(stores: Iterable) -> Hashes:
    """Of `TokenStore`s (one split each)."""
    parts: list[tuple[np.ndarray, ...]] = []
    whole = True
    for store in stores:
        left = TOKENS_READ
        for number in _spread(len(store.shards)):
            if left <= 0:
                whole = False
                break
            shard = store.shards[number]
            left -= shard.num_tokens
            tokens, ends = np.asarray(shard.tokens), np.asarray(shard.sentence_ends)
            document_ends = ends[np.asarray(shard.document_ends) - 1]
            document_starts, starts = np.concatenate([[0], document_ends[:-1]]), np.concatenate([[0], ends[:-1]])
            long = ends - starts >= SHORT
            hashes = range_hashes(tokens, np.concatenate([document_starts, starts[long]]), np.concatenate([document_ends, ends[long]]))
            count = len(document_ends)
            parts.append((hashes[:count], document_ends - document_starts, hashes[count:], (ends - starts)[long]))
    return Hashes(*(np.concatenate(columns) for columns in zip(*parts)), whole)


def _spread(count: int) -> list[int]:
    """0 to count - 1, so ordered that any beginning is spread over all: by the digits of the numbers, backwards."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2))


def check_vocabulary(shares: np.ndarray | None, special: dict[str, int]) -> Check:
    """shares: float64 [V], of the training text; None of recorded batches."""
    name = "vocabulary"
    if shares is None:
        return Check(name, SKIP, "recorded batches do not hold the text's token counts")
    unknown, used = float(shares[special["unk"]]), float((np.delete(shares, list(special.values())) > 0).mean())
    measured = f"{len(shares):,} entries, {used:.0%} of them occur in the text; {unknown:.2%} of the tokens are unknown"
    if unknown < 0.005 and used < 0.5:
        return Check(
            name, WARN, measured, "most of the vocabulary is never trained: train a smaller tokenizer on this text, or use more text"
        )
    advice = "the tokenizer was made from other text: train one on this text (bert-jax tokenizer), or use a byte-level one"
    return graded(name, unknown, 0.005, 0.05, measured, advice)


def check_duplicates(hashes: Hashes) -> Check:
    """Copies among the training documents, and sentences that stand in several places."""
    _, firsts = np.unique(hashes.documents, return_index=True)
    copies = 1 - len(firsts) / len(hashes.documents)
    _, inverse, counts = np.unique(hashes.sentences, return_inverse=True, return_counts=True)
    repeated = float(hashes.sentence_tokens[counts[inverse] > 1].sum() / max(1, hashes.sentence_tokens.sum()))
    number = f"{len(hashes.documents):,} documents" + ("" if hashes.whole else " read")
    sentences = f"sentences of {SHORT} or more tokens that stand there more than once"
    measured = f"{copies:.1%} of {number} are copies of others; {repeated:.1%} of the text is {sentences}"
    if copies < 0.02:
        advice = "much boilerplate: remove repeated paragraphs (licences, menus, headers) before preparing"
        return graded("duplicates", repeated, 0.25, 0.6, measured, advice)
    advice = "prepare the text with --deduplicate; masked words are remembered rather than learnt where their text comes back"
    return graded("duplicates", copies, 0.02, 0.2, measured, advice)


def check_overlap(train: Hashes, held_out: Hashes | None) -> Check:
    """Held-out text that training holds, too."""
    name = "held-out overlap"
    if held_out is None:
        return Check(name, SKIP, "no text is held out")
    documents = float(np.isin(held_out.documents, train.documents).mean())
    seen = np.isin(held_out.sentences, train.sentences)
    sentences = float(held_out.sentence_tokens[seen].sum() / max(1, held_out.sentence_tokens.sum()))
    measured = f"{documents:.1%} of the held-out documents, and {sentences:.1%} of the held-out text by sentences, are in the training text"
    if documents < 0.001:
        return graded(
            name,
            sentences,
            0.2,
            0.5,
            measured,
            "held-out figures will flatter the model: remove near-copies and boilerplate before preparing",
        )
    return graded(
        name, documents, 0.001, 0.05, measured, "held-out figures will flatter the model: prepare the stores of a mixture from parted text"
    )


def check_held_out(sequences: int, wanted: int, predictions: int) -> Check:
    """sequences: held out, 0 if no text is; wanted: eval.sequences; predictions: per sequence."""
    name = "held-out text"
    if not sequences:
        return Check(
            name,
            WARN,
            "none: nothing will tell learning from remembering",
            "prepare with --holdout=0.01 (recorded batches have no held-out part)",
        )
    used = min(sequences, wanted)
    error = 0.98 / np.sqrt(used * predictions)  # half of the 95% interval, at worst
    measured = f"{used:,} sequences of {sequences:,}, {used * predictions:,} predictions: masked accuracy to within ±{error:.1%}"
    advice = f"prepare with a larger --holdout, or set --config.eval.sequences={used}"
    return Check(name, WARN, measured, advice) if sequences < wanted else Check(name, OK, measured)


def check_epochs(sequences: int, wanted: int, passes: int = 1) -> Check:
    """sequences: of an epoch, which goes `passes` times over the text; wanted: rows that the phase trains on."""
    times = wanted / max(1, sequences) * passes
    measured = (
        f"{wanted:,} rows from {sequences:,} sequences"
        + (f" of {passes} passes" if passes > 1 else "")
        + f": the text {times:,.{1 if times < 10 else 0}f} times"
    )
    return graded("epochs", times, 100, 1000, measured, "the model will know the text by heart: use more text or fewer steps")


def stores_of(paths: Sequence, split: str) -> list:
    from data_pipeline.stores.store import TokenStore

    return [TokenStore(path, split) for path in paths]
