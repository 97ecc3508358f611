"""Storage that fails: training goes on, the next save succeeds, nothing is left behind; after three failures in a row it stops."""

import errno
import json
import os
import shutil
import types

import jax.numpy as jnp
import pytest

from bert_jax.training import checkpoint_files, saves, storage
from bert_jax.training.checkpoint import Checkpoints, SaveError
from bert_jax.training.run_log import RunLog
from bert_jax.training.saves import TimedSaves

TREES = {"params": {"w": jnp.arange(1000.0)}}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(saves, "PAUSE", 0.0)


@pytest.fixture
def timed(tmp_path):
    with RunLog(tmp_path, 0) as run_log:
        yield TimedSaves(Checkpoints(tmp_path / "checkpoints"), run_log)


@pytest.fixture
def free(monkeypatch):
    """The bytes that the disk says are free, to be set."""
    disk = types.SimpleNamespace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    return disk


def names(timed):
    return sorted(path.name for path in timed.checkpoints.directory.iterdir())


def events(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "save failed" in line]


def test_a_full_disk_costs_a_save_and_not_the_run(timed, free, tmp_path, caplog):
    timed.save(1, TREES)
    free.free = 3000
    timed.save(2, TREES)
    timed.save(3, TREES)
    assert names(timed) == ["step_00000001"]
    assert "free some space" in caplog.text and "2 of 3 failures in a row" in caplog.text
    assert [event["step"] for event in events(tmp_path)] == [2, 3]
    free.free = 10**9
    timed.save(4, TREES)
    timed.wait()
    assert names(timed) == ["step_00000001", "step_00000004"] and timed.failures == 0


def test_a_disk_that_fills_while_it_is_written_leaves_no_temporary(timed, monkeypatch):
    record = checkpoint_files._file_record
    monkeypatch.setattr(checkpoint_files, "_file_record", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    timed.save(1, TREES)
    timed.wait()
    assert timed.failures == 1 and names(timed) == []
    monkeypatch.setattr(checkpoint_files, "_file_record", record)
    timed.finish(1, TREES)
    assert names(timed) == ["step_00000001"]


def test_what_a_failed_save_could_not_remove_goes_with_the_next(timed, monkeypatch, caplog):
    """As on a disk that is read-only for a while."""
    timed.save(1, TREES)
    timed.wait()
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint_files, "_file_record", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        broken.setattr(checkpoint_files.CheckpointFiles, "discard", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only file system")))
        broken.setattr(checkpoint_files.CheckpointFiles, "begin", lambda files, step, _: files.path(step).mkdir() or True)
        timed.save(2, TREES)
        timed.wait()
    assert "could not be removed" in caplog.text and (timed.checkpoints.path(2)).exists()
    (timed.checkpoints.path(2) / checkpoint_files.UNFINISHED).touch()
    timed.save(3, TREES)
    timed.wait()
    assert names(timed) == ["step_00000001", "step_00000003"]


def test_several_failures_in_a_row_are_the_end(timed, free):
    free.free = 0
    timed.save(1, TREES)
    with pytest.raises(SaveError, match="3 saves in a row failed, the last with: .*free some space"):
        timed.finish(1, TREES)
    assert names(timed) == []


def test_read_only_storage_is_tried_again_and_told(timed, monkeypatch, caplog):
    tries, mkdir = [], os.mkdir

    def failing(path, *arguments):
        if "step_" in str(path) and len(tries) < 2:
            tries.append(path)
            raise OSError(errno.EROFS, "Read-only file system")
        return mkdir(path, *arguments)

    monkeypatch.setattr(os, "mkdir", failing)
    timed.save(1, TREES)
    timed.wait()
    assert names(timed) == ["step_00000001"] and timed.failures == 0
    assert caplog.text.count("Read-only file system") == 2 and "trying again" in caplog.text


def test_storage_that_stays_away_costs_a_save_in_bounded_tries(timed, monkeypatch):
    tries = []

    def failing(path, *_):
        tries.append(path)
        raise OSError(errno.EIO, "Input/output error")  # of the directory that is there already it is not an error

    timed.save(1, TREES)
    timed.wait()
    monkeypatch.setattr(os, "mkdir", failing)
    timed.save(2, TREES)
    assert [path.name for path in tries].count("step_00000002") == 4 and timed.failures == 1 and timed.checkpoints.steps() == [1]


def test_what_cannot_be_read_now_is_not_called_damaged(timed, monkeypatch):
    timed.save(1, TREES)
    timed.wait()
    monkeypatch.setattr(checkpoint_files, "_file_record", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        timed.checkpoints.newest(set_aside=True)
    assert names(timed) == ["step_00000001"]


def test_saves_are_due_by_the_clock_too(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(saves.time, "monotonic", lambda: now[0])
    with RunLog(tmp_path, 0) as run_log:
        timed = TimedSaves(Checkpoints(tmp_path / "checkpoints"), run_log, minutes=10.0)
        asked = []
        for now[0] in (0.0, 599.0, 600.0):
            asked.append(timed.due())
        timed.save(1, TREES)
        for now[0] in (1199.0, 1200.0):
            asked.append(timed.due())
        assert asked == [False, False, True, False, True]
        assert not TimedSaves(timed.checkpoints, run_log).due()
        timed.wait()
