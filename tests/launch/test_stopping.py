"""SIGTERM, hangs and errors at every moment of real runs leave with a documented status, one consistent state and exit_reason.json."""

import json
import os
import signal

import pytest

from bert_jax.training.checkpoint import Checkpoints
from tests.launch.conftest import SMALL, run
from tests.launch.processes import by_variables, start

STEPS = 24
RUN = [*SMALL, f"--config.steps={STEPS}", "--config.checkpoint.every=4", "--config.log_every=1", "--config.eval.every=6"]


@pytest.fixture(scope="module")
def recorded(prepared, tmp_path_factory):
    """Recorded batches, so that a start costs no TensorFlow."""
    directory = tmp_path_factory.mktemp("recorded") / "batches"
    run("record", *RUN, f"--config.data.path={prepared.store}", f"--batches={STEPS}", f"--output={directory}")
    return directory


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What all runs compile, once."""
    return str(tmp_path_factory.mktemp("compiled"))


def begin(data, root, compiled, *more, moment=None, rank=None, **settings):
    variables = {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONUNBUFFERED": "1"}
    variables |= {name: value for name, value in (("MOMENT", moment), ("RANK", rank)) if value is not None}
    return start(
        root, "pretrain", *RUN, f"--config.data.path={data}", f"--workdir={root / 'run'}", *more, variables=variables, join=by_variables, program="moments", **settings,
    )


def reason(root, rank=None) -> dict:
    return json.loads((root / "run" / ("exit_reason.json" if rank is None else f"exit_reason-{rank}.json")).read_text())


def saved(root) -> list[int]:
    """Steps of the checkpoints, every one of which is whole; there is nothing else."""
    checkpoints = Checkpoints(root / "run" / "checkpoints")
    assert all(checkpoints.damage(step) is None for step in checkpoints.steps())
    assert sorted(path.name for path in checkpoints.directory.glob("*")) == [checkpoints.path(step).name for step in checkpoints.steps()]
    return checkpoints.steps()


def stopped_at(job, root, moment, times=1) -> dict:
    job.wait_for(f"at {moment}")
    for _ in range(times):
        job.processes[0].send_signal(signal.SIGTERM)
    job.check(75)
    found = reason(root)
    assert (found["code"], found["name"], found["again"]) == (75, "stopped", True)
    assert found["last_durable_step"] == max(saved(root), default=None) and found["step"] == (found["last_durable_step"] or 0)
    return found


def test_while_compiling_nothing_is_lost_and_nothing_saved(recorded, compiled, tmp_path):
    found = stopped_at(begin(recorded, tmp_path, compiled, moment="compiling"), tmp_path, "compiling")
    assert found["step"] == 0 and found["doing"] == "step 1" and not saved(tmp_path)


@pytest.mark.slow
def test_while_restoring(recorded, compiled, tmp_path):
    job = begin(recorded, tmp_path, compiled, moment="saving")
    first = stopped_at(job, tmp_path, "saving", times=2)  # twice: the save in the background and the last one are both whole
    before = saved(tmp_path)
    assert first["step"] >= 4 and before[-1] == first["step"]
    job = begin(recorded, tmp_path, compiled, moment="restoring")
    job.wait_for("at restoring")
    job.processes[0].send_signal(signal.SIGTERM)
    job.check(75)
    assert reason(tmp_path)["last_durable_step"] == before[-1] and saved(tmp_path) == before
    begin(recorded, tmp_path, compiled).check()
    assert reason(tmp_path)["name"] == "finished" and saved(tmp_path)[-1] == STEPS


@pytest.mark.slow
def test_a_long_evaluation_is_given_up_for_the_save(prepared, compiled, tmp_path):
    job = begin(prepared.store, tmp_path, compiled, "--config.eval.sequences=4000", "--config.checkpoint.every=0", moment="evaluating")
    found = stopped_at(job, tmp_path, "evaluating")
    assert found["step"] == 6 and "the evaluation is given up" in job.text()
    assert '"split": "eval"' not in (tmp_path / "run/metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_long_evaluation_of_two_processes_is_given_up_by_both(prepared, compiled, tmp_path):
    job = begin(prepared.store, tmp_path, compiled, "--config.eval.sequences=4000", moment="evaluating", processes=2)
    job.wait_for("at evaluating", number=1)
    job.processes[1].send_signal(signal.SIGTERM)
    job.check(75)
    assert saved(tmp_path)[-1] == reason(tmp_path, 0)["step"] == reason(tmp_path, 1)["step"] == 6


@pytest.mark.slow
def test_two_processes_leave_a_compilation_that_does_not_end(recorded, compiled, tmp_path):
    job = begin(recorded, tmp_path, compiled, moment="compiling", processes=2)
    for number in (0, 1):
        job.wait_for("at compiling", number=number)
    job.processes[0].send_signal(signal.SIGTERM)
    assert job.end(60) == [75, 75], job.text(0) + job.text(1)
    assert reason(tmp_path, 0)["code"] == reason(tmp_path, 1)["code"] == 75 and not saved(tmp_path)


@pytest.mark.slow
def test_a_source_that_hangs_is_named_and_left(recorded, compiled, tmp_path):
    job = begin(recorded, tmp_path, compiled, "--hang-timeout=20", moment="hanging")
    job.check(70)
    found, stacks = reason(tmp_path), (tmp_path / "run/stacks-0.txt").read_text()
    assert found["name"] == "hung" and found["doing"] == "the batch of step 6" and found["again"]
    assert "hang_in_the_source" in stacks and "hang_in_the_source" in job.text() and saved(tmp_path) == [4]


@pytest.mark.slow
def test_a_hang_of_one_process_ends_both_with_their_stacks(recorded, compiled, tmp_path):
    job = begin(recorded, tmp_path, compiled, "--hang-timeout=20", moment="hanging", rank="1", processes=2)
    assert job.end(240) == [70, 70], job.text(0) + job.text(1)
    assert "hang_in_the_source" in (tmp_path / "run/stacks-1.txt").read_text() and (tmp_path / "run/stacks-0.txt").exists()
    assert [reason(tmp_path, rank)["name"] for rank in (0, 1)] == ["hung"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_is_the_status_of_both(rank, recorded, compiled, tmp_path):
    job = begin(recorded, tmp_path, compiled, moment="failing", rank=str(rank), processes=2)
    assert job.end(240) == [1, 1], job.text(0) + job.text(1)
    assert "the error of one" in reason(tmp_path, rank)["message"]
    assert f"process {rank} left" in reason(tmp_path, 1 - rank)["message"] and "the error of one" in reason(tmp_path, 1 - rank)["message"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_killed_in_a_save_ends_the_other_and_a_whole_step_is_used(rank, recorded, compiled, tmp_path):
    """Rank 0 is the coordinator."""
    begin(recorded, tmp_path, compiled, "--config.steps=4", processes=2).check()
    assert saved(tmp_path) == [4]
    job = begin(recorded, tmp_path, compiled, "--accept-changes", moment="saving", processes=2)
    job.wait_for("at saving")
    job.processes[rank].kill()
    assert job.processes[1 - rank].wait(60) in (71, -signal.SIGABRT), job.text(1 - rank)
    job.end(5)
    job = begin(recorded, tmp_path, compiled)
    job.check()
    # Rank 1 may have written its part before it was killed; rank 0 then commits the step, and it is whole.
    assert any(f"checkpoint of step {step}" in job.text() for step in ((4,) if rank == 0 else (4, 8))) and saved(tmp_path)[-1] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_frozen_process_ends_the_other_in_bounded_time(rank, recorded, compiled, tmp_path):
    job = begin(recorded, tmp_path, compiled, "--hang-timeout=20", moment="saving", processes=2)
    job.wait_for("at saving", number=0)
    job.processes[rank].send_signal(signal.SIGSTOP)
    try:
        assert job.processes[1 - rank].wait(120) in (70, 71, -signal.SIGABRT), job.text(1 - rank)
    finally:
        job.processes[rank].kill()
        job.end(10)
    assert reason(tmp_path, 1 - rank)["name"] in ("hung", "peer_died", "running", "gone") and os.listdir(tmp_path / "run")
