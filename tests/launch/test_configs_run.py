"""Every config trains for a few steps when shrunk by the overrides that its docstring documents."""

import json
import re
from pathlib import Path

import pytest

from launch import pretrain
from launch.phases import phases_of
from tests.launch.conftest import run

CONFIGS = sorted(path for path in (Path(__file__).parents[2] / "configs").glob("*.py") if path.stem != "__init__")

pytestmark = pytest.mark.usefixtures("quick_compilation")


def laptop_overrides(path: Path) -> list[str]:
    docstring = path.read_text().split('"""')[1]
    return re.findall(r"--config\.\S+=\S+", docstring.partition("Laptop:")[2])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_when_shrunk_as_documented(path, prepared, byte_bpe_store, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "write_samples", lambda *_, **__: None)  # tested elsewhere
    monkeypatch.setattr(pretrain, "write_report", lambda workdir: workdir)
    overrides = laptop_overrides(path)
    store = byte_bpe_store if "roberta" in path.read_text() else prepared.store
    run("pretrain", f"--config={path}", f"--workdir={tmp_path / 'run'}", f"--config.data.path={store}", *overrides, "--config.log_every=1")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    steps = phases_of(config)[-1].stop
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train = [record for record in records if record["split"] == "train"]
    assert [record["step"] for record in train] == list(range(1, steps + 1)) and 1 < steps <= 10
    assert all(0 < record["mlm_loss"] < 20 for record in train)
    assert [record["event"] for record in records if record["split"] == "event"][-1] == "finished"
    assert any(record["split"] == "eval" for record in records)
