"""Poisoned batches in a run by the command line: skipped and named; several in a row lead back to the last checkpoint and past them, also after a kill."""

import json

import jax
import numpy as np
import pytest

from bert_jax.recorded import RecordedBatches
from bert_jax.training.checkpoint import Checkpoints
from launch import pretrain
from launch.cli import main
from launch.load_model import load_model
from tests.launch import processes
from tests.launch.conftest import SMALL, run

STEPS = 14
RUN = [*SMALL, f"--config.steps={STEPS}", "--config.eval.every=0", "--config.checkpoint.every=3", "--config.bad_steps.in_a_row=3"]


class Poisoned:
    """A source with NaN for weights in some batches, which breaks off at one of them."""

    def __init__(self, source, bad, stop_at):
        self.source, self.bad, self.stop_at = source, bad, stop_at
        self.source_names = ()

    def batches(self, start_step, stop_step=None):
        for step, batch in enumerate(self.source.batches(start_step, stop_step), start_step):
            if step == self.stop_at:
                raise RuntimeError("killed")
            yield batch | {"mlm_weights": batch["mlm_weights"] * np.float32("nan")} if step in self.bad else batch


@pytest.fixture(scope="module")
def recorded(prepared, tmp_path_factory):
    directory = tmp_path_factory.mktemp("recorded") / "batches"
    run("record", *RUN, f"--config.data.path={prepared.store}", f"--batches={STEPS}", f"--output={directory}")
    return directory


@pytest.fixture
def train(recorded, monkeypatch, quick_compilation):
    make_source = pretrain.make_source

    def start(workdir, bad, *more, stop_at=None):
        monkeypatch.setattr(pretrain, "make_source", lambda *arguments: Poisoned(make_source(*arguments), bad, stop_at))
        return main(["pretrain", *RUN, f"--config.data.path={recorded}", f"--workdir={workdir}", *more])

    return start


def events(workdir, kind):
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record.get("event") == kind]


def params_of(workdir):
    return jax.tree.map(np.asarray, load_model(workdir).params)


def test_bad_steps_are_passed_over_and_a_killed_run_does_the_same(train, recorded, tmp_path, capsys):
    bad = {4, 8, 9, 10}  # the last three follow on each other: back to step 6, and on behind step 11
    assert train(tmp_path / "whole", bad) == 0
    skipped, back = events(tmp_path / "whole", "skipped"), events(tmp_path / "whole", "went back")
    assert [record["step"] for record in skipped] == [5, 9, 10, 11]
    assert skipped[0]["example_ids"] == sorted(RecordedBatches(recorded).batch(4)["example_ids"].tolist())
    assert [(record["step"], record["detail"]) for record in back] == [(11, "to the state of step 6")]
    assert Checkpoints(tmp_path / "whole" / "checkpoints").steps() == [12, 14]  # none of step 9, in the middle
    for stop_at in (9, 12):
        assert train(tmp_path / str(stop_at), bad, stop_at=stop_at) == 1
        assert train(tmp_path / str(stop_at), bad) == 0
        jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / str(stop_at)), params_of(tmp_path / "whole"))
    capsys.readouterr()
    run("inspect", str(tmp_path / "whole"), "--step=4", "--rows=8")
    shown = capsys.readouterr().out
    assert all(f"{number:,}" in shown or str(number) in shown for number in skipped[0]["example_ids"])


def test_going_back_twice_to_the_same_checkpoint_is_the_end(train, tmp_path, capsys):
    assert train(tmp_path, {3, 4, 5, 6, 7, 8, 9, 10}) == 76
    message = capsys.readouterr().err
    assert "after going back to the same checkpoint" in message and "schedule.peak" in message
    assert Checkpoints(tmp_path / "checkpoints").steps() == [3]  # a start over it would do the same: nothing is lost


PHASES = """
from configs.quickstart import get_config as quickstart

def get_config():
    config = quickstart()
    config.steps = 0
    config.phases = [dict(name="first", steps=7), dict(name="second", steps=7, opt_state="reset")]
    return config
"""


def test_in_every_phase_the_run_goes_back_to_a_checkpoint_of_that_phase(train, tmp_path, monkeypatch):
    """Updates 2 to 4 of both phases are bad: back to fresh weights, and to the end of the first phase, where the optimizer begins anew."""
    (tmp_path / "phases.py").write_text(PHASES)
    bad = {1, 2, 3}
    monkeypatch.setitem(globals(), "RUN", [word for word in RUN if not word.startswith("--config.steps=")])
    assert train(tmp_path / "whole", bad, f"--config={tmp_path / 'phases.py'}") == 0
    assert [(record["step"], record["detail"]) for record in events(tmp_path / "whole", "went back")] == [(4, "to the state of step 0"), (11, "to the state of step 7")]
    for stop_at in (3, 5):  # in the first phase: between bad steps, and behind them
        assert train(tmp_path / str(stop_at), bad, f"--config={tmp_path / 'phases.py'}", stop_at=stop_at) == 1
        assert train(tmp_path / str(stop_at), bad, f"--config={tmp_path / 'phases.py'}") == 0
        jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / str(stop_at)), params_of(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_go_back_together_and_a_killed_run_does_the_same(recorded, tmp_path):
    def start(name):
        variables = {"MOMENT": "poisoned", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        return processes.start(
            tmp_path / name, "pretrain", *RUN, "--config.log_every=1", f"--config.data.path={recorded}", f"--workdir={tmp_path / name / 'run'}", processes=2,
            variables=variables, join=processes.by_variables, program="moments",
        )

    start("whole").check()
    whole = tmp_path / "whole/run"
    assert [record["step"] for record in events(whole, "skipped")] == [9, 10, 11]
    assert events(whole, "skipped")[0]["example_ids"] == sorted(RecordedBatches(recorded).batch(8)["example_ids"].tolist())  # those of both
    assert [(record["step"], record["detail"]) for record in events(whole, "went back")] == [(11, "to the state of step 6")]
    for words in ("step       9", "back to the state of step 6"):
        job = start("killed")
        job.wait_for(words)
        for process in job.processes:
            process.kill()
        job.end()
    start("killed").check()
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "killed/run"), params_of(whole))


def test_limits_are_checked_before_the_workdir_is_touched(train, tmp_path, capsys):
    assert train(tmp_path / "run", set(), "--config.bad_steps.loss=-1") == 1
    assert "bad_steps.loss" in capsys.readouterr().err and not (tmp_path / "run").exists()
