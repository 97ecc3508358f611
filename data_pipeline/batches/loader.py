"""batch(step): sequences in a keyed order, masked, as batches of the contract, through tf.data.

Enters: one token store or several, and settings. Leaves: `batch(step)` and `batches(start_step)`, dicts of numpy arrays that satisfy
`bert_jax.batch.check`. A batch depends on (stores, settings, seed, step) and nothing else: not on the process's share of the rows, the
workers, or the steps before it. There is no state to save; resuming at a step is starting there.

Row r of step s has the global position g = s x batch_size + r; where the batch grows: the rows of all batches before, + r. One store: epoch
g // n (n sequences) visits all of them in an order of its own, so a batch may hold the end of one epoch and the beginning of the next. Several:
`mixture.py` says which store position g takes and how many it took before; each store is then visited like a single one.

A batch is built in numpy. tf.data builds them ahead in threads; TensorFlow is imported for that alone, by `batches`.
"""

import atexit
import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.batches.batch_sizes import BatchSizes
from data_pipeline.batches.masking import Masker, MaskingSpec
from data_pipeline.batches.mixture import Mixture
from data_pipeline.sequences.order import MASKS, MIXTURE, ORDER, fold, make_key, permute
from data_pipeline.sequences.packing import Sequences
from data_pipeline.stores.store import TokenStore

_open_streams: weakref.WeakSet = weakref.WeakSet()


@functools.cache
def tensorflow():
    """TensorFlow, without the accelerator: that belongs to JAX."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    atexit.register(_close_streams)  # runs before what TensorFlow itself registered
    return tf


def _close_streams() -> None:
    """Ends the reading threads while they can still take the interpreter's lock; one that asks for it later hangs the exit."""
    for stream in list(_open_streams):
        stream.close()


@dataclasses.dataclass(frozen=True)
class Source:
    """One store's part: its sequences, the key of their order, and the example id of its first sequence."""

    name: str
    store: TokenStore
    sequences: Sequences
    order_key: np.ndarray
    first_id: int


