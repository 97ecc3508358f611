"""batch(step) is a function of the step alone: the same by any process's share, any number of workers, and from wherever one starts."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from bert_jax import batch as contract
from data_pipeline.batches.batch_sizes import BatchSizes
from data_pipeline.batches.loader import Loader
from data_pipeline.batches.masking import MaskingSpec
from data_pipeline.stores.store import StoreError
from tests.data_pipeline.docstring_stores import SPECIAL, documentation, encoded, write_store

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


KINDS = {
    "segment_pairs": {"nsp_labels"}, "sentence_order": {"sop_labels"}, "full_sentences": set(), "document_sentences": set(), "packed_documents": {"position_ids"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", ["tokens", "ngrams:3"])
def test_satisfies_the_contract(kind, choice):
    source = make(sequences=kind, masking=MaskingSpec(predictions=10, choice=choice))
    assert (source.batch_size, source.length, source.predictions) == (BATCH_SIZE, 64, 10)
    batch = source.batch(3)
    contract.check(batch)
    zeros = contract.zeros(BATCH_SIZE, 64, 10, nsp=False)
    assert batch.keys() - KINDS[kind] == zeros.keys()
    assert batch.keys() - zeros.keys() == KINDS[kind]
    assert {name: batch[name].shape for name in zeros} == {name: array.shape for name, array in zeros.items()}
    assert (batch["token_type_ids"].max() > 0) == bool({"nsp_labels", "sop_labels"} & batch.keys())


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
    rows = loader.sources[0].sequences.gather(batch["example_ids"])
    restored = batch["input_ids"].copy()
    row, slot = np.nonzero(batch["mlm_weights"])
    restored[row, batch["mlm_positions"][row, slot]] = batch["mlm_targets"][row, slot]
    np.testing.assert_array_equal(restored, rows.input_ids)
    np.testing.assert_array_equal(batch["nsp_labels"], rows.labels)
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

    broken.sources[0].sequences.gather = gather
    with pytest.raises(RuntimeError, match="could not be read.*the disk went away") as caught:
        for _ in range(20):
            next(batches)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(RuntimeError, match="batch 7 .*the disk went away"):
        broken.batch(7)


def test_iterators_close_early_without_hanging():
    slow = make(workers=4)
    gather = slow.sources[0].sequences.gather
    slow.sources[0].sequences.gather = lambda numbers: (time.sleep(0.02), gather(numbers))[1]

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
        "import sys\nfrom data_pipeline.batches.loader import Loader, tensorflow\nfrom data_pipeline.batches.masking import MaskingSpec\n"
        "loader = Loader(sys.argv[1], batch_size=8, length=64, masking=MaskingSpec(predictions=10), seed=5)\n"
        "batches = loader.batches(0)\nnext(batches)\nassert not tensorflow().config.get_visible_devices('GPU')\nprint('done')"
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
    with pytest.raises(ValueError, match="shares has 1 entries for 2 stores"):
        Loader([documentation(), documentation()], **SETTINGS)
    empty = write_store(tmp_path / "empty", [])
    with pytest.raises(ValueError, match="no sequence|no shard"):
        Loader(empty, **SETTINGS)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three stores of unequal size, and the shares of which they are wanted."""
    root = tmp_path_factory.mktemp("several")
    parts = {"large": slice(0, 40), "middle": slice(40, 60), "small": slice(60, 64)}
    return [write_store(root / name, encoded()[part], num_shards=1 + (name == "large")) for name, part in parts.items()], (0.5, 0.3, 0.2)


def mix(several, **changes):
    stores, shares = several
    return Loader(stores, shares=shares, **(SETTINGS | changes))


def test_a_mixture_keeps_its_shares_and_says_where_rows_come_from(several):
    mixture = mix(several)
    assert mixture.source_names == ("large", "middle", "small")
    batches = list(mixture.batches(0, 64))
    for batch in batches:
        contract.check(batch)
    sources, ids = (np.concatenate([batch[name] for batch in batches]) for name in ("source_ids", "example_ids"))
    for start in (0, 512, 1024):  # 512 sequences are two blocks of the order
        np.testing.assert_allclose(np.bincount(sources[start : start + 512]) / 512, [0.5, 0.3, 0.2], atol=0.003)
    for number, source in enumerate(mixture.sources):
        own = ids[sources == number] - source.first_id
        epochs = len(own) / len(source.sequences)
        visits = np.bincount(own, minlength=len(source.sequences))
        assert len(visits) == len(source.sequences)
        # A store is visited whole before any of it comes again, but for the order within a block of 256 places.
        assert np.floor(epochs - 256 / len(source.sequences)) <= visits.min() and visits.max() <= np.ceil(epochs + 256 / len(source.sequences))
    assert len(ids[sources == 2]) > len(mixture.sources[2].sequences)  # the small one came again
    assert mixture.num_sequences == int(min(len(source.sequences) / share for source, share in zip(mixture.sources, (0.5, 0.3, 0.2))))


