"""Batches: a function of (seed, step), every example once an epoch, nothing lost to padding."""

import numpy as np
import pytest

from data_pipeline.tasks.batches import TaskBatches
from data_pipeline.tasks.encode import IGNORED, encode
from data_pipeline.tasks.examples import Examples
from data_pipeline.tasks.task_data import TaskData
from data_pipeline.tokenization import tokenizers
from tests.data_pipeline.tokenization import tokenizer_checks as checks

LENGTHS = (16, 32, 48, 56, 64)
COUNT = 50


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokenizers.train(checks.documents(60), tmp_path_factory.mktemp("tok"), "wordpiece", vocab_size=1000)[0]


@pytest.fixture(scope="module")
def lines():
    lines = [line for line in checks.lines_of(checks.documents(40)) if line.strip()]
    return [line[: 1 + 7 * number % 300] for number, line in enumerate(lines[:COUNT])]


@pytest.fixture(scope="module")
def features(tokenizer, lines):
    labels = np.arange(COUNT, dtype=np.int32)
    return encode(Examples("classification", list(map(str, labels)), lines, labels=labels), tokenizer, TaskData("classification"), 64)


def row_of(batch, row, prefix=""):
    return batch[f"{prefix}input_ids"][row][batch[f"{prefix}segment_ids"][row] > 0].tolist()


def tower_row(tower, number):
    return tower.ids[tower.bounds[number] : tower.bounds[number + 1]].tolist()


