"""batch(step): sequences in a keyed order, masked, as batches of the contract, through tf.data.

Enters: a token store and settings. Leaves: `batch(step)` and `batches(start_step)`, dicts of numpy arrays that satisfy
`bert_jax.batch.check`. A batch depends on (store, settings, seed, step) and nothing else: not on the process's share of the rows, the
workers, or the steps before it. There is no state to save; resuming at a step is starting there.

Row r of step s has the global position g = s x batch_size + r. Epoch g // n (n sequences) visits all of them in an order of its own, so a
batch may hold the end of one epoch and the beginning of the next.
"""

import atexit
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from data_pipeline.masking import Masker, MaskingSpec, fold
from data_pipeline.order import MASKS, ORDER, make_key, permute
from data_pipeline.order import fold as fold_keys
from data_pipeline.packing import Sequences
from data_pipeline.store import TokenStore

tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX

_open_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close_streams() -> None:
    """Ends the reading threads while they can still take the interpreter's lock; one that asks for it later hangs the exit."""
    for stream in list(_open_streams):
        stream.close()


FIELDS_OF_ROWS = ("input_ids", "token_type_ids", "segment_ids", "nsp_labels")


class Loader:
    """Masked batches from one split of a token store.

    Args:
      batch_size: rows of the global batch.
      length, sequences, short_seq_prob, duplicates: see `packing.Sequences`.
      masking: how many tokens to choose and what to make of them; `masking.predictions` is K.
      seed: of the order, the pairs and the masks.
      dynamic: draw new masks at every epoch. False keeps a sequence's mask: for evaluation, and for static masking.
      rows: int array of the rows of the global batch that this process builds, in this order; all of them by default.
      workers: threads that build batches ahead, one batch each.

    Evaluation needs nothing more: steps 0 to M are the same M batches each time, a fixed sample of the split in a fixed order.
    Raises ValueError naming the field that does not fit, and `store.StoreError` if there is no such store or split."""

    def __init__(
        self,
        store_dir: str | Path,
        *,
        split: str = "train",
        batch_size: int,
        length: int,
        sequences: str = "segment_pairs",
        short_seq_prob: float = 0.1,
        duplicates: int = 1,
        masking: MaskingSpec,
        seed: int,
        dynamic: bool = True,
        rows: np.ndarray | None = None,
        workers: int = 2,
    ):
        rows = np.arange(batch_size) if rows is None else np.asarray(rows)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} does not fit; it must be at least 1")
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size or rows.min() < 0 or rows.max() >= batch_size:
            raise ValueError(f"rows must be a list of row numbers in [0, {batch_size}), the rows of the global batch; got {rows}")
        if workers < 1:
            raise ValueError(f"workers={workers} does not fit; it must be at least 1")
        store = TokenStore(store_dir, split)
        masker = Masker(masking, length=length, vocab_size=store.vocab_size, special=store.special)
        self.store = store
        self.batch_size, self.length, self.predictions = batch_size, length, masking.predictions
        self.dynamic = dynamic
        self.workers = workers
        self._sequences = Sequences(store, kind=sequences, length=length, short_seq_prob=short_seq_prob, duplicates=duplicates, seed=seed)
        self._masker = masker
        self._rows = rows.astype(np.int64)
        self._order_key, self._masks_key = make_key(seed, ORDER), make_key(seed, MASKS)
        self._failure: Exception | None = None
        self._one = tf.function(self._build, input_signature=[tf.TensorSpec((), tf.int64)])

    @property
    def num_sequences(self) -> int:
        """Sequences in one epoch, `duplicates` included."""
        return len(self._sequences)

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 0, of the first row of a step's global batch."""
        return step * self.batch_size // self.num_sequences

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of the global batch of a step. Thread-safe."""
        self._check_steps(step)
        try:
            return {name: value.numpy() for name, value in self._one(tf.constant(step, tf.int64)).items()}
        except tf.errors.OpError as error:
            raise self._explained(error, step) from self._failure

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """`batch(step)` for the steps from `start_step` on, up to and without `stop_step`, built ahead by `workers` threads. Arrays are
        read-only."""
        self._check_steps(start_step, stop_step)
        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = self.workers
        options.threading.max_intra_op_parallelism = 1
        options.autotune.enabled = False
        dataset = tf.data.Dataset.range(start_step, tf.int64.max if stop_step is None else stop_step)
        dataset = dataset.map(self._one, num_parallel_calls=self.workers, deterministic=True)
        dataset = dataset.prefetch(self.workers).with_options(options)
        stream = self._iterate(dataset, start_step)
        _open_streams.add(stream)
        return stream

    def _iterate(self, dataset: tf.data.Dataset, step: int) -> Iterator[dict[str, np.ndarray]]:
        iterator = dataset.as_numpy_iterator()
        try:
            while True:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except tf.errors.OpError as error:
                    raise self._explained(error, step) from self._failure
                yield batch
                step += 1
        finally:
            del iterator

    def _build(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """One batch as TensorFlow operations; only the reading of the memory map is numpy."""
        ids_dtype = self._sequences.tokens[0].dtype
        dtypes = [ids_dtype, np.uint8, np.uint8, np.uint8, np.int64, np.int64]
        *rows, numbers, epochs = tf.numpy_function(self._read, [step], [tf.as_dtype(dtype) for dtype in dtypes])
        num_rows = len(self._rows)
        for tensor in rows[:3]:
            tensor.set_shape((num_rows, self.length))
        for tensor in (rows[3], numbers, epochs):
            tensor.set_shape((num_rows,))
        batch = {name: tf.cast(tensor, tf.int32) for name, tensor in zip(FIELDS_OF_ROWS, rows)}
        visits = epochs if self.dynamic else tf.zeros_like(epochs)
        row_keys = fold(fold(tf.constant(self._masks_key), visits), numbers)
        batch |= self._masker(batch["input_ids"], batch["segment_ids"], row_keys)
        if not self._sequences.pairs:
            del batch["nsp_labels"]
        return batch | {"example_ids": numbers}

    def _read(self, step: np.int64) -> tuple[np.ndarray, ...]:
        try:
            epochs, indices = np.divmod(step * self.batch_size + self._rows, self.num_sequences)
            numbers = permute(indices, self.num_sequences, fold_keys(self._order_key, epochs))
            rows = self._sequences.gather(numbers)
        except Exception as error:
            self._failure = error
            raise
        return *(getattr(rows, name) for name in FIELDS_OF_ROWS), numbers, epochs

    def _explained(self, error: tf.errors.OpError, step: int) -> RuntimeError:
        cause = error.message if self._failure is None else self._failure
        return RuntimeError(f"batch {step} could not be read from {self.store.directory}: {cause}")

    def _check_steps(self, start: int, stop: int | None = None) -> None:
        last = 2**62 // self.batch_size
        for step in (start, stop):
            if step is not None and not 0 <= step <= last:
                raise ValueError(f"step {step} does not fit; it must lie in [0, {last}]")
