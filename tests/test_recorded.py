"""Recorded batches: what is replayed is what was written, on any share of the rows, and damage is found."""

import json

import numpy as np
import pytest

from bert_jax import batch as contract
from bert_jax import recorded

NUM_BATCHES, BATCH_SIZE, LENGTH, PREDICTIONS = 3, 8, 16, 4


def make_batches(nsp=True):
    generator = np.random.default_rng(0)
    for number in range(NUM_BATCHES):
        batch = contract.zeros(BATCH_SIZE, LENGTH, PREDICTIONS, nsp=nsp)
        batch["input_ids"] = generator.integers(0, 70_000, (BATCH_SIZE, LENGTH), np.int32)  # beyond uint16
        batch["segment_ids"] += 1
        batch["mlm_positions"] = np.sort(generator.integers(0, LENGTH, (BATCH_SIZE, PREDICTIONS), np.int32), axis=1)
        batch["mlm_targets"] = generator.integers(0, 300, (BATCH_SIZE, PREDICTIONS), np.int32)
        batch["mlm_weights"] = generator.random((BATCH_SIZE, PREDICTIONS), np.float32)
        batch["example_ids"] = np.arange(BATCH_SIZE) + 2**40 + number
        yield batch


@pytest.fixture
def recording(tmp_path):
    tokenizer = tmp_path / "given_tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("[PAD]\n", encoding="utf-8")
    recorded.write(tmp_path / "recording", make_batches(), {"seed": 3}, tokenizer)
    return tmp_path / "recording"


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def test_replays_what_was_written(recording):
    source = recorded.RecordedBatches(recording)
    assert (source.num_batches, source.batch_size, source.length, source.predictions) == (NUM_BATCHES, BATCH_SIZE, LENGTH, PREDICTIONS)
    assert source.description == {"seed": 3}
    assert (source.tokenizer_dir / "vocab.txt").read_text(encoding="utf-8") == "[PAD]\n"
    for step, batch in enumerate(make_batches()):
        contract.check(source.batch(step))
        assert_equal(source.batch(step), batch)
        assert_equal(source.batch(step + 5 * NUM_BATCHES), batch)
    replayed = list(source.batches(1, 5))
    assert len(replayed) == 4
    assert_equal(replayed[2], source.batch(0))
    assert_equal(next(source.batches(10**7)), source.batch(10**7))


@pytest.mark.parametrize("shares", [1, 2, 4, 8])
def test_shares_of_rows_make_up_the_batch(recording, shares):
    sources = [recorded.RecordedBatches(recording, rows) for rows in np.split(np.arange(BATCH_SIZE), shares)]
    parts = [source.batch(1) for source in sources]
    assert_equal({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, list(make_batches())[1])


def test_files_are_small(recording):
    assert np.load(recording / "segment_ids.npy").dtype == np.uint8
    assert np.load(recording / "mlm_targets.npy").dtype == np.uint16
    assert np.load(recording / "input_ids.npy").dtype == np.uint32


def test_without_segment_pairs(tmp_path):
    recorded.write(tmp_path / "recording", make_batches(nsp=False), {})
    source = recorded.RecordedBatches(tmp_path / "recording")
    assert "nsp_labels" not in source.batch(0)
    assert source.tokenizer_dir is None


@pytest.mark.parametrize("name", ["input_ids.npy", "mlm_weights.npy", "tokenizer/vocab.txt"])
def test_one_flipped_bit_is_found(recording, name):
    content = bytearray((recording / name).read_bytes())
    content[-1] ^= 1
    (recording / name).write_bytes(content)
    with pytest.raises(recorded.RecordingError, match=name):
        recorded.RecordedBatches(recording)


def test_missing_pieces_are_named(recording, tmp_path):
    (recording / "mlm_targets.npy").unlink()
    with pytest.raises(recorded.RecordingError, match="mlm_targets.npy"):
        recorded.RecordedBatches(recording)
    with pytest.raises(recorded.RecordingError, match="has no manifest.json"):
        recorded.RecordedBatches(tmp_path)
    (recording / "manifest.json").write_text(json.dumps({"format": "other"}), encoding="utf-8")
    with pytest.raises(recorded.RecordingError, match="not the manifest"):
        recorded.RecordedBatches(recording)


def test_nothing_is_left_of_a_failed_recording(tmp_path):
    def failing():
        yield from make_batches()
        raise OSError("the source went away")

    def growing():
        yield from make_batches()
        yield contract.zeros(BATCH_SIZE, LENGTH + 1, PREDICTIONS, nsp=True)

    def unchecked():
        yield from ({**batch, "input_ids": batch["input_ids"].astype(np.int64)} for batch in make_batches())

    for source, error, message in (
        (failing(), OSError, "went away"),
        (growing(), ValueError, "batch 3 has other"),
        (unchecked(), ValueError, "'input_ids' is int64"),
        ([], ValueError, "no batches"),
    ):
        with pytest.raises(error, match=message):
            recorded.write(tmp_path / "recording", source, {})
        assert list(tmp_path.iterdir()) == []


def test_unfit_requests(recording):
    with pytest.raises(FileExistsError, match="exists"):
        recorded.write(recording, make_batches(), {})
    for rows in ([BATCH_SIZE], [-1], [], [0.5]):
        with pytest.raises(ValueError, match="rows must be"):
            recorded.RecordedBatches(recording, np.asarray(rows))
    with pytest.raises(ValueError, match="step -1"):
        recorded.RecordedBatches(recording).batch(-1)
