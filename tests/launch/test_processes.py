"""Runs of several processes are the run of one: the same rows bit for bit, the same parameters within a tolerance, whatever happens between."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.loop import evaluation_line
from launch.evaluate import evaluate_workdir
from launch.exit_codes import PEER_DIED
from launch.load_model import load_model
from tests.launch.conftest import SMALL, run
from tests.launch.processes import by_open_mpi, by_options, by_slurm, by_variables, recorded_rows, start

STEPS = 24
# An eps over the noise of sums in another order, which Adam would make steps of: some gradients, such as the key biases', are 0 but for rounding.
LONGER = [
    *SMALL, f"--config.steps={STEPS}", "--config.eval.every=0", "--config.checkpoint.every=10", "--config.log_every=1", "--config.model.dropout=0.1",
    "--config.optimizer.eps=1e-3",
]


@pytest.fixture(scope="module")
def recorded(prepared, tmp_path_factory):
    """Recorded batches, so that a start costs no TensorFlow."""
    directory = tmp_path_factory.mktemp("recorded") / "batches"
    run("record", *LONGER, f"--config.data.path={prepared.store}", f"--batches={STEPS}", f"--output={directory}")
    return directory


def train(recorded, root, *more, seconds=0.0, failing_save=None, **settings):
    (root / "rows").mkdir(parents=True, exist_ok=True)
    return start(
        root, "pretrain", *LONGER, f"--config.data.path={recorded}", f"--workdir={root / 'run'}", *more,
        variables={"RECORD_ROWS": str(root / "rows"), "SECONDS_PER_BATCH": str(seconds)} | ({"FAILING_SAVE": failing_save} if failing_save else {}), **settings,
    )


@pytest.fixture(scope="module")
def undisturbed(recorded, tmp_path_factory):
    """One process of four devices."""
    root = tmp_path_factory.mktemp("undisturbed")
    train(recorded, root, devices=4).check()
    return root


def losses(root):
    records = [json.loads(line) for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if record["split"] == "train"}


def assert_same_run(root, undisturbed):
    rows = recorded_rows(undisturbed / "rows")
    assert recorded_rows(root / "rows") == rows and sorted(rows) == list(range(STEPS)) and all(len(row) == 8 for row in rows.values())
    assert losses(root) == pytest.approx(losses(undisturbed), rel=1e-5) and len(losses(root)) == STEPS
    mine, theirs = load_model(root / "run").params, load_model(undisturbed / "run").params
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=0, atol=1e-5), mine, theirs)


def stop(job, number=0, words="first step after", by=signal.SIGTERM):
    """A signal to one of the processes; all must leave with 75."""
    job.wait_for(words)
    job.processes[number].send_signal(by)
    job.check(75)


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_save_of_which_one_process_fails_is_given_up_by_all(recorded, undisturbed, tmp_path, number):
    """Nobody waits for its part, nothing of it stays, training goes on, and the next save is whole."""
    job = train(recorded, tmp_path, processes=2, devices=2, failing_save=f"{number}/1")
    job.check()
    (event,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "save failed" in line]
    assert event["step"] == 10 and "Failed writing" in event["detail"]
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.steps() == [20, STEPS] and checkpoints.damage(20) is None and checkpoints.damage(STEPS) is None
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == [checkpoints.path(step).name for step in (20, STEPS)]
    assert_same_run(tmp_path, undisturbed)


def test_stopped_on_two_processes_and_continued_on_one(recorded, undisturbed, tmp_path):
    job = train(recorded, tmp_path, processes=2, devices=2, join=by_slurm, seconds=0.4)
    stop(job, number=1)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    stopped_at = checkpoints.steps()[-1]
    assert 0 < stopped_at < STEPS and checkpoints.damage(stopped_at) is None
    assert f"saving step {stopped_at}" in job.text(0) and "process 0 of 2, from Slurm" in job.text(0)
    assert "step" not in job.text(1)  # the first process speaks for all
    job = train(recorded, tmp_path)
    job.check()
    assert f"checkpoint of step {stopped_at}" in job.text()
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_chain_of_topologies(recorded, undisturbed, tmp_path):
    legs = ((2, 2, by_options, 0, signal.SIGINT), (1, 4, None, 0, signal.SIGTERM), (4, 1, by_variables, 3, signal.SIGTERM))
    for processes, devices, join, number, by in legs:
        job = train(recorded, tmp_path, processes=processes, devices=devices, join=join, seconds=0.4)
        stop(job, number=number, by=by)
    train(recorded, tmp_path).check()
    assert sum("resumed" in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    assert_same_run(tmp_path, undisturbed)


def test_evaluation_and_counts_are_of_all_processes(prepared, tmp_path):
    """Both processes hold all rows here, since `tensor` lies across them, and later a half each: no row may count twice, or not at all."""
    stores = f"--config.data.path={prepared.store},{tmp_path / 'store'}"
    shutil.copytree(prepared.store, tmp_path / "store")
    workdir = f"--workdir={tmp_path / 'run'}"
    few = [*SMALL, stores, workdir, "--config.steps=4", "--config.log_every=1", "--config.eval.every=4", "--config.mesh.tensor=2"]
    start(tmp_path, "pretrain", *few, processes=2, join=by_open_mpi).check()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["split"] == "train"]
    assert [sum(value for name, value in record.items() if name.startswith("sequences/")) for record in steps] == [8] * 4
    seen = [record for record in records if record["split"] == "eval"][-1]
    alone = evaluate_workdir(tmp_path / "run")
    job = start(tmp_path, "evaluate", workdir, processes=2, join=by_variables)
    job.check()
    assert job.text(0).count("held-out: MLM loss") == 1 and "held-out: MLM" not in job.text(1)
    assert evaluation_line(4, alone) in job.text(0)
    for name in ("predictions", "sequences", "unigram_accuracy", "nsp_majority"):
        assert seen[name] == alone[name], name
    assert seen["mlm_loss"] == pytest.approx(alone["mlm_loss"], rel=1e-5) and alone["sequences"] == 16


def test_a_missing_peer_is_named_in_bounded_time(tmp_path):
    join = lambda port, count: by_options(port, count)[1:]  # noqa: E731
    job = start(tmp_path, "pretrain", *SMALL, f"--workdir={tmp_path / 'run'}", processes=2, join=join, variables={"BERT_JAX_START_TIMEOUT": "1"})
    job.check(69)
    assert "not all of the 2 processes met at 127.0.0.1:" in job.text() and "This is process 1" in job.text() and not (tmp_path / "run").exists()


def test_an_error_of_all_ends_all_with_their_own_words(recorded, tmp_path):
    job = train(recorded, tmp_path, "--config.batch_size=6", processes=2)
    job.check(1)
    assert job.text(0).count("batch_size") and "process 1: bert-jax pretrain:" in job.text(1)


@pytest.mark.slow
def test_the_end_of_one_ends_all(recorded, tmp_path):
    """The others wait for it, and notice. Of one that was killed nobody knows why."""
    job = train(recorded, tmp_path, processes=2, seconds=0.5)
    job.wait_for("first step after")
    job.processes[1].kill()
    statuses = job.end(60)
    assert statuses[1] == -signal.SIGKILL and statuses[0] in (PEER_DIED.status, -signal.SIGABRT), job.text()
    time.sleep(2)  # for the witness
    names = [json.loads((tmp_path / "run" / f"exit_reason-{rank}.json").read_text())["name"] for rank in (0, 1)]
    assert names[1] == "gone" and names[0] == ("peer_died" if statuses[0] == PEER_DIED.status else "gone")
