"""batch(step) is a function of the step alone: the same by any process's share, any number of workers, and from wherever one starts."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from bert_jax import batch as contract
from data_pipeline.loader import Loader
from data_pipeline.masking import MaskingSpec
from data_pipeline.store import StoreError
from tests.data_pipeline.docstring_stores import SPECIAL, documentation, write_store

BATCH_SIZE = 32
SETTINGS = {"batch_size": BATCH_SIZE, "length": 64, "masking": MaskingSpec(predictions=10), "seed": 5}


def make(**changes):
    return Loader(documentation(), **(SETTINGS | changes))


@pytest.fixture(scope="module")
def loader():
    return make()


@pytest.fixture(scope="module")
def full_sentences():
    return make(sequences="full_sentences")


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_satisfies_the_contract(loader, full_sentences):
    for source, fields in ((loader, {"nsp_labels"}), (full_sentences, set())):
        batch = source.batch(3)
        contract.check(batch)
        assert batch.keys() - {"nsp_labels"} == contract.FIELDS.keys() - {"nsp_labels", "position_ids"}
        assert batch.keys() & {"nsp_labels"} == fields
        assert {name: array.shape for name, array in batch.items()} == {
            name: array.shape for name, array in contract.zeros(BATCH_SIZE, 64, 10, nsp=bool(fields)).items()
        }
    assert set(np.unique(full_sentences.batch(0)["token_type_ids"])) == {0}
    assert (loader.batch_size, loader.length, loader.predictions) == (BATCH_SIZE, 64, 10)


@pytest.mark.parametrize("shares", [1, 2, 4, 8])
def test_shares_make_up_the_batch(loader, shares):
    rows = np.random.default_rng(shares).permutation(BATCH_SIZE)  # in no order, as a sharding may have it
    parts = [make(rows=share, workers=1 + number % 2) for number, share in enumerate(np.split(rows, shares))]
    for step in (0, 10**7):
        whole = loader.batch(step)
        for part, share in zip(parts, np.split(rows, shares)):
            assert_equal(part.batch(step), {name: array[share] for name, array in whole.items()})


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_are_batch_for_any_number_of_workers(loader, workers):
    several = list(make(workers=workers).batches(4, 16))
    assert len(several) == 12
    for step, batch in enumerate(several, start=4):
        contract.check(batch)
        assert_equal(batch, loader.batch(step))


def test_restart_at_a_later_step(loader):
    from_the_start = list(loader.batches(0, 9))
    for step, batch in zip(range(6, 9), make().batches(6)):
        assert_equal(batch, from_the_start[step])


def test_far_steps_start_at_once(loader):
    started = time.perf_counter()
    first = next(make().batches(10**7))
    assert time.perf_counter() - started < 2
    assert_equal(first, loader.batch(10**7))


def test_an_epoch_visits_every_sequence_once(loader):
    steps = -(-3 * loader.num_sequences // BATCH_SIZE)
    visited = np.concatenate([batch["example_ids"] for batch in loader.batches(0, steps)])[: 3 * loader.num_sequences].reshape(3, -1)
    for epoch in visited:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(loader.num_sequences))
    assert (visited[0] == visited[1]).sum() < 10 and (visited[1] == visited[2]).sum() < 10
    assert loader.num_sequences % BATCH_SIZE  # so some batch straddled two epochs
    last = loader.num_sequences // BATCH_SIZE
    assert (loader.epoch_of(0), loader.epoch_of(last), loader.epoch_of(last + 1)) == (0, 0, 1)


def masks_by_example(loader, epoch):
    """Of every sequence: its row of each field."""
    first = epoch * loader.num_sequences
    steps = range(first // BATCH_SIZE, (first + loader.num_sequences - 1) // BATCH_SIZE + 1)
    fields = [batch for batch in loader.batches(steps.start, steps.stop)]
    fields = {name: np.concatenate([batch[name] for batch in fields]) for name in fields[0]}
    begin = first - steps.start * BATCH_SIZE
    fields = {name: array[begin : begin + loader.num_sequences] for name, array in fields.items()}
    return {name: array[np.argsort(fields["example_ids"])] for name, array in fields.items()}


def test_masks_change_with_the_epoch_only_if_dynamic(loader):
    first, second = masks_by_example(loader, 0), masks_by_example(loader, 1)
    same = (first["mlm_positions"] == second["mlm_positions"]).all(axis=1)
    assert same.mean() < 0.02
    np.testing.assert_array_equal(first["token_type_ids"], second["token_type_ids"])
    frozen = make(dynamic=False)
    assert_equal(masks_by_example(frozen, 0), masks_by_example(frozen, 1))
    assert_equal(masks_by_example(frozen, 0), first)  # and they are those of the first epoch


def test_seed_changes_everything(loader):
    other = make(seed=6, sequences="full_sentences").batch(0)
    same = make(sequences="full_sentences").batch(0)
    assert (other["example_ids"] != same["example_ids"]).mean() > 0.9
    left, right = masks_by_example(make(sequences="full_sentences"), 0), masks_by_example(make(seed=6, sequences="full_sentences"), 0)
    assert (left["mlm_positions"] != right["mlm_positions"]).any(axis=1).mean() > 0.95


def test_tokens_are_the_stores(loader):
    batch = loader.batch(2)
    rows = loader._sequences.gather(batch["example_ids"])
    restored = batch["input_ids"].copy()
    row, slot = np.nonzero(batch["mlm_weights"])
    restored[row, batch["mlm_positions"][row, slot]] = batch["mlm_targets"][row, slot]
    np.testing.assert_array_equal(restored, rows.input_ids)
    np.testing.assert_array_equal(batch["nsp_labels"], rows.nsp_labels)
    np.testing.assert_array_equal((restored == SPECIAL["sep"]).sum(axis=1), 2)


def test_evaluation_split_and_small_stores():
    evaluation = make(split="eval", dynamic=False, batch_size=4 * BATCH_SIZE)
    assert evaluation.num_sequences < 4 * BATCH_SIZE  # one batch holds the split more than once
    assert np.bincount(evaluation.batch(0)["example_ids"]).min() >= 1


def test_failure_in_the_pipeline_is_told():
    broken = make()
    batches = broken.batches(3)
    next(batches)

    def gather(numbers):
        raise OSError("the disk went away")

    broken._sequences.gather = gather
    with pytest.raises(RuntimeError, match="could not be read.*the disk went away") as caught:
        for _ in range(20):
            next(batches)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(RuntimeError, match="batch 7 .*the disk went away"):
        broken.batch(7)


def test_iterators_close_early_without_hanging():
    slow = make(workers=4)
    gather = slow._sequences.gather
    slow._sequences.gather = lambda numbers: (time.sleep(0.02), gather(numbers))[1]

    def open_and_leave():
        for step in range(5):
            batches = slow.batches(step)
            next(batches)
            batches.close()
        for step in range(5):
            next(slow.batches(step))

    thread = threading.Thread(target=open_and_leave, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_process_ends_with_an_open_iterator():
    program = (
        "import sys\nfrom data_pipeline.loader import Loader, tf\nfrom data_pipeline.masking import MaskingSpec\n"
        "loader = Loader(sys.argv[1], batch_size=8, length=64, masking=MaskingSpec(predictions=10), seed=5)\n"
        "batches = loader.batches(0)\nnext(batches)\nassert not tf.config.get_visible_devices('GPU')\nprint('done')"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(documentation())], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and ended.stdout == "done\n", ended.stderr


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"length": 4, "masking": MaskingSpec(predictions=1)}, "length=4"),
        ({"rows": [BATCH_SIZE]}, "rows must be"),
        ({"rows": []}, "rows must be"),
        ({"workers": 0}, "workers=0"),
        ({"seed": -1}, "-1"),
        ({"masking": MaskingSpec(predictions=65)}, "predictions=65"),
        ({"sequences": "pairs"}, "sequences='pairs'"),
    ],
)
def test_unfit_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_unfit_requests(loader, tmp_path):
    with pytest.raises(ValueError, match="step -1"):
        loader.batch(-1)
    with pytest.raises(ValueError, match="step -2"):
        loader.batches(-2)
    with pytest.raises(StoreError, match="not a token store"):
        Loader(tmp_path, **SETTINGS)
    empty = write_store(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="no sequence"):
        Loader(empty, **SETTINGS)
