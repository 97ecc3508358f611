"""Checks of `bert-jax doctor` on batches: what masking did, padding, labels, and answers that stand elsewhere in a row. numpy only.

Enters: batches of the contract, as training would get them. Leaves: a `Check` each.
"""

from collections.abc import Sequence

import numpy as np

from launch.doctor.check import FAIL, OK, SKIP, WARN, Check, graded
from launch.doctor.text_checks import range_hashes
from launch.inspect.batch_statistics import Batch, original_ids

SIGMAS = 5  # by chance, once in two million
RUN_TOKENS = 8  # at most, in the mean weighted by length: what one draw decides of spans
AROUND = 4  # tokens on each side of a masked one that must come back for its copy to give it away
FEW_LABELS = 0.65  # the commoner label's share, before a warning


def _together(batches: Sequence[Batch]) -> Batch:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def check_masking(
    batches: Sequence[Batch], rates: Sequence[float], masking: dict, special: dict[str, int], special_ids: Sequence[int]
) -> Check:
    """rates: of masking at each batch; masking: the config's section; special_ids: all that may be neither chosen nor drawn."""
    name, batch = "masking", _together(batches)
    rows, slots = np.nonzero(batch["mlm_weights"])
    if not len(rows):
        measured = f"nothing is predicted in {len(batch['input_ids']):,} rows"
        return Check(name, FAIL, measured, "the text is special or unknown tokens only: see the vocabulary")
    positions = batch["mlm_positions"][rows, slots]
    targets, shown = batch["mlm_targets"][rows, slots], batch["input_ids"][rows, positions]
    masked, kept = shown == special["mask"], shown == targets
    replaced = ~masked & ~kept
    forbidden = int(
        (np.isin(targets, special_ids) | (replaced & np.isin(shown, special_ids)) | (batch["segment_ids"][rows, positions] == 0)).sum()
    )
    candidates = ((batch["segment_ids"] > 0) & ~np.isin(original_ids(batch), special_ids)).sum(axis=1)
    rate = np.concatenate([np.full(len(one["input_ids"]), rate) for one, rate in zip(batches, rates)])
    wanted = np.where(candidates, np.maximum(1, np.rint(rate * candidates)), 0)
    chosen, room = np.bincount(rows, minlength=len(candidates)), masking["predictions"]
    cut = float((wanted > room).mean())
    decisions = len(rows) / (RUN_TOKENS if masking["choice"].startswith("spans") else 1)  # one for a run of words
    mask_share, random_share = masking["mask_share"], masking["random_share"]
    shares = {"masked": (masked, mask_share), "replaced": (replaced, random_share), "kept": (kept, 1 - mask_share - random_share)}
    off = [
        word
        for word, (found, share) in shares.items()
        if abs(found.mean() - share) > SIGMAS * np.sqrt(max(share * (1 - share), 1e-4) / decisions)
    ]
    measured = (
        f"{chosen.sum() / max(1, candidates.sum()):.2%} of {candidates.sum():,} tokens chosen (rate {rates[0]:.2%}); of them "
        + ", ".join(f"{found.mean():.1%} {word}" for word, (found, _) in shares.items())
        + f"; {forbidden} special tokens chosen or drawn; {cut:.1%} of the rows want more than the {room} slots"
    )
    if forbidden:
        advice = (
            "special tokens or padding are predicted or drawn: prepare the store again with its own tokenizer, or record the batches again"
        )
        return Check(name, FAIL, measured, advice)
    if off:
        wish = ", ".join(f"{share:.0%} {word}" for word, (_, share) in shares.items())
        return Check(name, FAIL, measured, f"not the wished {wish} ({', '.join(off)}): record the batches again with this config")
    reachable = np.minimum(wanted, room)
    if (chosen > reachable).any() or chosen.sum() < 0.5 * reachable.sum():
        advice = f"not masking.rate {rates[0]:.2%}: record the batches again, or use a choice that fits the words (masking.choice=tokens)"
        return Check(name, FAIL, measured, advice)
    if chosen.sum() < 0.95 * reachable.sum():
        return Check(name, WARN, measured, "words are too long for the rest of the rate: raise masking.rate, or set masking.choice=tokens")
    advice = f"set --config.masking.predictions={int(wanted.max())}, or rows lose part of their predictions"
    return graded(name, cut, 1e-9, 0.5, measured, advice)