def test_rows_of_a_mixture_are_their_stores_rows(several):
    batch, mixture = mix(several).batch(5), mix(several)
    restored = batch["input_ids"].copy()
    row, slot = np.nonzero(batch["mlm_weights"])
    restored[row, batch["mlm_positions"][row, slot]] = batch["mlm_targets"][row, slot]
    for number, source in enumerate(mixture.sources):
        here = batch["source_ids"] == number
        rows = source.sequences.gather(batch["example_ids"][here] - source.first_id)
        np.testing.assert_array_equal(restored[here], rows.input_ids)
        np.testing.assert_array_equal(batch["nsp_labels"][here], rows.labels)


@pytest.mark.parametrize("kind, choice", [("segment_pairs", "tokens"), ("packed_documents", "whole_words")])
def test_shares_of_rows_make_up_the_batch_of_a_mixture(several, kind, choice):
    settings = {"sequences": kind, "masking": MaskingSpec(predictions=10, choice=choice)}
    parts = [mix(several, rows=rows, workers=3, **settings) for rows in np.split(np.random.default_rng(0).permutation(BATCH_SIZE), 4)]
    for step in (0, 10**7):
        whole = mix(several, **settings).batch(step)
        for part in parts:
            assert_equal(next(part.batches(step)), {name: array[part._rows[BATCH_SIZE]] for name, array in whole.items()})


RAMP = BatchSizes.ramp((8, 16, 24), 32, 8)  # sizes of steps 0 to 7: 8 8 16 16 16 24 24 24


def test_sizes_last_as_long_as_each_other_and_rows_add_up():
    assert [RAMP.at(step) for step in range(10)] == [8, 8, 16, 16, 16, 24, 24, 24, 32, 32]
    assert [RAMP.before(step) for step in range(10)] == np.cumsum([0, 8, 8, 16, 16, 16, 24, 24, 24, 32]).tolist()
    assert RAMP.before(10**9) == 136 + 32 * (10**9 - 8) and RAMP.largest == 32
    for starts, sizes, message in (
        ((1,), (8,), "ascend from 0"), ((0, 5, 5), (1, 2, 3), "ascend from 0"), ((0, 1), (8,), "a size for each"), ((0,), (0,), "batch_size=0"),
    ):
        with pytest.raises(ValueError, match=message):
            BatchSizes(starts, sizes)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_growing_batch_cuts_the_same_sequences_in_the_same_order(several, mixed):
    """None is skipped or repeated, masks included, beyond an epoch too; from any step on, and whatever share of the rows a process builds."""
    maker = (lambda **changes: mix(several, **changes)) if mixed else make
    grown, steps = maker(batch_size=RAMP), 72
    batches = list(grown.batches(0, steps))
    assert [len(batch["input_ids"]) for batch in batches] == [RAMP.at(step) for step in range(steps)]
    constant = maker(batch_size=8)
    pieces = [constant.batch(step) for step in range(RAMP.before(steps) // 8)]
    assert_equal(*({name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in (batches, pieces)))
    halves = [maker(batch_size=RAMP, rows=lambda size, half=half: np.arange(size)[half::2]) for half in (0, 1)]
    for step in (1, 2, 7, 8):
        assert_equal(next(grown.batches(step)), batches[step])
        for number, half in enumerate(halves):
            assert_equal(half.batch(step), {name: array[number::2] for name, array in batches[step].items()})
    assert grown.epoch_of(steps) == RAMP.before(steps) // grown.num_sequences >= 1


def test_one_store_is_the_same_alone_and_as_a_list(loader):
    assert_equal(Loader([documentation()], **SETTINGS).batch(4), loader.batch(4))
    assert loader.source_names == ()


def test_the_rate_follows_its_schedule():
    rising = make(length=128, masking=MaskingSpec(rate=0.1, end_rate=0.3, predictions=40), rate_steps=100)
    share = [rising.batch(step)["mlm_weights"].sum() / (rising.batch(step)["segment_ids"] > 0).sum() for step in (0, 50, 100, 1000)]
    np.testing.assert_allclose(share, [0.1, 0.2, 0.3, 0.3], atol=0.025)
