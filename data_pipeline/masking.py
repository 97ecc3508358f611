"""Rows -> masked batches: masked-language-model choice and corruption as TensorFlow operations over a whole batch (BERT, section 3.1).

Enters: token ids, segment ids and, per row, a uint64 key. Leaves: the corrupted ids, and K slots of positions, targets and weights. All
randomness is a hash of (row key, position, purpose), and a row key is a hash of (seed, epoch, example id): a row is masked alike in any
batch, on any host, by any worker. The hash is that of order.py, splitmix64.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from data_pipeline import order

CHOICE, ACTION, REPLACEMENT = range(3)  # purposes
PURPOSES = 4


@dataclasses.dataclass(frozen=True)
class MaskingSpec:
    """Of c candidates (real tokens that are not special), min(predictions, max(1, round(rate x c))) are chosen, and none where c is 0.

    BERT rounds the rate of all tokens, [CLS] and [SEP] included, which here would be up to one more in 40. Of the chosen, `mask_share`
    become [MASK], `random_share` a random token that is not special, and the rest stay as they are."""

    rate: float = 0.15
    predictions: int = 20
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self):
        if not 0 < self.rate <= 1:
            raise ValueError(f"masking.rate={self.rate} does not fit; it must lie in (0, 1]")
        if self.predictions < 1:
            raise ValueError(f"masking.predictions={self.predictions} leaves nothing to predict; it must be at least 1")
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masking.{name}={getattr(self, name)} is not a share; it must lie in [0, 1]")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"masking.mask_share={self.mask_share} and random_share={self.random_share} add up to more than 1")


def fold(keys: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
    """`order.fold` as TensorFlow operations: uint64 keys and integer counters, broadcast -> uint64."""

    def xor_shift(values, bits):
        return tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, tf.constant(bits, tf.uint64)))

    golden = tf.constant(order.GOLDEN, tf.uint64)
    values = keys + (golden * tf.cast(counters, tf.uint64) + golden)
    values = xor_shift(values, 30) * tf.constant(order.FIRST_MULTIPLIER, tf.uint64)
    values = xor_shift(values, 27) * tf.constant(order.SECOND_MULTIPLIER, tf.uint64)
    return xor_shift(values, 31)


class Masker:
    """Masks batches for one vocabulary.

    Args: `special` are the ids (pad, unk, cls, sep, mask) that are never chosen and never drawn; `mask_id` is one of them. Raises
    ValueError if they do not fit the vocabulary, or `spec.predictions` the length."""

    def __init__(self, spec: MaskingSpec, *, length: int, vocab_size: int, special: dict[str, int]):
        if spec.predictions > length:
            raise ValueError(f"masking.predictions={spec.predictions} is more than the length {length}; {spec.rate} x length is enough")
        for name, number in special.items():
            if not 0 <= number < vocab_size:
                raise ValueError(f"the special token {name!r} has the id {number}, outside the vocabulary of {vocab_size}")
        self.spec, self.length, self.mask_id = spec, length, special["mask"]
        self._is_special = np.zeros(vocab_size, bool)
        self._is_special[list(special.values())] = True
        self._replacements = np.flatnonzero(~self._is_special).astype(np.int32)
        if not len(self._replacements):
            raise ValueError(f"all {vocab_size} tokens of the vocabulary are special; nothing can be masked")
        # round() in Python, once per possible count: no doubt about halves and float32.
        self._chosen_of = np.asarray(
            [0] + [min(spec.predictions, count, max(1, round(spec.rate * count))) for count in range(1, length + 1)], np.int32
        )

    def __call__(self, input_ids: tf.Tensor, segment_ids: tf.Tensor, row_keys: tf.Tensor) -> dict[str, tf.Tensor]:
        """`input_ids` [B, L] and `segment_ids` [B, L] of any integer dtype, `row_keys` uint64 [B] -> the fields input_ids and mlm_* of the
        contract."""
        spec, length = self.spec, self.length
        input_ids = tf.cast(input_ids, tf.int32)
        candidates = tf.cast(segment_ids, tf.bool) & ~tf.gather(tf.constant(self._is_special), input_ids)
        chosen = tf.gather(tf.constant(self._chosen_of), tf.math.count_nonzero(candidates, axis=1, dtype=tf.int32))[:, None]

        # The highest hashes win; among equal ones (1 in 2**31 per pair of positions) the first.
        row_keys = row_keys[:, None]
        counters = np.arange(length, dtype=np.uint64)[None] * PURPOSES + CHOICE
        scores = tf.cast(tf.bitwise.right_shift(fold(row_keys, tf.constant(counters)), tf.constant(33, tf.uint64)), tf.int32)
        positions = tf.math.top_k(tf.where(candidates, scores, -1), spec.predictions).indices
        used = tf.range(spec.predictions)[None] < chosen
        positions = tf.sort(tf.where(used, positions, length), axis=1)  # the unused go last, and so `used` still holds
        positions = tf.where(used, positions, 0)

        targets = tf.gather(input_ids, positions, batch_dims=1)
        counters = tf.cast(positions, tf.uint64) * PURPOSES
        action = tf.bitwise.right_shift(fold(row_keys, counters + ACTION), tf.constant(32, tf.uint64))
        drawn = tf.bitwise.right_shift(fold(row_keys, counters + REPLACEMENT), tf.constant(32, tf.uint64))
        drawn = tf.bitwise.right_shift(drawn * len(self._replacements), tf.constant(32, tf.uint64))
        replacement = tf.gather(tf.constant(self._replacements), tf.cast(drawn, tf.int32))
        mask_below = tf.constant(round(spec.mask_share * 2**32), tf.uint64)
        random_below = tf.constant(round((spec.mask_share + spec.random_share) * 2**32), tf.uint64)
        corrupted = tf.where(action < mask_below, self.mask_id, tf.where(action < random_below, replacement, targets))

        # Adding the difference leaves position 0 alone, to which all the unused slots point.
        difference = tf.where(used, corrupted - targets, 0)
        rows = tf.broadcast_to(tf.range(tf.shape(positions)[0])[:, None], tf.shape(positions))
        return {
            "input_ids": tf.tensor_scatter_nd_add(input_ids, tf.stack([rows, positions], axis=-1), difference),
            "mlm_positions": positions,
            "mlm_targets": tf.where(used, targets, 0),
            "mlm_weights": tf.cast(used, tf.float32),
        }
