"""The plans in docs/plans: one of every shipped config on a v3 and a v4 slice, none above the memory."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from bert_jax.plan.topology import parse_topology

ROOT = Path(__file__).parent.parent.parent
RECORDED = json.loads((ROOT / "docs" / "plans" / "plans.json").read_text())
sys.path.insert(0, str(ROOT / "benchmarks"))
SLICES = importlib.import_module("plans").SLICES
sys.path.pop(0)


def test_every_config_has_a_slice_of_both_generations():
    assert set(SLICES) == {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
    for chosen in SLICES.values():
        assert {parse_topology(name).chip.name for name in chosen} == {"v3", "v4"}


@pytest.mark.parametrize(("config", "topology"), [(config, topology) for config, chosen in SLICES.items() for topology in chosen])
def test_every_plan_is_recorded_and_fits(config, topology):
    name = f"{config}.{topology}"
    assert RECORDED[name]["command"].split()[2:] == [f"--config={config}", f"--topology={topology}", *(f"--config.{override}" for override in SLICES[config][topology])]
    assert RECORDED[name]["fits"]
    assert all(phase["memory"] < phase["capacity"] for phase in RECORDED[name]["phases"])
    page = (ROOT / "docs" / "plans" / f"{name}.md").read_text()
    assert "**It fits**" in page and RECORDED[name]["command"] in page