class Loader:
    """Masked batches from one split of a token store, or of several.

    Args:
      store_dirs: a token store, or several with the same tokenizer.
      shares: of the stores in the mixture, adding up to 1; see `mixture.shares_of`. May be left out for one store.
      batch_size: rows of the global batch; `BatchSizes` where they change with the step.
      length, sequences, short_seq_prob, duplicates: see `packing.Sequences`.
      masking: which tokens to choose and what to make of them; `masking.predictions` is K.
      rate_steps: steps over which the rate goes from `masking.rate` to `masking.end_rate`.
      seed: of the order, the pairs, the mixture and the masks.
      dynamic: draw new masks at every epoch. False keeps a sequence's mask: for evaluation, and for static masking.
      rows: int array of the rows of the global batch that this process builds, in this order; all of them by default. Where batch sizes change: a
        function from a size to such an array.
      workers: threads that build batches ahead, one batch each.

    Evaluation needs nothing more: steps 0 to M are the same M batches each time, a fixed sample of the split in a fixed order.
    Raises ValueError naming the field that does not fit, and `store.StoreError` if there is no such store or split."""

    def __init__(
        self,
        store_dirs: str | Path | Sequence[str | Path],
        *,
        shares: Sequence[float] = (1.0,),
        split: str = "train",
        batch_size: int | BatchSizes,
        length: int,
        sequences: str = "segment_pairs",
        short_seq_prob: float = 0.1,
        duplicates: int = 1,
        masking: MaskingSpec,
        rate_steps: int = 1,
        seed: int,
        dynamic: bool = True,
        rows: np.ndarray | Callable[[int], np.ndarray] | None = None,
        workers: int = 2,
    ):
        store_dirs = [store_dirs] if isinstance(store_dirs, str | Path) else list(store_dirs)
        self.batch_sizes = batch_size if isinstance(batch_size, BatchSizes) else BatchSizes.constant(batch_size)
        rows_of = np.arange if rows is None else rows if callable(rows) else lambda size: rows
        self._rows = {size: _checked_rows(rows_of(size), size) for size in self.batch_sizes.sizes}
        if workers < 1:
            raise ValueError(f"workers={workers} does not fit; it must be at least 1")
        if len(shares) != len(store_dirs):
            raise ValueError(f"shares has {len(shares)} entries for {len(store_dirs)} stores; give one for each")
        stores = [TokenStore(directory, split) for directory in store_dirs]
        vocabularies = {store.manifest["tokenizer"]["hash"] for store in stores}
        if len(vocabularies) > 1:
            raise ValueError(f"the stores {', '.join(map(str, store_dirs))} were prepared with different tokenizers; prepare them with one")
        self._masker = Masker(masking, length=length, vocab_size=stores[0].vocab_size, special=stores[0].special, special_ids=stores[0].special_ids)
        self.masking, self.rate_steps = masking, rate_steps
        self.batch_size, self.length, self.predictions = self.batch_sizes.largest, length, masking.predictions
        self.dynamic = dynamic
        self.workers = workers
        self.sources: list[Source] = []
        first_id = 0
        for number, (name, store) in enumerate(zip(_names(stores), stores)):
            order_key = make_key(seed, ORDER) if len(stores) == 1 else make_key(seed, ORDER, number)
            parts = Sequences(
                store, kind=sequences, length=length, short_seq_prob=short_seq_prob, duplicates=duplicates, seed=seed, with_words=masking.needs_words
            )
            self.sources.append(Source(name, store, parts, order_key, first_id))
            first_id += len(parts)
        self._mixture = Mixture(np.asarray(shares, np.float64), make_key(seed, MIXTURE)) if len(stores) > 1 else None
        self._masks_key = make_key(seed, MASKS)
        self._failure: Exception | None = None

    @property
    def source_names(self) -> tuple[str, ...]:
        """Of the sources that `source_ids` number; empty where there is one store."""
        return tuple(source.name for source in self.sources) if self._mixture else ()

    @property
    def num_sequences(self) -> int:
        """Sequences in one epoch, `duplicates` included; of a mixture: before the first store begins again."""
        if self._mixture is None:
            return len(self.sources[0].sequences)
        return int(min(len(source.sequences) / share for source, share in zip(self.sources, self._mixture.shares)))

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 0, of the first row of a step's global batch; of a mixture: how often its first exhausted store was seen."""
        return self.batch_sizes.before(step) // self.num_sequences

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of the global batch of a step. Thread-safe."""
        self._check_steps(step)
        try:
            return self._build(step)
        except Exception as error:
            raise self._explained(error, step) from error

    def batches(self, start_step: int = 0, stop_step: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """`batch(step)` for the steps from `start_step` on, up to and without `stop_step`, built ahead by `workers` threads. Arrays are
        read-only."""
        self._check_steps(start_step, stop_step)
        tf = tensorflow()
        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = self.workers
        options.threading.max_intra_op_parallelism = 1
        options.autotune.enabled = False
        dataset = tf.data.Dataset.range(start_step, tf.int64.max if stop_step is None else stop_step)
        first = self.batch(start_step)  # its fields are every batch's
        dtypes = [tf.as_dtype(array.dtype) for array in first.values()]

        def build(step: tf.Tensor) -> dict[str, tf.Tensor]:
            return dict(zip(first, tf.numpy_function(self._build_ahead, [step], dtypes)))

        dataset = dataset.map(build, num_parallel_calls=self.workers, deterministic=True)
        dataset = dataset.prefetch(self.workers).with_options(options)
        stream = self._iterate(dataset, start_step)
        _open_streams.add(stream)
        return stream

    def _iterate(self, dataset, step: int) -> Iterator[dict[str, np.ndarray]]:
        iterator = dataset.as_numpy_iterator()
        try:
            while True:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                except tensorflow().errors.OpError as error:
                    raise self._explained(self._failure or error.message, step) from self._failure
                yield batch
                step += 1
        finally:
            del iterator

    def _build(self, step: int) -> dict[str, np.ndarray]:
        positions = self.batch_sizes.before(step) + self._rows[self.batch_sizes.at(step)]
        numbers, places = (np.zeros_like(positions), positions) if self._mixture is None else self._mixture.locate(positions)
        rows: dict[str, np.ndarray] = {}
        visits = np.zeros_like(positions)
        for number, source in enumerate(self.sources):
            here = np.flatnonzero(numbers == number)
            if here.size:
                part, visits[here] = self._visit(source, places[here])
                for name, array in part.items():
                    if name not in rows:
                        rows[name] = array if here.size == len(positions) else np.empty((len(positions), *array.shape[1:]), array.dtype)
                    if rows[name] is not array:
                        rows[name][here] = array
        row_keys = fold(fold(self._masks_key, visits if self.dynamic else np.zeros_like(visits)), rows["example_ids"])
        rate = self.masking.rate_at(step, self.rate_steps)
        batch = self._masker(rows.pop("input_ids"), rows["segment_ids"], row_keys, rows.pop("word_starts", None), rate)
        example_ids = rows.pop("example_ids")
        batch |= {name: array.astype(np.int32) for name, array in rows.items()} | {"example_ids": example_ids}
        return batch | {"source_ids": numbers.astype(np.int32)} if self._mixture else batch

    def _visit(self, source: Source, places: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The rows at these places (int64 [N]) of a source's own order, by field, and the epochs (int64 [N]) of which they are."""
        epochs, indices = np.divmod(places, len(source.sequences))
        numbers = permute(indices, len(source.sequences), fold(source.order_key, epochs))
        rows = source.sequences.gather(numbers)
        fields = {name: getattr(rows, name) for name in ("input_ids", "token_type_ids", "segment_ids", "position_ids", "word_starts")}
        if source.sequences.label_field:
            fields[source.sequences.label_field] = rows.labels
        fields["example_ids"] = numbers + source.first_id
        return {name: array for name, array in fields.items() if array is not None}, epochs

    def _build_ahead(self, step: np.int64) -> list[np.ndarray]:
        """In a thread of tf.data, which tells of an exception only its text."""
        try:
            return list(self._build(int(step)).values())
        except Exception as error:
            self._failure = error
            raise

    def _explained(self, cause: Exception | str, step: int) -> RuntimeError:
        where = ", ".join(str(source.store.directory) for source in self.sources)
        hint = ""
        if isinstance(cause, IndexError):  # numbers that no whole store or plan holds
            plans = ", ".join(str(source.sequences.directory) for source in self.sources)
            hint = f"; the store is damaged (see bert-jax inspect --verify), or its plan: delete {plans}"
        return RuntimeError(f"batch {step} could not be read from {where}: {cause}{hint}")

    def _check_steps(self, start: int, stop: int | None = None) -> None:
        last = 2**62 // self.batch_size
        for step in (start, stop):
            if step is not None and not 0 <= step <= last:
                raise ValueError(f"step {step} does not fit; it must lie in [0, {last}]")


def _checked_rows(rows: np.ndarray, batch_size: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size or rows.min() < 0 or rows.max() >= batch_size:
        raise ValueError(f"rows must be a list of row numbers in [0, {batch_size}), the rows of the global batch; got {rows}")
    return rows.astype(np.int64)


def _names(stores: list[TokenStore]) -> list[str]:
    """The directories' names, or as much of their ends as tells them apart."""
    parts = [store.directory.absolute().parts for store in stores]
    depth = next((depth for depth in range(1, max(map(len, parts)) + 1) if len({path[-depth:] for path in parts}) == len(parts)), 1)
    return ["/".join(path[-depth:]) for path in parts]
