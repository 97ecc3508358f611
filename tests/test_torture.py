"""benchmarks/torture.py: its faults are faults, it notices a difference, and a run comes through some of them."""

import importlib
import random
import shutil
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import pytest

from bert_jax.training.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def torture():
    """The script as a module: it finds its neighbour where Python finds it when it runs as a script."""
    directory = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, directory)
    yield importlib.import_module("torture")
    sys.path.remove(directory)


def test_every_damage_that_it_does_is_found(torture, tmp_path):
    checkpoints = Checkpoints(tmp_path / "whole/checkpoints")
    for step in (1, 2):
        checkpoints.save(step, {"params": {"w": jnp.arange(500.0)}})
    checkpoints.wait()
    hows = set()
    for seed in range(40):
        workdir = tmp_path / str(seed)
        shutil.copytree(tmp_path / "whole", workdir)
        faults = sys.modules["torture_faults"]
        job = faults.Job(workdir, tmp_path / "output", [], 1, {})
        job.processes = [types.SimpleNamespace(kill=lambda: None, wait=lambda: None, returncode=-9)]
        did = faults.corrupt(job, random.Random(seed))
        hows.add(did.rpartition(": ")[2])
        assert Checkpoints(workdir / "checkpoints").newest(set_aside=True) == 1, did
        assert (workdir / "checkpoints/step_00000002.damaged/damage.json").exists()
        shutil.rmtree(workdir)
    assert hows == {"a bit flipped", "a block zeroed", "cut short", "deleted"}


def test_it_notices_what_is_not_the_same(torture, monkeypatch):
    alike = {"digests": {"w": "12", "v": "34"}, "losses": {(1, 0.5): 1}, "damage": [None], "leftovers": []}
    outcomes = {"one": alike, "other": alike}
    monkeypatch.setattr(torture, "outcome", lambda workdir: outcomes[workdir])
    job = types.SimpleNamespace(workdir="one", starts=1, output=str)
    tortured = types.SimpleNamespace(undisturbed=types.SimpleNamespace(workdir="other"), rounds=1)
    torture.Torture.compare(tortured, job)
    for name, value in (("digests", {"w": "12", "v": "35"}), ("losses", {(1, 0.5): 2}), ("damage", ["x is missing"]), ("leftovers", ["step_00000003"])):
        outcomes["one"] = alike | {name: value}
        with pytest.raises(torture.Tortured, match=f"ended with other {name}"):
            torture.Torture.compare(tortured, job)


@pytest.mark.slow
def test_a_run_comes_through_three_faults(torture, tmp_path, capsys):
    assert torture.main(["--faults=3", "--steps=80", "--seed=5", f"--directory={tmp_path}"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "3 of 3" in said and "has ended with the bits of the undisturbed run" in said
