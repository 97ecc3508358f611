"""Every config trains for a few steps when shrunk by the overrides that its docstring documents."""

import json
import re
from pathlib import Path

import jax
import pytest

from bert_jax.model.families import build_spec
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import make_blueprint
from data_pipeline.stores.store import TokenStore
from launch import pretrain
from launch.config import load
from launch.model_section import write_model_section
from launch.phases import phases_of
from launch.run import copy_tokenizer
from tests.launch.conftest import run

CONFIGS = sorted(path for path in (Path(__file__).parents[2] / "configs").glob("*.py") if path.stem != "__init__")

pytestmark = pytest.mark.usefixtures("quick_compilation")


def laptop_overrides(path: Path) -> list[str]:
    docstring = path.read_text().split('"""')[1]
    return re.findall(r"--config\.\S+=\S+", docstring.partition("Laptop:")[2])


def teacher_of(path: Path, store: Path, directory: Path) -> Path:
    """The workdir of a model such as a config's teacher, of fresh weights."""
    config = load(str(path), [override.removeprefix("--") for override in laptop_overrides(path)])
    section = {name: value for name, value in config["teacher"].items() if name != "path"}
    section["vocab_size"] = section["vocab_size"] or TokenStore(store, split="train").vocab_size
    (directory / "teacher").mkdir()
    write_model_section(directory / "teacher", section)
    copy_tokenizer(store / "tokenizer", directory / "teacher")
    checkpoints = Checkpoints(directory / "teacher" / "checkpoints")
    checkpoints.save(0, {"params": make_blueprint(build_spec(section)).init(jax.random.key(0))})
    checkpoints.wait()
    return directory / "teacher"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_trains_when_shrunk_as_documented(path, prepared, byte_bpe_store, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "write_samples", lambda *_, **__: None)  # tested elsewhere
    monkeypatch.setattr(pretrain, "write_report", lambda workdir: workdir)
    overrides = laptop_overrides(path)
    store = byte_bpe_store if "roberta" in path.read_text() else prepared.store
    if "config.teacher" in path.read_text():
        overrides.append(f"--config.teacher.path={teacher_of(path, store, tmp_path)}")
    run("pretrain", f"--config={path}", f"--workdir={tmp_path / 'run'}", f"--config.data.path={store}", *overrides, "--config.log_every=1")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    steps = phases_of(config)[-1].stop
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    train = [record for record in records if record["split"] == "train"]
    assert [record["step"] for record in train] == list(range(1, steps + 1)) and 1 < steps <= 10
    assert all(0 < record["mlm_loss"] < 20 for record in train)
    assert [record["event"] for record in records if record["split"] == "event"][-1] == "finished"
    assert any(record["split"] == "eval" for record in records)
