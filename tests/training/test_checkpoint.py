"""Checkpoints: exact, whole or not there, and never trusted when damaged."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.batch import device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.checkpoint import CheckpointError, Checkpoints
from tests.training.conftest import make_batch


def trees(state):
    return {"params": state.params, "opt_state": state.opt_state}


def abstract(tiny):
    return {"params": tiny.abstract.params, "opt_state": tiny.abstract.opt_state}


def assert_equal(first, second):
    for mine, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """A directory with the checkpoints of steps 1 and 2, and what step 2 held. Tests copy it before they harm it."""
    directory = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(directory, keep=2)
    state = tiny.fresh()
    for step in (1, 2):
        checkpoints.save(step, trees(state))
    checkpoints.wait()
    return directory, jax.device_get(trees(state))


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "checkpoints")
    return Checkpoints(tmp_path / "checkpoints")


def test_restores_the_same_bits_and_types(tiny, saved, copy):
    assert copy.newest() == 2
    restored = copy.restore(2, abstract(tiny))
    assert_equal(restored, saved[1])
    assert jax.tree.structure(restored) == jax.tree.structure(abstract(tiny))


def test_a_save_holds_the_state_of_its_step_though_training_goes_on(tiny, tiny_step, tmp_path):
    """The step donates its state; what is being written must not change under the writer."""
    checkpoints, state = Checkpoints(tmp_path, keep=3), tiny.fresh()
    kept = {}
    for step in range(1, 7):
        state, _ = tiny_step(state, put_batch(device_fields(make_batch(step)), tiny.mesh), jax.random.key(1))
        if step in (2, 4):
            kept[step] = jax.tree.map(np.array, jax.device_get(trees(state)))
            checkpoints.save(step, trees(state))
    checkpoints.wait()
    for step, expected in kept.items():
        assert_equal(checkpoints.restore(step, abstract(tiny)), expected)


def test_only_the_newest_are_kept(tiny, tmp_path):
    checkpoints, state = Checkpoints(tmp_path, keep=2), tiny.fresh()
    for step in (1, 2, 3):
        checkpoints.save(step, trees(state))
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_the_best_and_every_third_stay_too(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=3, keep_best="mlm_loss")
    for step, loss in ((1, 3.0), (2, 1.5), (3, 2.0), (4, float("nan")), (5, 1.9), (6, None), (7, 2.5), (8, 2.2)):
        checkpoints.save(step, {"params": {"w": jnp.arange(4.0)}}, None if loss is None else {"mlm_loss": loss})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3, 6, 7, 8]


def data_files(checkpoints, step):
    return [name for name, record in checkpoints.record(step)["files"].items() if record["bytes"] > 0]


@pytest.mark.parametrize("harm", ["flip", "zero", "truncate", "delete"])
@pytest.mark.parametrize("kind", ["data", "metadata", "commit"])
def test_damage_is_found_named_and_the_step_before_used(copy, harm, kind, caplog):
    largest = max(data_files(copy, 2), key=lambda name: copy.record(2)["files"][name]["bytes"])
    name = {"data": largest, "metadata": min(data_files(copy, 2)), "commit": "commit.json"}[kind]
    path = copy.path(2) / name
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
    elif harm == "zero":
        content[:4096] = bytes(min(4096, len(content)))
    elif harm == "truncate":
        content = content[:-10]
    path.write_bytes(content) if harm != "delete" else path.unlink()
    assert copy.newest() == 1 and copy.path(2).exists()  # looking changes nothing
    with pytest.raises(CheckpointError, match="damaged|no checkpoint of step 2"):
        copy.choose(2)
    copy.remove_partial()
    assert copy.path(2).exists()  # nor is what lost its commit taken for a save that was cut short
    assert copy.newest(set_aside=True) == 1
    assert name in caplog.text
    assert name in json.loads((copy.directory / "step_00000002.damaged" / "damage.json").read_text())["reason"]
    assert copy.newest(set_aside=True) == 1


def test_every_file_is_under_the_commit(copy):
    for name in data_files(copy, 2):
        path = copy.path(2) / name
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert name in copy.damage(2), name
        path.write_bytes(content)
    assert copy.damage(2) is None


def test_a_save_that_was_cut_short_does_not_count(copy):
    os.remove(copy.path(2) / "commit.json")
    (copy.path(2) / "unfinished").touch()
    (copy.directory / "step_00000009").mkdir()
    (copy.directory / "step_00000003.removed").mkdir()
    assert copy.newest() == 1
    copy.remove_partial()
    assert sorted(path.name for path in copy.directory.iterdir()) == ["step_00000001"]


def test_a_removal_that_was_cut_short_leaves_nothing_that_counts(copy, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed after the rename
    copy.files.discard(1)
    assert copy.steps() == [2]


def test_the_digest_is_that_of_what_was_saved(tiny, saved, copy):
    """It is compared with the arrays that were restored, whatever the files are."""
    digests = copy.record(2)["digests"]
    assert digests.keys() == copy.record(2)["leaves"].keys() and len(set(digests.values())) > 10
    recorded = copy.record
    name = "params.mlm_head.bias" if "params.mlm_head.bias" in digests else next(iter(digests))
    copy.record = lambda step: recorded(step) | {"digests": digests | {name: "0" * 16}} if step == 2 else recorded(step)
    with pytest.raises(CheckpointError, match=f"not what was saved: {name}"):
        copy.restore(2, abstract(tiny))
    step, trees_of_one = copy.restore_newest(abstract(tiny))
    assert step == 1 and copy.steps() == [1]
    assert_equal(trees_of_one, saved[1])
    assert "not what was saved" in json.loads((copy.directory / "step_00000002.damaged" / "damage.json").read_text())["reason"]


def test_checkpoints_without_digests_are_read(tiny, saved, copy):
    record = {name: value for name, value in copy.record(2).items() if name not in ("digests", "sha256", "scores")}
    (copy.path(2) / "commit.json").write_text(json.dumps(record))
    assert copy.newest() == 2
    assert_equal(copy.restore(2, abstract(tiny)), saved[1])


def test_all_damaged_is_an_error_and_not_a_fresh_start(copy):
    for step in (1, 2):
        (copy.path(step) / "commit.json").write_text("{")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        copy.newest(set_aside=True)
    with pytest.raises(CheckpointError, match="no usable checkpoint"):  # nor at the second try
        copy.newest()


def test_another_shape_or_type_is_refused_with_both_named(tiny, copy):
    wanted = abstract(tiny)
    wanted["params"] = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float16, sharding=leaf.sharding), wanted["params"])
    with pytest.raises(CheckpointError, match=r"params\.encoder.*saved float32\[.*wanted float16"):
        copy.restore(2, wanted)


def test_a_failed_save_is_reported_and_leaves_nothing_that_counts(tiny, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    replace = os.replace

    def full(source, target):
        if str(target).endswith("commit.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    checkpoints.save(1, trees(tiny.fresh()))
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.wait()
    monkeypatch.setattr(os, "replace", replace)
    assert checkpoints.steps() == [] and not list(tmp_path.iterdir())  # no temporary is left
    checkpoints.save(1, trees(tiny.fresh()))
    checkpoints.wait()
    assert checkpoints.newest() == 1


def test_the_commit_is_plain_json(copy):
    record = json.loads((copy.path(2) / "commit.json").read_text())
    assert record["step"] == 2 and record["trees"] == ["opt_state", "params"]
