"""How many rows the global batch of each step has, and where in the order of the data its first row lies. No numpy, no TensorFlow.

Enters: the sizes and how many steps each lasts. Leaves: pure functions of the step. A batch that grows cuts the same order of sequences
into larger pieces: none is skipped or repeated.
"""

import dataclasses
import functools
from bisect import bisect_right
from itertools import accumulate


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """`sizes[i]` rows from step `starts[i]` on, up to the next start; the last size stays. starts[0] is 0.

    Raises ValueError unless there is a size of at least 1 for each start, and the starts ascend."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    def __post_init__(self):
        ascending = all(before < after for before, after in zip(self.starts, self.starts[1:]))
        if len(self.starts) != len(self.sizes) or self.starts[:1] != (0,) or not ascending:
            raise ValueError(
                f"batch sizes {self.sizes} from steps {self.starts} on do not fit; there must be a size for each start, and these ascend from 0"
            )
        if min(self.sizes) < 1:
            raise ValueError(f"batch_size={min(self.sizes)} does not fit; it must be at least 1")

    @classmethod
    def constant(cls, size: int) -> "BatchSizes":
        return cls((0,), (size,))

    @classmethod
    def ramp(cls, smaller: tuple[int, ...], final: int, steps: int) -> "BatchSizes":
        """Each of the `smaller` sizes for as many of the first `steps` steps, to one more or less, then `final`. steps: at least one for each."""
        return cls(tuple(steps * number // len(smaller) for number in range(len(smaller) + 1)), (*smaller, final))

    @property
    def largest(self) -> int:
        return max(self.sizes)

    def at(self, step: int) -> int:
        """Rows of this step's batch."""
        return self.sizes[bisect_right(self.starts, step) - 1]

    def before(self, step: int) -> int:
        """Rows of all batches before this step's: the position of its first row."""
        number = bisect_right(self.starts, step) - 1
        return self._before_starts[number] + (step - self.starts[number]) * self.sizes[number]

    @functools.cached_property
    def _before_starts(self) -> tuple[int, ...]:
        lengths = (after - before for before, after in zip(self.starts, self.starts[1:]))
        return tuple(accumulate((size * length for size, length in zip(self.sizes, lengths)), initial=0))
