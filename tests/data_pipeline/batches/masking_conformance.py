"""What every choice of tokens must keep on the rows of any store: `check_masking(store, spec)`. With a plain, slow reading of the rules."""

import numpy as np

from data_pipeline.batches import mask_choice
from data_pipeline.batches.masking import CHOICE, PURPOSES, Masker, MaskingSpec
from data_pipeline.sequences import order
from data_pipeline.sequences.packing import Rows, Sequences
from data_pipeline.stores.store import TokenStore

Word = tuple[int, int]  # first position, size


def gather(store: TokenStore, length: int = 128, kind: str = "segment_pairs", most: int = 4000) -> Rows:
    """The first rows of a store, with words."""
    sequences = Sequences(store, kind=kind, length=length, with_words=True)
    return sequences.gather(np.arange(min(most, len(sequences))))


def apply(rows: Rows, spec: MaskingSpec, store: TokenStore, seed: int = 0, picked: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Masks the `picked` rows, by default all."""
    picked = np.arange(len(rows.input_ids)) if picked is None else picked
    masker = Masker(spec, length=rows.input_ids.shape[1], vocab_size=store.vocab_size, special=store.special, special_ids=store.special_ids)
    return masker(rows.input_ids[picked], rows.segment_ids[picked], order.fold(order.make_key(seed), picked), rows.word_starts[picked])


def chosen_table(output: dict[str, np.ndarray]) -> np.ndarray:
    """bool [B, L]: where something is to be predicted."""
    table = np.zeros(output["input_ids"].shape, bool)
    row, slot = np.nonzero(output["mlm_weights"])
    table[row, output["mlm_positions"][row, slot]] = True
    return table


def words_of(input_ids: np.ndarray, segment_ids: np.ndarray, word_starts: np.ndarray, special: dict[str, int]) -> list[Word]:
    """One row's words that may be chosen, token by token."""
    words: list[Word] = []
    ending = [special[name] for name in ("pad", "cls", "sep", "mask")]  # other special ids do not occur in text
    begins = True
    for position, token in enumerate(input_ids.tolist()):
        if not segment_ids[position] or token in ending:
            begins = True
            continue
        if begins or word_starts[position] or segment_ids[position] != segment_ids[position - 1]:
            words.append((position, 0))
        words[-1] = (words[-1][0], words[-1][1] + 1)
        begins = False
    return [(first, size) for first, size in words if special["unk"] not in input_ids[first : first + size]]


def budget_of(count: int, spec: MaskingSpec) -> int:
    return min(spec.predictions, count, max(1, round(spec.rate * count)))


def choose_slowly(words: list[Word], hashes: list[int], budget: int, shares: np.ndarray) -> dict[int, int]:
    """The rule of mask_choice for one row, word by word: which run (by the number of the word that it was drawn at) took each word."""
    bounds = (np.cumsum(shares)[:-1] * 2**32).tolist()
    taken: dict[int, int] = {}
    for visited in sorted(range(len(words)), key=lambda number: (-(hashes[number] >> 33), number)):
        length = 1 + sum(bound <= hashes[visited] % 2**32 for bound in bounds)
        for number in [(visited + offset) % len(words) for offset in range(min(length, len(words)))]:
            if number in taken or words[number][1] > budget:
                break
            taken[number] = visited
            budget -= words[number][1]
    return taken


def check_masking(store: TokenStore, spec: MaskingSpec, *, length: int = 128, kind: str = "segment_pairs") -> None:
    """Asserts every property of a choice on a store's rows."""
    rows = gather(store, length, kind)
    output = apply(rows, spec, store)
    special = store.special_ids
    chosen = chosen_table(output)
    check_slots(rows, output, spec)
    assert not np.isin(rows.input_ids[chosen], special).any() and not (chosen & (rows.segment_ids == 0)).any()
    masked, kept = output["input_ids"] == store.special["mask"], output["input_ids"] == rows.input_ids
    assert kept[~chosen].all() and not np.isin(output["input_ids"][chosen & ~masked], special).any()
    if spec.needs_words:
        check_words(rows, chosen, spec, store)
    else:
        counts = ((rows.segment_ids > 0) & ~np.isin(rows.input_ids, special)).sum(axis=1)
        np.testing.assert_array_equal(chosen.sum(axis=1), [budget_of(count, spec) if count else 0 for count in counts.tolist()])
    check_shares(chosen, masked, kept, spec, store.vocab_size - len(set(special)))

    picked = np.random.default_rng(0).permutation(len(chosen))[:37]
    for name, array in apply(rows, spec, store, picked=picked).items():
        np.testing.assert_array_equal(array, output[name][picked], err_msg=name)


def check_slots(rows: Rows, output: dict[str, np.ndarray], spec: MaskingSpec) -> None:
    weights, positions, targets = output["mlm_weights"], output["mlm_positions"], output["mlm_targets"]
    assert weights.shape == positions.shape == targets.shape == (len(rows.input_ids), spec.predictions)
    assert set(np.unique(weights)) <= {0.0, 1.0} and (np.diff(weights, axis=1) <= 0).all()  # used slots first
    used = weights == 1
    assert (np.diff(positions, axis=1) > 0)[used[:, 1:]].all()
    assert not positions[~used].any() and not targets[~used].any()
    row, slot = np.nonzero(used)
    restored = output["input_ids"].copy()
    restored[row, positions[row, slot]] = targets[row, slot]
    np.testing.assert_array_equal(restored, rows.input_ids)


def check_words(rows: Rows, chosen: np.ndarray, spec: MaskingSpec, store: TokenStore) -> None:
    """Words are whole, the budget is kept, and no word that fits what is left of it was left out. The choice is that of `choose_slowly`."""
    shares = mask_choice.run_lengths(spec.choice)
    hashes = order.fold(order.fold(order.make_key(0), np.arange(len(chosen)))[:, None], np.arange(chosen.shape[1]) * PURPOSES + CHOICE)
    for row in range(0, len(chosen), 4):
        words = words_of(rows.input_ids[row], rows.segment_ids[row], rows.word_starts[row], store.special)
        expected, left = np.zeros(chosen.shape[1], bool), budget_of(sum(size for _, size in words), spec) if words else 0
        taken = choose_slowly(words, [int(hashes[row, first]) for first, _ in words], left, shares)
        for number in taken:
            first, size = words[number]
            expected[first : first + size] = True
        np.testing.assert_array_equal(chosen[row], expected)
        free = [size for first, size in words if not chosen[row, first]]
        assert all(chosen[row, first : first + size].all() == chosen[row, first : first + size].any() for first, size in words)
        left -= chosen[row].sum()
        assert left >= 0 and (left == 0 or not free or left < min(free))


def check_shares(chosen: np.ndarray, masked: np.ndarray, kept: np.ndarray, spec: MaskingSpec, drawable: int) -> None:
    """Of the chosen, mask_share are [MASK] and random_share random, within 4.5 standard deviations. A random draw is the token itself once
    in `drawable`. Spans decide once for all their tokens, which multiplies the variance by the mean square of their lengths over the mean."""
    total = chosen.sum()
    edges = np.flatnonzero(np.diff(chosen.ravel(), prepend=False, append=False))
    lengths = edges[1::2] - edges[::2]  # of tokens in a row, which spans are not longer than
    inflation = (lengths**2).mean() / lengths.mean() if spec.choice.startswith("spans") else 1
    keep = 1 - spec.mask_share - spec.random_share
    for count, share in (
        ((chosen & masked).sum(), spec.mask_share),
        ((chosen & ~masked & ~kept).sum(), spec.random_share * (1 - 1 / drawable)),
        ((chosen & kept).sum(), keep + spec.random_share / drawable),
    ):
        variance = total * share * (1 - share) * inflation
        assert abs(count - share * total) <= 4.5 * np.sqrt(variance) + 1e-9
