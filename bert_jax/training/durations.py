"""Lengths of training in other units than steps: "500B tokens", "1.2M sequences", "3 epochs", "6%" -> optimizer updates. No JAX."""

import math
import re
from bisect import bisect_left
from collections.abc import Callable
from fractions import Fraction

_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NUMBER = r"\s*(\d[\d_]*(?:\.\d+)?(?:e\d+)?)\s*"
_DURATION = re.compile(_NUMBER + r"([kKMBT]?)\s*(?:(step|sequence|token|epoch)s?)?\s*")
_SHARE = re.compile(_NUMBER + "%\\s*")


def is_share(duration: str | int) -> bool:
    """Whether it is said as a share of a whole that has a length of its own: "6%"."""
    return _SHARE.fullmatch(str(duration)) is not None


def resolve_steps(
    duration: str | int,
    batch_size: int | Callable[[int], int],
    length: int,
    sequences_per_epoch: int | None = None,
    *,
    whole: int | None = None,
) -> int:
    """The least number of updates that covers `duration`; of a share, the nearest.

    duration: a number, perhaps with a decimal point, exponent or underscores, and k, M, B (10^9) or T (10^12) after it; then steps (also
    when nothing follows), sequences, tokens or epochs, singular or plural; or a number and %. An int is taken as steps.
    batch_size: sequences per update; where that changes, a function that gives the sequences of the first n updates, which grow with n by 1 at
    least. length: tokens per sequence: an update counts batch_size x length tokens, special tokens and padding included.
    sequences_per_epoch: needed for epochs alone. whole: the steps of which a share is taken. ValueError names the duration, what is wrong
    with it and what to write.
    """
    if is_share(duration):
        if whole is None:
            raise ValueError(f"{duration!r} is a share, and there is nothing here to take it of; give steps, sequences, tokens or epochs")
        return round(Fraction(_SHARE.fullmatch(str(duration)).group(1).replace("_", "")) * whole / 100)
    match = _DURATION.fullmatch(str(duration))
    if match is None:
        raise ValueError(f"{duration!r} is not a length of training; write such as 31k, '500B tokens', '1.2M sequences' or '3 epochs'")
    number, multiple, unit = match.groups()
    amount = Fraction(number.replace("_", "")) * _MULTIPLES[multiple]
    if unit in (None, "step"):
        if amount.denominator != 1:
            raise ValueError(f"{duration!r} is {float(amount)} steps; steps are whole")
        return int(amount)
    if length < 1 or (isinstance(batch_size, int) and batch_size < 1):
        raise ValueError(f"{duration!r} cannot be told in steps with batch_size {batch_size} and length {length}")
    if unit == "epoch":
        if sequences_per_epoch is None or sequences_per_epoch < 1:
            raise ValueError(f"{duration!r}: the sequences of an epoch are not known here; give steps, sequences or tokens")
        sequences = amount * sequences_per_epoch
    else:
        sequences = amount / (1 if unit == "sequence" else length)
    if isinstance(batch_size, int):
        return math.ceil(sequences / batch_size)
    return bisect_left(range(math.ceil(sequences)), sequences, key=batch_size)
