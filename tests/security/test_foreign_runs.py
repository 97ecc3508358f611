"""Other people's workdirs and checkpoints: no code in them runs, a config that cannot be is refused with its field, and a commit names files of its own only."""

import copy as copies
import json
import os
import shutil

import jax.numpy as jnp
import pytest

from bert_jax.training.checkpoint import CheckpointError, Checkpoints
from launch import config as configs
from launch.cli import main
from launch.config import ConfigError
from launch.load_model import load_model
from launch.model_section import read_model_section
from launch.phases import phases_of
from tests.security.conftest import SECTION

# ---- configs ----


@pytest.fixture(scope="module")
def good() -> dict:
    return json.loads(json.dumps(configs.load("bert_mini", [])))


@pytest.fixture
def workdir(good, tmp_path):
    directory = tmp_path / "workdir"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(good))
    (directory / "model.json").write_text(json.dumps(SECTION))
    return directory


def refused(workdir, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        phases_of(configs.read_run_config(workdir))
    assert all(word in str(caught.value) for word in (str(workdir / "config.json"), *words)), str(caught.value)


@pytest.mark.parametrize(
    "field, value",
    [
        ("evil", 1), ("model.evil", {"a": 1}), ("optimizer.__class__", "x"), ("model", [1]), ("model", "bert"), ("optimizer", None),
        ("steps", 10**30), ("steps", -(10**30)), ("seed", 2**70), ("schedule.peak", 10**400), ("optimizer.b1", float("nan")), ("optimizer.b1", float("inf")),
        ("batch_size", 1.5), ("batch_size", True), ("batch_size", "8"), ("model.num_layers", "4"), ("model.family", ["bert"]), ("model.family", "evil"),
        ("data.path", None), ("data.path", ["x"]), ("data.weights", [[1]]), ("data.weights", {"a": 1}),
        ("phases", [1]), ("phases", [[{}]]), ("phases", {"a": 1}), ("phases", [{"evil": 1}]), ("phases", [{"data": 3}]), ("phases", [{"steps": 10**40}]),
        ("phases", [{"model": {"hidden_size": 3}}]),
    ],
)  # fmt: skip
def test_a_saved_config_that_cannot_be_is_refused_with_its_field(workdir, good, field, value):
    config = copies.deepcopy(good)
    *sections, name = field.split(".")
    node = config
    for section in sections:
        node = node[section]
    node[name] = value
    (workdir / "config.json").write_text(json.dumps(config))
    refused(workdir, field.split(".")[0])


def test_a_name_with_a_dot_does_not_stand_for_a_section(workdir, good):
    """Else a field could be there twice, of which one is checked and the other used."""
    (workdir / "config.json").write_text(json.dumps(good | {"model.hidden_size": 7}))
    refused(workdir, "dot")


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"a":' * 100_000, '{"steps": ' + "9" * 5000 + "}", "\0"], ids=["empty", "list", "number", "null", "deep", "digits", "nul"])
def test_a_saved_config_that_is_none_is_refused(workdir, text):
    (workdir / "config.json").write_text(text)
    refused(workdir)
    (workdir / "model.json").write_text(text)
    with pytest.raises(ConfigError, match="model.json"):
        read_model_section(workdir)


@pytest.mark.parametrize("change", [{"evil": 1}, {"num_layers": 10**30}, {"num_layers": "4"}, {"dropout": float("nan")}, {"family": ["bert"]}, {"hidden_size": None}])
def test_a_model_section_that_cannot_be_is_refused_with_its_field(workdir, change):
    (workdir / "model.json").write_text(json.dumps(SECTION | change))
    with pytest.raises(ConfigError, match=f"model.json: .*model.{next(iter(change))}"):
        read_model_section(workdir)


# ---- code ----


def saved(directory) -> Checkpoints:
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, {"params": {"a": jnp.arange(4.0)}})
    checkpoints.wait()
    return checkpoints


def test_a_config_that_came_with_weights_is_not_run(model, canary, tmp_path, capsys):
    downloaded = shutil.copytree(model, tmp_path / "downloaded")
    step = saved(tmp_path / "checkpoints").path(1)
    for directory in (downloaded, step, step / "state"):
        canary.plant(directory)
        assert main(["pretrain", f"--config={directory / 'config.py'}", f"--workdir={tmp_path / 'new'}"]) == 1
        assert "a config is code" in capsys.readouterr().err
    for name in ("config.json", "model.safetensors"):
        assert main(["pretrain", f"--config={downloaded / name}", f"--workdir={tmp_path / 'new'}"]) == 1
    (tmp_path / "link.py").symlink_to(downloaded / "config.py")
    assert main(["pretrain", f"--config={tmp_path / 'link.py'}", f"--workdir={tmp_path / 'new'}"]) == 1
    assert not canary.path.exists() and not (tmp_path / "new").exists()
    (tmp_path / "mine.py").write_text(canary.code)
    with pytest.raises(SystemExit):
        configs.load(str(tmp_path / "mine.py"), [])
    assert canary.path.exists(), "the canary can sing"


def test_only_python_files_are_configs(tmp_path, canary):
    for name in ("config.pyc", "config.so", "config.json", "config", "config.txt"):
        (tmp_path / name).write_text(canary.code)
        with pytest.raises(ConfigError, match="ends in .py"):
            configs.load(str(tmp_path / name), [])
    assert not canary.path.exists()


def test_no_command_runs_code_that_lies_in_a_workdir_or_model(model, workdir, canary, tmp_path, monkeypatch, capsys):
    downloaded = shutil.copytree(model, tmp_path / "downloaded")
    saved(workdir / "checkpoints")
    (workdir / "metrics.jsonl").write_text('{"split": "event", "step": 0, "time": 1.0, "event": "started"}\n')
    for directory in (workdir, workdir / "checkpoints", workdir / "checkpoints" / "step_00000001", workdir / "tokenizer", downloaded):
        canary.plant(directory)
    monkeypatch.chdir(workdir)
    assert load_model(downloaded).section["family"] == "bert"
    for words in (
        ["inspect", str(workdir)], ["inspect", str(downloaded)], ["report", f"--workdir={workdir}"], ["evaluate", f"--workdir={workdir}"],
        ["export", f"--workdir={workdir}", f"--output={tmp_path / 'out'}"], ["fill-mask", f"--model={downloaded}", "a [MASK]."],
        ["import", f"--from={downloaded}", f"--workdir={tmp_path / 'imported'}"],
    ):
        assert main(words) in (0, 1), words
        assert "Traceback" not in capsys.readouterr().err
    assert not canary.path.exists()


# ---- commits ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("whole")).directory


@pytest.fixture
def checkpoints(whole, tmp_path):
    return Checkpoints(shutil.copytree(whole, tmp_path / "checkpoints"))


def forge(checkpoints: Checkpoints, change) -> None:
    """Changes a commit and makes its own hash agree, as a forger would."""
    from bert_jax.training.checkpoint_files import _record_hash

    path = checkpoints.path(1) / "commit.json"
    record = json.loads(path.read_text())
    record.pop("sha256", None)
    change(record)
    path.write_text(json.dumps(record | {"sha256": _record_hash(record)}))


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "state/../../../secret", "", ".", "state/./x", "a\0b", "link", "up/secret"])
def test_a_commit_names_its_own_files_only(checkpoints, tmp_path, name):
    (tmp_path / "secret").write_text("s3cret")
    (checkpoints.path(1) / "link").symlink_to(tmp_path / "secret")
    (checkpoints.path(1) / "up").symlink_to(tmp_path)
    forge(checkpoints, lambda record: record["files"].update({name: {"bytes": 6, "sha256": "0" * 64}}))
    reason = checkpoints.damage(1)
    assert "commit.json names" in reason and repr(name) in reason
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        checkpoints.newest()