def test_every_example_once_an_epoch_in_a_new_order(features):
    batches = TaskBatches(features, batch_size=8, lengths=LENGTHS, seed=3)
    steps = -(-3 * COUNT // 8)
    found = [batches.batch(step) for step in range(steps)]
    seen = np.concatenate([batch["example_ids"] for batch in found])
    epochs = [seen[start : start + COUNT].tolist() for start in (0, COUNT, 2 * COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs) and len(set(map(tuple, epochs))) == 3
    for batch in found:
        assert {name: (array.shape, str(array.dtype)) for name, array in batch.items()} == {
            **{name: ((8, batch["input_ids"].shape[1]), "int32") for name in ("input_ids", "token_type_ids", "segment_ids")},
            "labels": ((8,), "int32"), "weights": ((8,), "float32"), "example_ids": ((8,), "int64"),
        }  # fmt: skip
        longest = features.lengths()[batch["example_ids"]].max()
        assert batch["input_ids"].shape[1] == min(length for length in LENGTHS if length >= longest)
        assert (batch["labels"] == batch["example_ids"]).all() and batch["weights"].all()
        for row, number in enumerate(batch["example_ids"]):
            assert row_of(batch, row) == tower_row(features.towers[""], number)
    assert len({batch["input_ids"].shape[1] for batch in found}) > 1
    other = TaskBatches(features, batch_size=8, lengths=LENGTHS, seed=4)
    assert other.batch(0)["example_ids"].tolist() != found[0]["example_ids"].tolist()
    for name, array in TaskBatches(features, batch_size=8, lengths=LENGTHS, seed=3).batch(steps - 1).items():
        assert np.array_equal(array, found[-1][name])


def test_processes_share_a_batch(features):
    whole = TaskBatches(features, batch_size=8, lengths=LENGTHS, seed=1)
    parts = [TaskBatches(features, batch_size=8, lengths=LENGTHS, seed=1, rows=rows) for rows in (np.arange(0, 3), np.arange(3, 8))]
    for step in (0, 5, 1_000_000):
        batch, shares = whole.batch(step), [part.batch(step) for part in parts]
        for name, array in batch.items():
            assert np.array_equal(np.concatenate([share[name] for share in shares]), array)


def test_evaluation_is_one_pass_of_fixed_shapes(features):
    batches = TaskBatches(features, batch_size=8, lengths=LENGTHS, shuffle=False)
    found = list(batches.batches())
    assert len(found) == batches.num_batches == 7
    ids, weights = (np.concatenate([batch[name] for batch in found]) for name in ("example_ids", "weights"))
    assert sorted(ids[weights > 0]) == list(range(COUNT)) and (ids[weights == 0] == -1).all() and (weights == 0).sum() == 7 * 8 - COUNT
    assert all(batch["input_ids"].shape[0] == 8 and batch["segment_ids"].any(1).all() for batch in found)
    widths = [batch["input_ids"].shape[1] for batch in found]
    assert widths == sorted(widths) and len(set(widths)) > 1
    with pytest.raises(ValueError, match="there are 7 batches"):
        batches.batch(7)
    assert {batch["input_ids"].shape[1] for batch in TaskBatches(features, batch_size=8, lengths=64, shuffle=False).batches()} == {64}


def test_labels_of_tokens_stay_at_their_tokens(tokenizer, lines):
    sentences = [line.split() for line in lines]
    labels = [np.arange(len(words), dtype=np.int32) for words in sentences]
    features = encode(Examples("tokens", list(map(str, range(COUNT))), words=sentences, labels=labels), tokenizer, TaskData("tokens"), 64)
    batch = TaskBatches(features, batch_size=4, lengths=(64, 128), seed=2).batch(0)
    assert batch["labels"].shape == batch["input_ids"].shape and (batch["labels"][batch["segment_ids"] == 0] == IGNORED).all()
    bounds = features.towers[""].bounds
    for row, number in enumerate(batch["example_ids"]):
        expected = features.labels[bounds[number] : bounds[number + 1]]
        assert batch["labels"][row][: len(expected)].tolist() == expected.tolist() and (expected >= 0).any()


def test_choices_towers_and_spans(tokenizer, lines):
    ids = list(map(str, range(COUNT)))
    choices = [(line, line[:5], f"{number} x") for number, line in enumerate(lines)]
    labels = np.arange(COUNT, dtype=np.int32) % 3
    task = TaskData("choice", choices=("a", "b", "c"))
    features = encode(Examples("choice", ids, lines, choices=choices, labels=labels), tokenizer, task, 64)
    batch = TaskBatches(features, batch_size=4, lengths=LENGTHS, seed=2, rows=np.array([1, 3])).batch(7)
    assert len(batch["input_ids"]) == 6 and batch["labels"].tolist() == (batch["example_ids"] % 3).tolist()
    for row, number in enumerate(batch["example_ids"]):
        for choice in range(3):
            assert row_of(batch, 3 * row + choice) == tower_row(features.towers[""], 3 * number + choice)

    task = TaskData("embedding", text_pair="b", negative="c")
    scores = np.linspace(0, 1, COUNT, dtype=np.float32)
    features = encode(Examples("embedding", ids, lines, [line[:9] for line in lines], lines[::-1], labels=scores), tokenizer, task, 64)
    batch = TaskBatches(features, batch_size=4, lengths=LENGTHS, seed=2).batch(0)
    assert batch["pair_input_ids"].shape == (4, 16) and batch["labels"].dtype == np.float32
    for row, number in enumerate(batch["example_ids"]):
        assert batch["labels"][row] == scores[number]
        for prefix in ("", "pair_", "negative_"):
            assert row_of(batch, row, prefix) == tower_row(features.towers[prefix], number)

    task = TaskData("span", text="q", text_pair="c", label="answers")
    answers = [((0, line.split()[0]),) for line in lines]
    features = encode(
        Examples("span", ids, ["what?"] * COUNT, [line * 9 for line in lines], answers=answers), tokenizer, task, 32, doc_stride=8
    )
    assert len(features) > COUNT
    batches = TaskBatches(features, batch_size=16, lengths=32, shuffle=False)
    for batch in batches.batches():
        real = batch["weights"] > 0
        assert (batch["start_positions"][real] == features.start_positions[batch["example_ids"][real]]).all()
        assert (batch["end_positions"][real] == features.end_positions[batch["example_ids"][real]]).all()


def test_what_does_not_fit_is_refused(features):
    for settings, words in (
        ({"batch_size": 0, "lengths": 64}, "batch_size=0"),
        ({"batch_size": 8, "lengths": 32}, "more than the largest"),
        ({"batch_size": 8, "lengths": (64, 32)}, "must ascend"),
        ({"batch_size": 8, "lengths": 64, "rows": np.array([8])}, "rows must be"),
    ):
        with pytest.raises(ValueError, match=words):
            TaskBatches(features, **settings)
    with pytest.raises(ValueError, match="step -1"):
        TaskBatches(features, batch_size=8, lengths=64).batch(-1)