def check_repeats(batches: Sequence[Batch]) -> Check:
    """How often a masked token can be read off its own row: its surroundings stand there once more, within reach of attention, with the
    answer open."""
    batch = _together(batches)
    original, visible = original_ids(batch), original_ids(batch) == batch["input_ids"]
    rows, length = original.shape
    width = 2 * AROUND + 1
    if length < 2 * width:
        return Check("repeats", SKIP, f"rows of {length} tokens are too short for repetitions")
    centres = np.arange(AROUND, length - AROUND)
    flat = (np.arange(rows)[:, None] * length + centres).ravel()
    segments = batch["segment_ids"]
    inside = (segments[:, AROUND:-AROUND] > 0) & (segments[:, : length - 2 * AROUND] == segments[:, 2 * AROUND :])
    flat = flat[inside.ravel()]
    windows = range_hashes(original.ravel(), flat - AROUND, flat + AROUND + 1)
    places = np.stack([windows, flat // length * 65536 + segments.ravel()[flat]], axis=1).astype(np.uint64)
    _, group = np.unique(places, axis=0, return_inverse=True)
    is_open = visible.ravel()[flat]
    open_copies = np.bincount(group, weights=is_open)[group] - is_open
    predicted = np.zeros(rows * length, bool)
    at, slots = np.nonzero(batch["mlm_weights"])
    predicted[at * length + batch["mlm_positions"][at, slots]] = True
    share = float((open_copies[predicted[flat]] > 0).mean()) if predicted[flat].any() else 0.0
    measured = f"{share:.2%} of the predicted tokens stand open in a copy of their surroundings ({width} tokens) in the same row"
    advice = "the answer can be copied: remove boilerplate, prepare with --deduplicate, or use shorter rows of packed_documents"
    return graded("repeats", share, 0.02, 0.1, measured, advice)


def fullest_rows(batches: Sequence[Batch], rows: int, special: dict[str, int]) -> Batch:
    """A batch of the rows that hold the most pieces of text, as [CLS] and [SEP] count them."""
    batch = _together(batches)
    pieces = np.isin(batch["input_ids"], [special["cls"], special["sep"]]).sum(axis=1)
    return {name: array[np.argsort(-pieces, kind="stable")[:rows]] for name, array in batch.items()}


def check_rows(batches: Sequence[Batch], sequences: str) -> Check:
    """Padding, and how much text a token sees."""
    batch = _together(batches)
    segments = batch["segment_ids"]
    real, length = segments > 0, segments.shape[1]
    share = float(real.mean())
    keys = (np.arange(len(segments))[:, None] * 65536 + segments)[real]
    _, sizes = np.unique(keys, return_counts=True)
    context = float((sizes.astype(np.float64) ** 2).sum() / max(1, sizes.sum()))
    measured = f"{share:.1%} of {length} tokens are real; a token sees {context:,.0f} on average"
    if share >= 0.8 and context < length / 4:
        advice = f"documents are much shorter than length {length}, so its positions are hardly trained: use longer documents or a shorter length"
        return Check("rows", WARN, measured, advice)
    advice = "much padding: a shorter length" + (
        "" if sequences == "packed_documents" else ", or data.sequences=packed_documents (or full_sentences)"
    )
    return graded("rows", 1 - share, 0.2, 0.6, measured, advice)


def check_pairs(batches: Sequence[Batch]) -> Check:
    """The balance of the sentence-pair labels."""
    batch = _together(batches)
    labels = next((batch[name] for name in ("nsp_labels", "sop_labels") if name in batch), None)
    if labels is None:
        return Check("pairs", OK, "no sentence-pair labels")
    ones = float(labels.mean())
    most = max(ones, 1 - ones)
    measured = f"{ones:.0%} of {len(labels):,} pairs are {'random' if 'nsp_labels' in batch else 'swapped'}"
    return graded(
        "pairs",
        most,
        FEW_LABELS,
        0.95,
        measured,
        "always naming the commoner label is right that often: longer sequences or documents, or data.sequences=sentence_order, or model.nsp=false",
    )