def test_a_file_of_a_checkpoint_that_became_a_link_is_told(checkpoints, tmp_path):
    file = next(path for path in checkpoints.path(1).rglob("*") if path.is_file() and path.name != "commit.json")
    shutil.move(file, tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    assert "symbolic link" in checkpoints.damage(1)


def test_a_commit_of_another_kind_is_damage_and_no_crash(checkpoints):
    path = checkpoints.path(1) / "commit.json"
    before = path.read_bytes()
    for change in (
        {"files": []}, {"files": None}, {"files": {"state": 3}}, {"files": {"x": {"bytes": "1"}}}, {"leaves": []}, {"trees": "params"}, {"step": 2}, {"step": "1"},
    ):
        forge(checkpoints, lambda record: record.update(change))
        assert checkpoints.damage(1), change
        path.write_bytes(before)
    for content in (b"", b"[]", b"null", b"[" * 1_000_000, b"\xff", b'{"files": {}}'):
        path.write_bytes(content)
        assert checkpoints.damage(1), content[:20]
    path.write_bytes(before)
    assert checkpoints.damage(1) is None


def test_odd_names_among_the_steps_are_passed_over(checkpoints, tmp_path):
    for name in ("step_", "step_²", "step_-0000001", "step_1", "step_000000001", "step_00000002 ", "step_" + "9" * 200, "step_٠٠٠٠٠٠٠٣"):
        (checkpoints.directory / name).mkdir()
        (checkpoints.directory / name / "commit.json").write_text("{}")
    (checkpoints.directory / "step_00000007").write_text("a file")
    assert checkpoints.steps() == [1] and checkpoints.newest() == 1


def test_setting_a_linked_step_aside_leaves_what_it_links_to(checkpoints, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "commit.json").write_text("{}")
    (checkpoints.directory / "step_00000005").symlink_to(tmp_path / "precious")
    assert checkpoints.newest(set_aside=True) == 1
    assert (checkpoints.directory / "step_00000005.damaged").is_symlink()
    (checkpoints.directory / "step_00000006.removed").symlink_to(tmp_path / "precious")
    (checkpoints.directory / "step_00000008").symlink_to(tmp_path / "precious")
    checkpoints.remove_partial()
    checkpoints.files.discard(8)
    assert sorted(os.listdir(checkpoints.directory)) == ["step_00000001", "step_00000005.damaged"]
    assert os.listdir(tmp_path / "precious") == ["commit.json"] and (tmp_path / "precious" / "commit.json").read_text() == "{}"
