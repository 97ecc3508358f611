"""A run by the command line with a profile and with Weights & Biases offline, stopped and continued; TensorBoard's texts and tags."""

import json

import jax
import pytest

from launch.cli import main
from tests.launch.conftest import SMALL, run
from tests.training.test_run_log import scalars_and_texts


def wandb_records(directory):
    """The records that the library keeps for a later `wandb sync`: a LevelDB log (blocks of 32 KiB; checksum, length, part of a record) of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = next(directory.glob("*.wandb")).read_bytes()
    at, record = 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, part = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # the whole of a record, or its last part
            yield Record.FromString(record)
            record = b""


@pytest.fixture(scope="module")
def tracked(prepared, tmp_path_factory):
    """The workdir of a run of 6 steps that then goes on to 12, logged to W&B in both stretches and profiled in the second."""
    pytest.importorskip("wandb", reason="pip install wandb")
    workdir = tmp_path_factory.mktemp("tracked") / "workdir"
    arguments = ["pretrain", *SMALL, f"--workdir={workdir}", f"--config.data.path={prepared.store}", "--wandb=someone/reading"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_API_KEY": "s" * 40}.items():
            patch.setenv(name, value)
        run(*arguments, "--config.steps=6", "--config.schedule.total_steps=12")
        run(*arguments, "--config.steps=12", "--config.schedule.total_steps=12", "--accept-changes", "--profile-steps=8:10")
    return workdir


def test_the_profile_holds_the_updates_asked_for(tracked, trained):
    (trace,) = tracked.glob("profile/plugins/profile/*/*.xplane.pb")
    events = [event for plane in jax.profiler.ProfileData.from_file(str(trace)).planes for line in plane.lines for event in line.events if event.name == "train"]
    assert sorted(dict(event.stats)["step_num"] for event in events) == [9, 10]
    assert not (trained / "profile").exists()


def test_wandb_has_one_run_with_config_and_metrics_and_no_secret(tracked):
    identity = json.loads((tracked / "wandb.json").read_text())
    assert identity["project"] == "someone/reading"
    directories = sorted(tracked.glob("wandb/offline-run-*"))
    assert len(directories) == 2 and all(directory.name.endswith(identity["id"]) for directory in directories)
    logged, config = [], {}
    for directory in directories:
        for record in wandb_records(directory):
            if record.HasField("run"):
                assert (record.run.entity, record.run.project, record.run.run_id) == ("someone", "reading", identity["id"])
                config |= {update.key: json.loads(update.value_json) for update in record.run.config.update}
            if record.HasField("history"):
                logged.append({item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item})
    assert config["masking"]["rate"] == 0.15 and config["steps"] == 12
    losses = {row["step"]: row["train/loss"] for row in logged if "train/loss" in row}
    lines = [json.loads(line) for line in (tracked / "metrics.jsonl").read_text().splitlines()]
    assert losses == {line["step"]: line["loss"] for line in lines if line["split"] == "train"}
    assert any("norms/update_ratio/mlp" in row for row in logged) and any("config" in row for row in logged)
    for path in tracked.rglob("*"):
        assert not path.is_file() or b"s" * 40 not in path.read_bytes(), path


def test_tensorboard_has_config_data_and_samples(trained):
    scalars, texts = scalars_and_texts(trained / "tensorboard")
    assert sorted(texts) == [("config/text_summary", 0), ("data/text_summary", 0), ("samples/text_summary", 12)]
    assert "| masking.rate | 0.15 | share of tokens to predict |" in texts["config/text_summary", 0]
    assert "steps 0 to 12, batches of 8 x 32" in texts["data/text_summary", 0]
    assert "[MASK]" in texts["samples/text_summary", 12]
    assert {tag.partition("/")[0] for tag, _ in scalars} == {"train", "eval", "speed", "norms", "checkpoint"}
    assert {step for tag, step in scalars if tag == "checkpoint/total_seconds"} == {4, 8, 12}
    assert {step for tag, step in scalars if tag == "norms/update_ratio/attention"} == {2, 4, 6, 8, 10, 12}


def test_wandb_absent_is_said_before_anything_is_made(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    assert main(["pretrain", *SMALL, f"--workdir={tmp_path / 'run'}", f"--config.data.path={prepared.store}", "--wandb=reading"]) == 1
    assert "pip install 'bert-jax[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_steps_to_profile_are_checked_by_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", *SMALL, "--workdir=run", "--profile-steps=10"])
    assert "FIRST:LAST, such as 100:110" in capsys.readouterr().err
