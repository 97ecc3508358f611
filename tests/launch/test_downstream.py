"""Downstream tasks at chosen steps of pretraining: they change nothing of the run, survive its being stopped, and are shown."""

import contextlib
import io
import json
import math
import shutil
import signal
from pathlib import Path

import jax
import pytest

from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.watch import Watch
from configs.finetune import classification
from data_pipeline.tasks.batches import TaskBatches
from launch import downstream
from launch.cli import main
from launch.downstream import Downstream, InsideWatch, scores_to_log
from launch.report.report import write_report
from tests.launch.conftest import SMALL
from tests.launch.finetune.test_finetune import SENTENCES, write

pytestmark = pytest.mark.usefixtures("quick_compilation")
TASK = "steps=4 batch_size=8 length=32 compute.dtype=float32 log_every=2 eval.every=2 eval.batch_size=16 seeds=0 task.metric= schedule.peak=1e-3"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> tuple[str, str]:
    """Two tasks of one text, as configs, and the overrides of both."""
    root = tmp_path_factory.mktemp("tasks")
    rows = [{"text": text, "label": "long" if len(text) > 80 else "short"} for text in SENTENCES]
    train, dev = write(root / "train.jsonl", rows[:32]), write(root / "eval.jsonl", rows[32:])
    for name in ("one", "two"):
        shutil.copy(classification.__file__, root / f"{name}.py")
    return f"{root / 'one.py'},{root / 'two.py'}", f"{TASK} task.train={train} task.eval={dev}"


def arguments(workdir: Path, store: Path, tasks: tuple[str, str], *more: str) -> list[str]:
    paths, overrides = tasks
    trials = ["--config.downstream.steps=4,8", f"--config.downstream.configs={paths}", f"--config.downstream.overrides={overrides}"]
    return ["pretrain", *SMALL, f"--workdir={workdir}", f"--config.data.path={store}", *trials, *more]


def records(workdir: Path, split: str) -> list[dict]:
    return [record for record in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()) if record["split"] == split]


def bytes_on_devices() -> int:
    """Each buffer once: an array's pieces are arrays of their own."""
    return sum({array.unsafe_buffer_pointer(): array.nbytes for array in jax.live_arrays()}.values())


