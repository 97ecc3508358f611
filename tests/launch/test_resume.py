"""kill -9 at any moment, resume, and the final parameters have the same bits; SIGTERM saves and leaves with 75."""

import json
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from bert_jax.training.checkpoint import Checkpoints
from launch.load_model import load_model
from tests.launch.conftest import SMALL, run

STEPS = 60
LONGER = [*SMALL, f"--config.steps={STEPS}", "--config.checkpoint.every=5", "--config.eval.every=0", "--config.model.dropout=0.1"]


@pytest.fixture(scope="module")
def recorded(prepared, tmp_path_factory):
    """Recorded batches, so that a start costs no TensorFlow: the test is about starts."""
    directory = tmp_path_factory.mktemp("recorded") / "batches"
    run("record", *LONGER, f"--config.data.path={prepared.store}", f"--batches={STEPS}", f"--output={directory}")
    return directory


def start(recorded, workdir):
    arguments = ["pretrain", *LONGER, f"--config.data.path={recorded}", f"--workdir={workdir}"]
    return subprocess.Popen([sys.executable, "-m", "launch.cli", *arguments], stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(process, workdir, count):
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoints.steps() and checkpoints.steps()[-1] >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint of step {count} came: {process.communicate()[1] if process.poll() is not None else 'too slow'}")


@pytest.fixture(scope="module")
def undisturbed(recorded, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    process = start(recorded, workdir)
    assert process.communicate()[1] is not None and process.returncode == 0
    return jax.tree.map(np.asarray, load_model(workdir).params)


def assert_same_bits(workdir, expected):
    for mine, theirs in zip(jax.tree.leaves(load_model(workdir).params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), theirs)


def test_killed_three_times_and_resumed_ends_with_the_same_bits(recorded, undisturbed, tmp_path):
    draw, workdir, resumed_from = random.Random(0), tmp_path / "run", []
    for after in (5, 20, 35):
        process = start(recorded, workdir)
        wait_for_checkpoint(process, workdir, after)
        time.sleep(draw.uniform(0.0, 0.2))  # before, in and after the next save
        process.kill()
        process.wait()
        resumed_from.append(Checkpoints(workdir / "checkpoints").steps()[-1])
    process = start(recorded, workdir)
    message = process.communicate()[1]
    assert process.returncode == 0, message
    assert_same_bits(workdir, undisturbed)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("event") == "resumed" for line in lines) == 3
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == STEPS  # nothing logged twice
    assert resumed_from[0] < STEPS and not list((workdir / "checkpoints").glob("*tmp*"))


def test_sigterm_saves_and_says_so(recorded, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    process = start(recorded, workdir)
    wait_for_checkpoint(process, workdir, 5)
    process.send_signal(signal.SIGTERM)
    message = process.communicate()[1]
    assert process.returncode == 75, message
    assert "the same command continues" in message
    stopped_at = Checkpoints(workdir / "checkpoints").steps()[-1]
    assert f"saving step {stopped_at}" in message
    process = start(recorded, workdir)
    assert f"checkpoint of step {stopped_at}" in process.communicate()[1]
    assert process.returncode == 0
    assert_same_bits(workdir, undisturbed)
