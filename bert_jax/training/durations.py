"""Lengths of training in other units than steps: "500B tokens", "1.2M sequences", "3 epochs" -> optimizer updates. No JAX."""

import math
import re
from fractions import Fraction

_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_DURATION = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?(?:e\d+)?)\s*([kKMBT]?)\s*(?:(step|sequence|token|epoch)s?)?\s*")


def resolve_steps(duration: str | int, batch_size: int, length: int, sequences_per_epoch: int | None = None) -> int:
    """The least number of updates that covers `duration`.

    duration: a number, perhaps with a decimal point, exponent or underscores, and k, M, B (10^9) or T (10^12) after it; then steps (also
    when nothing follows), sequences, tokens or epochs, singular or plural. An int is taken as steps.
    batch_size: sequences per update. length: tokens per sequence: an update counts batch_size x length tokens, special tokens and padding
    included. sequences_per_epoch: needed for epochs alone. ValueError names the duration, what is wrong with it and what to write.
    """
    match = _DURATION.fullmatch(str(duration))
    if match is None:
        raise ValueError(f"{duration!r} is not a length of training; write such as 31k, '500B tokens', '1.2M sequences' or '3 epochs'")
    number, multiple, unit = match.groups()
    amount = Fraction(number.replace("_", "")) * _MULTIPLES[multiple]
    if unit in (None, "step"):
        if amount.denominator != 1:
            raise ValueError(f"{duration!r} is {float(amount)} steps; steps are whole")
        return int(amount)
    if batch_size < 1 or length < 1:
        raise ValueError(f"{duration!r} cannot be told in steps with batch_size {batch_size} and length {length}")
    if unit == "epoch":
        if sequences_per_epoch is None or sequences_per_epoch < 1:
            raise ValueError(f"{duration!r}: the sequences of an epoch are not known here; give steps, sequences or tokens")
        return math.ceil(amount * sequences_per_epoch / batch_size)
    return math.ceil(amount / (batch_size if unit == "sequence" else batch_size * length))