@pytest.fixture(scope="module")
def stopped_and_continued(prepared, trained, tasks, tmp_path_factory):
    """A run that SIGTERM reached within the second task of the second trial, and that went on to its end; bytes on devices around each trial."""
    workdir = tmp_path_factory.mktemp("downstream") / "run"
    build, late, held, call = TaskBatches.batch, [], [], Downstream.__call__

    def batch(self, step):
        late.extend([step] * (step == 2))
        if step == 2 and len(late) == 4:
            signal.raise_signal(signal.SIGTERM)
        return build(self, step)

    def trial(self, state, run_log):
        before = bytes_on_devices()
        call(self, state, run_log)
        held.append((before, bytes_on_devices()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskBatches, "batch", batch)
        patch.setattr(Downstream, "__call__", trial)
        assert main(arguments(workdir, prepared.store, tasks)) == 75
        after_stop = {
            "scored": sorted(path.parents[2].name for path in workdir.glob("downstream/step_00000008/*/seeds/0/scores.json")), "logged": records(workdir, "downstream"),
            "reason": json.loads((workdir / "exit_reason.json").read_text()), "kept": Checkpoints(workdir / "checkpoints").steps(),
        }
        assert main(arguments(workdir, prepared.store, tasks)) == 0
    return workdir, after_stop, held


def test_the_run_keeps_its_bits(stopped_and_continued, trained):
    workdir, *_ = stopped_and_continued
    digests = [Checkpoints(path / "checkpoints").record(12)["digests"] for path in (workdir, trained)]
    assert digests[0] == digests[1]
    alike = ("loss", "mlm_accuracy", "grad_norm")
    losses = [[[record[name] for name in alike] for record in records(path, split)] for path in (workdir, trained) for split in ("train",)]
    assert losses[0] == losses[1]


def test_a_stopped_trial_goes_on_where_it_was(stopped_and_continued):
    workdir, after_stop, _ = stopped_and_continued
    assert after_stop["scored"] == ["one"] and [record["step"] for record in after_stop["logged"]] == [4] and 8 in after_stop["kept"]
    assert (after_stop["reason"]["step"], after_stop["reason"]["last_durable_step"], after_stop["reason"]["name"]) == (8, 8, "stopped")
    place = workdir / "downstream" / "step_00000008"
    starts = {name: [event["event"] for event in records(place / name / "seeds" / "0", "event")] for name in ("one", "two")}
    assert starts == {"one": ["started"], "two": ["started", "stopped", "resumed"]}


def test_scores_are_logged_and_shown(stopped_and_continued):
    workdir, *_ = stopped_and_continued
    logged = records(workdir, "downstream")
    assert [record["step"] for record in logged] == [4, 8]
    for record in logged:
        table = json.loads((workdir / "downstream" / f"step_{record['step']:08d}" / "table.json").read_text())
        means = {name: table[name]["accuracy"]["mean"] for name in ("one", "two")}
        assert {name: record[f"{name}/score"] for name in means} == means and record["average"] == pytest.approx(sum(means.values()) / 2)
    page = write_report(workdir).read_text()
    assert "Downstream scores" in page and all(f"{record['one/score']:.4f}" in page for record in logged)
    assert (workdir / "downstream" / "step_00000008" / "report.html").is_file()


def test_memory_and_disk_are_given_back(stopped_and_continued):
    workdir, _, held = stopped_and_continued
    assert len(held) == 2 and all(after - before < 1000 for before, after in held), held
    assert not list(workdir.glob("downstream/*/*/seeds/*/checkpoints"))


def test_a_run_that_is_over_has_a_trial_of_its_last_step_too(stopped_and_continued, prepared, tasks, tmp_path):
    """As after a kill within it; what was left by other parameters, as when a step was made again, begins anew."""
    workdir = tmp_path / "run"
    shutil.copytree(stopped_and_continued[0], workdir)
    place = workdir / "downstream" / "step_00000012"
    shutil.copytree(workdir / "downstream" / "step_00000008", place)
    before = (place / "one" / "seeds" / "0" / "scores.json").stat().st_mtime_ns
    assert main(arguments(workdir, prepared.store, tasks, "--config.downstream.steps=12")) == 0
    assert [record["step"] for record in records(workdir, "downstream")] == [4, 8, 12] and records(workdir, "event")[-1]["event"] == "finished"
    assert (place / "one" / "seeds" / "0" / "scores.json").stat().st_mtime_ns > before


def test_a_task_that_fails_by_itself_has_no_score_and_the_run_goes_on(stopped_and_continued, prepared, tasks, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(stopped_and_continued[0], workdir)

    def fails(config, pretrained, place, *_, **__):
        (place / "seeds" / "0" / "checkpoints").mkdir(parents=True)
        raise RuntimeError(f"no memory for {place.name}")

    monkeypatch.setattr(downstream, "finetune_model", fails)
    assert main(arguments(workdir, prepared.store, tasks, "--config.downstream.steps=12")) == 0
    (event,) = [record for record in records(workdir, "event") if (record["event"], record["step"]) == ("downstream", 12)]
    assert "no memory for one" in event["detail"] and "no memory for two" in event["detail"] and [record["step"] for record in records(workdir, "downstream")] == [4, 8]
    assert not list(workdir.glob("downstream/*/*/seeds/*/checkpoints"))


def test_what_is_not_defined_is_no_score_and_a_suite_with_a_gap_has_no_average():
    found = {name: {"eval": {"pearson": {"mean": value, "std": 0.0}}, "metric": "pearson", "seeds": [{"eval": {"pearson": value}}] * 2} for name, value in (("one", 0.5), ("two", math.nan))}
    assert scores_to_log(found, whole_suite=True) == {"one/score": 0.5, "one/std": 0.0, "one/pearson": 0.5}
    assert "average" not in scores_to_log({"one": found["one"]}, whole_suite=False)
    assert scores_to_log({"one": found["one"]}, whole_suite=True)["average"] == 0.5


PHASED = """
from configs.quickstart import get_config as one_phase

def get_config():
    config = one_phase()
    config.steps, config.phases = 0, [dict(steps=5), dict(steps=7)]
    return config
"""


def test_steps_are_those_of_all_phases(prepared, tmp_path):
    (tmp_path / "phased.py").write_text(PHASED)
    small = [word for word in SMALL if not word.startswith(("--config=", "--config.steps"))]
    tried = ["--config.downstream.steps=13", "--config.downstream.configs=classification"]
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        assert main(["pretrain", f"--config={tmp_path / 'phased.py'}", *small, f"--workdir={tmp_path / 'run'}", f"--config.data.path={prepared.store}", *tried]) == 1
    assert "1 to 12" in errors.getvalue(), errors.getvalue()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--config.downstream.overrides=task.train=gone.jsonl task.eval=gone.jsonl"], ("downstream task classification", "gone.jsonl")),
        (["--config.downstream.steps=13"], ("downstream.steps", "1 to 12")),
        (["--config.downstream.configs="], ("downstream.configs is empty",)),
        (["--config.downstream.overrides=lenght=32"], ("length",)),
    ],
)
def test_what_cannot_be_tried_is_said_before_the_first_step(changes, words, prepared, tmp_path):
    tried = ["--config.downstream.every=6", "--config.downstream.configs=classification", *changes]
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        assert main(["pretrain", *SMALL, f"--workdir={tmp_path / 'run'}", f"--config.data.path={prepared.store}", *tried]) == 1
    assert all(word in errors.getvalue() for word in words), errors.getvalue()
    assert not (tmp_path / "run").exists()


def test_inside_of_a_run_what_is_unsaved_stays_so():
    for held in (False, True):
        outer = Watch()
        outer.unsaved, outer.step = held, 7
        inner = InsideWatch(outer, "a trial")
        inner.unsaved = True
        assert outer.unsaved
        inner.unsaved, inner.step = False, 3
        inner.begins("step 4")
        assert outer.unsaved == held and outer.step == 7 and outer.doing == "a trial: step 4"
