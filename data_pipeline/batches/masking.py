"""Rows -> masked batches: the masked language model's choice and corruption (BERT, Devlin et al. 2018, section 3.1). numpy only.

Enters: rows of token ids, segment ids and, per row, a uint64 key. Leaves: the corrupted ids, and K slots of positions, targets and
weights. All randomness is a hash of (row key, position, purpose), and a row key is a hash of (seed, epoch, example id): a row is masked
alike in any batch, on any host, by any worker. Which tokens are chosen is decided in mask_choice.py.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipeline.batches import mask_choice
from data_pipeline.sequences import order

CHOICE, ACTION, REPLACEMENT = range(3)  # purposes
PURPOSES = 4


@dataclasses.dataclass(frozen=True)
class MaskingSpec:
    """Of c candidates (real tokens that are not special), min(predictions, max(1, round(rate x c))) are to be chosen, none where c is 0.

    BERT rounds the rate of all tokens, [CLS] and [SEP] included, which here would be up to one more in 40. Of the chosen, `mask_share`
    become [MASK], `random_share` a random token that is not special, and the rest stay as they are. `choice`:

    - "tokens": exactly that many single tokens.
    - "whole_words": words, one after another in random order, that fit the rest of the number (google-research/bert, whole-word masking).
    - "ngrams:N": runs of n words, n <= N with probability proportional to 1/n (ALBERT, Lan et al. 2019, section 3.1; DeBERTa).
    - "spans:P:N": runs of n words, n geometric with P among the lengths up to N; one draw decides what becomes of all tokens of a run
      (SpanBERT, Joshi et al. 2019, section 3.1: spans:0.2:10).

    With `end_rate` the rate goes linearly from `rate` to `end_rate` over the steps of a run; None or 0 keeps it."""

    rate: float = 0.15
    predictions: int = 20
    mask_share: float = 0.8
    random_share: float = 0.1
    choice: str = "tokens"
    end_rate: float | None = None

    def __post_init__(self):
        for name, rate in {"rate": self.rate, "end_rate": self.end_rate or self.rate}.items():
            if not 0 < rate <= 1:
                raise ValueError(f"masking.{name}={rate} does not fit; it must lie in (0, 1]")
        if self.predictions < 1:
            raise ValueError(f"masking.predictions={self.predictions} leaves nothing to predict; it must be at least 1")
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masking.{name}={getattr(self, name)} is not a share; it must lie in [0, 1]")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"masking.mask_share={self.mask_share} and random_share={self.random_share} add up to more than 1")
        mask_choice.run_lengths(self.choice)

    @property
    def needs_words(self) -> bool:
        """Whether the choice needs to know where words start."""
        return self.choice != "tokens"

    def rate_at(self, step: int, steps: int) -> float:
        """The rate of a step of a run of `steps` steps: `rate` at step 0, `end_rate` at step `steps` and after it."""
        if not self.end_rate:
            return self.rate
        return self.rate + (self.end_rate - self.rate) * min(step, steps) / steps


class Masker:
    """Masks batches for one vocabulary.

    Args: `special` are the ids of pad, unk, cls, sep and mask, `special_ids` further ones; none of them is ever chosen or drawn. Raises ValueError
    if they do not fit the vocabulary, or `spec.predictions` the length."""

    def __init__(self, spec: MaskingSpec, *, length: int, vocab_size: int, special: dict[str, int], special_ids: Sequence[int] = ()):
        if spec.predictions > length:
            raise ValueError(f"masking.predictions={spec.predictions} is more than the length {length}; {spec.rate} x length is enough")
        for name, number in [*special.items(), *((f"{number}", number) for number in special_ids)]:
            if not 0 <= number < vocab_size:
                raise ValueError(f"the special token {name!r} has the id {number}, outside the vocabulary of {vocab_size}")
        self.spec, self.length, self.mask_id, self.unknown_id = spec, length, special["mask"], special["unk"]
        self._is_special = np.zeros(vocab_size, bool)
        self._is_special[[*special.values(), *special_ids]] = True
        self._replacements = np.flatnonzero(~self._is_special).astype(np.int32)
        if not len(self._replacements):
            raise ValueError(f"all {vocab_size} tokens of the vocabulary are special; nothing can be masked")
        self._run_lengths = mask_choice.run_lengths(spec.choice)

    def __call__(
        self,
        input_ids: np.ndarray,
        segment_ids: np.ndarray,
        row_keys: np.ndarray,
        word_starts: np.ndarray | None = None,
        rate: float | None = None,
    ) -> dict[str, np.ndarray]:
        """`input_ids` and `segment_ids` [B, L] of any integer dtype, `row_keys` uint64 [B], `word_starts` bool [B, L] if the spec needs
        words, `rate` if not the spec's -> the fields input_ids and mlm_* of the contract. Raises ValueError without the words needed."""
        real = segment_ids != 0
        candidates = real & ~self._is_special.take(input_ids)
        hashes = order.fold(row_keys[:, None], np.arange(self.length) * PURPOSES + CHOICE)
        if self._run_lengths is None:
            places = run_starts = mask_choice.choose_tokens(candidates, hashes, self._budgets(candidates.sum(axis=1), rate))
        else:
            if word_starts is None:
                raise ValueError(f"masking.choice={self.spec.choice!r} needs word_starts, which words the tokens are in")
            text = candidates | (real & (input_ids == self.unknown_id))
            words = mask_choice.find_words(text, candidates, word_starts, segment_ids)
            sizes = np.bincount(words.rows, words.sizes, len(candidates)).astype(np.int64)
            places, run_starts = mask_choice.choose_words(words, hashes, self._budgets(sizes, rate), self._run_lengths)
        return self._corrupt(input_ids, row_keys, places, run_starts if self.spec.choice.startswith("spans") else places)

    def _budgets(self, counts: np.ndarray, rate: float | None) -> np.ndarray:
        """int64 [B]: how many of these many candidates to choose. np.rint rounds halves to even, as Python's round."""
        wanted = np.maximum(1, np.rint((self.spec.rate if rate is None else rate) * counts).astype(np.int64))
        return np.minimum(np.minimum(wanted, counts), self.spec.predictions)

    def _corrupt(self, input_ids: np.ndarray, row_keys: np.ndarray, places: np.ndarray, deciding: np.ndarray) -> dict[str, np.ndarray]:
        """`places` int64 [C] are the chosen tokens' (row x L + position); what becomes of each is drawn at its place in `deciding`."""
        spec = self.spec
        rows, positions = np.divmod(places, self.length)
        keys = row_keys.take(rows)
        action = order.fold(keys, deciding % self.length * PURPOSES + ACTION) >> np.uint64(32)
        drawn = order.draw(keys, positions * PURPOSES + REPLACEMENT, len(self._replacements))
        targets = input_ids.take(places).astype(np.int32)
        to_random = action < round((spec.mask_share + spec.random_share) * 2**32)
        corrupted = np.where(to_random, self._replacements.take(drawn), targets)
        corrupted[action < round(spec.mask_share * 2**32)] = self.mask_id

        counts = np.bincount(rows, minlength=len(input_ids))
        slots = rows * spec.predictions + np.arange(len(rows)) - (np.cumsum(counts) - counts).take(rows)
        flat = {"mlm_positions": (positions, np.int32), "mlm_targets": (targets, np.int32), "mlm_weights": (1.0, np.float32)}
        fields = {"input_ids": input_ids.astype(np.int32, order="C")}
        fields["input_ids"].reshape(-1)[places] = corrupted
        for name, (values, dtype) in flat.items():
            fields[name] = np.zeros((len(input_ids), spec.predictions), dtype)
            fields[name].reshape(-1)[slots] = values
        return fields
