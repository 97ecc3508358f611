"""A disk that is really full, and one that is really read-only: small ones of our own, where we may mount them."""

import contextlib
import os
import shutil
import subprocess

import jax.numpy as jnp
import pytest

from bert_jax.training import checkpoint_files, saves, storage
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.run_log import RunLog, TensorBoard
from bert_jax.training.saves import TimedSaves

pytestmark = pytest.mark.slow
TREES = {"params": {"w": jnp.arange(250_000, dtype=jnp.float32)}}  # a megabyte


@pytest.fixture
def disk(tmp_path):
    """A directory on a disk of 4 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture
def timed(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(saves, "PAUSE", 0.0)
    with RunLog(tmp_path, 0) as run_log:
        yield TimedSaves(Checkpoints(disk / "checkpoints"), run_log)


def names(timed):
    return sorted(path.name for path in timed.checkpoints.directory.iterdir())


def saved(timed, step):
    timed.save(step, TREES)
    timed.wait()
    return names(timed)


def fill(disk, *, leave):
    with open(disk / "ballast", "wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(disk).free - leave)


def test_a_log_on_a_full_disk_is_an_error_and_no_hang(disk):
    log = TensorBoard(disk, 0)
    fill(disk, leave=8192)
    with pytest.raises(OSError, match="No space left"):
        for step in range(10_000):
            log.scalars(step, {"loss": 1.0})


@pytest.mark.parametrize("looked", [True, False])
def test_a_full_disk_costs_saves_until_it_is_freed(looked, timed, disk, monkeypatch, caplog):
    """looked: whether it was full already when the save began, or fills while it is written."""
    monkeypatch.setattr(checkpoint_files, "ROOM", 1.05 if looked else 0.0)
    assert saved(timed, 1) == ["step_00000001"]
    fill(disk, leave=300_000)
    for step in (2, 3):
        assert saved(timed, step) == ["step_00000001"], caplog.text
    assert timed.failures == 2 and ("free some space" if looked else "No space left" if "No space left" in caplog.text else "RESOURCE_EXHAUSTED") in caplog.text
    (disk / "ballast").unlink()
    assert saved(timed, 4) == ["step_00000001", "step_00000004"] and timed.failures == 0
    assert all(timed.checkpoints.damage(step) is None for step in (1, 4))


@contextlib.contextmanager
def read_only(directory):
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_read_only_checkpoints_cost_saves_until_they_can_be_written(timed, caplog):
    assert saved(timed, 1) == ["step_00000001"]
    with read_only(timed.checkpoints.directory):
        assert saved(timed, 2) == ["step_00000001"]
    assert caplog.text.count("trying again in") == 3 and "Read-only file system" in caplog.text and timed.failures == 1
    assert saved(timed, 3) == ["step_00000001", "step_00000003"] and timed.failures == 0
