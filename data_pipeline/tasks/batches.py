"""batch(step): rows of Features in a keyed order, padded to one of a few lengths. numpy only.

Enters: `Features` and settings. Leaves: dicts of arrays. A batch depends on (features, settings, seed, step) and nothing else; there is no
state to save. As in the pretraining loader, row r of step s has the global position g = s x batch_size + r, and epoch g // R visits all R
features in an order of its own, so that a batch may hold the end of one epoch and the beginning of the next.

Without shuffling, for evaluation: one pass, the features in the order of their lengths, so that little is padding; the last batch is filled
up with copies of weight 0.

| field | shape | dtype | meaning |
|---|---|---|---|
| `input_ids`, `token_type_ids`, `segment_ids` | [B, L]; "choice": [B x C, L], a row's choices in turn | int32 | see bert_jax/batch.py |
| `pair_input_ids`, `negative_input_ids`, ... | [B, L'] | int32 | "embedding": the other towers, each padded to a length of its own |
| `labels` | [B], [B, classes], [B, L] | int32 or float32 | see `encode.Features`; [B, L] for "tokens", IGNORED at padding |
| `start_positions`, `end_positions` | [B] | int32 | "span" |
| `weights` | [B] | float32 | 0 for copies that fill the last batch, else 1 |
| `example_ids` | [B] | int64 | the feature's number (`features.examples` has the example's); -1 for copies. Stays on the host |
"""

from collections.abc import Iterator

import numpy as np

from data_pipeline.sequences.order import ORDER, fold, make_key, permute
from data_pipeline.tasks.encode import IGNORED, Features


class TaskBatches:
    """Batches of one split.

    Args:
      batch_size: features of the global batch.
      lengths: to which rows are padded, ascending: a batch takes the smallest that holds its longest row, on all processes the same. One:
        fixed.
      shuffle: endless, a new order each epoch. Otherwise `num_batches` batches in the order of lengths.
      rows: int array of the rows of the global batch that this process builds; all of them by default.

    Raises ValueError naming the field that does not fit."""

    def __init__(
        self,
        features: Features,
        *,
        batch_size: int,
        lengths: int | tuple[int, ...],
        seed: int = 0,
        shuffle: bool = True,
        rows: np.ndarray | None = None,
    ):
        self.features, self.batch_size, self.shuffle = features, batch_size, shuffle
        self.lengths = (lengths,) if isinstance(lengths, int) else tuple(lengths)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} does not fit; it must be at least 1")
        if not len(features):
            raise ValueError("there is no example")
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths={self.lengths} must ascend")
        self._longest = {prefix: tower.lengths.reshape(-1, features.choices).max(1) for prefix, tower in features.towers.items()}
        longest = max(int(of_tower.max()) for of_tower in self._longest.values())
        if longest > self.lengths[-1]:
            raise ValueError(
                f"a row has {longest} tokens, more than the largest of lengths={self.lengths}; encode with max_length={self.lengths[-1]}"
            )
        self._rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
        if self._rows.ndim != 1 or not self._rows.size or self._rows.min() < 0 or self._rows.max() >= batch_size:
            raise ValueError(f"rows must be row numbers in [0, {batch_size}), the rows of the global batch; got {self._rows}")
        self._key = make_key(seed, ORDER)
        self._by_length = None if shuffle else np.argsort(features.lengths(), kind="stable")

    @property
    def num_batches(self) -> int:
        """Of one pass; with `shuffle` the last also begins the next."""
        return -(-len(self.features) // self.batch_size)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of the global batch of a step. Thread-safe. Raises ValueError for a step that does not exist."""
        if step < 0 or not self.shuffle and step >= self.num_batches:
            raise ValueError(
                f"step {step} does not fit; there are {'no negative steps' if self.shuffle else f'{self.num_batches} batches'}"
            )
        numbers, is_real = self._numbers(step)
        mine, weights = numbers[self._rows], is_real[self._rows]
        features, batch = self.features, {}
        for prefix, tower in features.towers.items():
            wanted = self._longest[prefix][numbers].max()  # of the whole batch, or processes would differ
            length = next(length for length in self.lengths if length >= wanted)
            rows = (mine[:, None] * features.choices + np.arange(features.choices)).reshape(-1)
            batch |= {prefix + name: array for name, array in tower.padded(rows, length, features.pad).items()}
            if features.kind == "tokens" and features.labels is not None:
                batch["labels"] = np.full(batch["input_ids"].shape, IGNORED, np.int32)
                where = batch["segment_ids"] > 0
                batch["labels"][where] = np.concatenate([features.labels[tower.bounds[row] : tower.bounds[row + 1]] for row in rows])
        if features.labels is not None and features.kind != "tokens":
            batch["labels"] = features.labels[mine]
        if features.start_positions is not None:
            batch |= {"start_positions": features.start_positions[mine], "end_positions": features.end_positions[mine]}
        return batch | {"weights": weights.astype(np.float32), "example_ids": np.where(weights, mine, -1)}

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """`batch(step)` from `start_step` up to and without `stop_step`; without one endlessly, or to the end of the pass."""
        if stop_step is None and not self.shuffle:
            stop_step = self.num_batches
        step = start_step
        while stop_step is None or step < stop_step:
            yield self.batch(step)
            step += 1

    def _numbers(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The features of the global batch, int64 [batch_size], and which of them count, bool [batch_size]."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        count = len(self.features)
        if self.shuffle:
            epochs, indices = np.divmod(positions, count)
            return permute(indices, count, fold(self._key, epochs)), np.ones(self.batch_size, bool)
        return self._by_length[np.minimum(positions, count - 1)], positions < count
