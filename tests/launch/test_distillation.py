"""A distillation by the commands a user types: from a run of ours and from a Hugging Face directory, stopped and resumed, out to transformers; what does not fit is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import transformers

from bert_jax.model.families import build_spec
from bert_jax.training.metrics import model_flops
from bert_jax.training.state import make_blueprint
from launch.cli import main
from launch.config import load
from launch.load_model import load_model
from launch.phases import phases_of
from launch.plan import programs
from launch.teacher import stated_section
from tests.launch.conftest import SMALL, run

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZES = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "max_positions": 64, "vocab_size": 0}
STEPS = 40
DISTIL = [
    "--config=configs/distilbert_base.py", f"--config.steps={STEPS}", "--config.batch_size=16", "--config.accumulate=2", "--config.length=32", "--config.masking.predictions=6",
    *(f"--config.{section}.{name}={value}" for section in ("model", "teacher") for name, value in SIZES.items()),
    "--config.model.num_layers=2", "--config.model.activation=gelu_tanh", "--config.teacher.num_layers=3", "--config.teacher.activation=gelu_tanh",
    "--config.distillation.layers=", "--config.compute.dtype=float32", "--config.schedule.peak=5e-3", "--config.log_every=1", "--config.eval.every=0",
    "--config.eval.sequences=16", "--config.eval.batch_size=8", "--config.checkpoint.every=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(prepared, tmp_path_factory):
    """A small BERT of three layers that has learnt a little."""
    workdir = tmp_path_factory.mktemp("teacher") / "run"
    longer = ["--config.steps=100", "--config.batch_size=16", "--config.schedule.peak=1e-2", "--config.eval.every=0", "--config.checkpoint.every=0", "--config.model.num_layers=3"]
    run("pretrain", *SMALL, *longer, f"--workdir={workdir}", f"--config.data.path={prepared.store}")
    return workdir


def distil(prepared, teacher, workdir, *changes):
    return main(["pretrain", *DISTIL, f"--workdir={workdir}", f"--config.data.path={prepared.store}", f"--config.teacher.path={teacher}", *changes])


@pytest.fixture(scope="module")
def distilled(prepared, teacher, tmp_path_factory):
    """A student of fresh weights, which has much to learn even of so small a teacher."""
    workdir = tmp_path_factory.mktemp("distilled") / "run"
    assert distil(prepared, teacher, workdir) == 0
    return workdir


def params_of(workdir, step=None):
    return jax.tree.map(np.asarray, load_model(workdir, step=step).params)


def records(workdir, split):
    return [record for line in (workdir / "metrics.jsonl").read_text().splitlines() if (record := json.loads(line))["split"] == split]


def test_every_loss_falls_and_the_students_own_predictions_are_evaluated(distilled):
    steps = records(distilled, "train")
    assert len(steps) == STEPS
    for name in ("loss", "soft_loss", "mlm_loss", "cosine_loss"):
        first, last = (np.mean([record[name] for record in part]) for part in (steps[:5], steps[-5:]))
        assert last < 0.95 * first, name
    assert all(
        record["loss"] == pytest.approx(5 * record["soft_loss"] + 2 * record["mlm_loss"] + record["cosine_loss"], rel=1e-4) for record in steps
    )
    (held_out,) = records(distilled, "eval")
    assert held_out["loss"] == pytest.approx(held_out["mlm_loss"]) and "soft_loss" not in held_out and "mlm_masked_accuracy" in held_out


def test_a_student_of_its_teachers_layers_begins_near_it(prepared, teacher, distilled, tmp_path):
    two = ["--config.distillation.layers=0,2", "--config.steps=2", "--config.schedule.peak=0.0"]
    assert distil(prepared, teacher, tmp_path / "run", *two) == 0
    assert records(tmp_path / "run", "event")[0]["detail"] == "layers 0, 2 of the teacher"
    (first, *_), (fresh, *_) = (records(workdir, "train") for workdir in (tmp_path / "run", distilled))
    assert first["soft_loss"] < 0.5 * fresh["soft_loss"] and first["cosine_loss"] < 0.8 * fresh["cosine_loss"]
    ours, theirs = params_of(tmp_path / "run")["encoder"], params_of(teacher)["encoder"]
    np.testing.assert_array_equal(ours["layers"]["mlp"]["up"]["kernel"], theirs["layers"]["mlp"]["up"]["kernel"][[0, 2]])


def test_the_teacher_is_no_part_of_what_is_saved(distilled, teacher):
    assert load_model(distilled).section["family"] == "distilbert"
    commit = json.loads((distilled / "checkpoints" / f"step_{STEPS:08d}" / "commit.json").read_text())
    own = len(jax.tree.leaves(params_of(distilled)))
    assert 3 * own <= len(commit["leaves"]) <= 3 * own + 2  # parameters, two moments, a count
    assert {name.split(".")[0] for name in commit["leaves"]} == {"params", "opt_state"}
    assert len(json.loads((distilled / "teacher.json").read_text())["digest"]) == 64


def test_stopped_and_resumed_it_ends_with_the_same_bits_and_another_teacher_is_refused(prepared, teacher, distilled, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(distilled, workdir)
    shutil.rmtree(workdir / "checkpoints" / f"step_{STEPS:08d}")
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    run("pretrain", *SMALL, "--config.steps=2", "--config.eval.every=0", "--config.model.num_layers=3", f"--workdir={tmp_path / 'another'}", f"--config.data.path={prepared.store}")
    assert distil(prepared, tmp_path / "another", workdir) == 1
    assert "began with another teacher" in capsys.readouterr().err
    assert distil(prepared, other, workdir) == 0  # a copy is the same teacher
    jax.tree.map(np.testing.assert_array_equal, params_of(workdir), params_of(distilled))


def test_it_leaves_with_proof_and_a_hugging_face_directory_teaches_the_same(prepared, teacher, distilled, tmp_path, capsys):
    run("export", f"--workdir={distilled}", f"--output={tmp_path / 'student'}", "--verify")
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "student", output_loading_info=True)
    assert type(model) is transformers.DistilBertForMaskedLM and not any(info.values())
    run("export", f"--workdir={teacher}", f"--output={tmp_path / 'teacher'}")
    assert distil(prepared, tmp_path / "teacher", tmp_path / "again", "--config.steps=20", "--config.schedule.warmup_steps=2", f"--config.schedule.total_steps={STEPS}") == 0
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "again"), params_of(distilled, 20))


def test_what_does_not_fit_is_refused_with_the_fix(prepared, teacher, byte_bpe_store, tmp_path, capsys):
    for changes, message in (
        (["--config.teacher.path="], "teacher.path is empty"), (["--config.teacher.path=nowhere"], "neither a bert_jax workdir"),
        (["--config.teacher.num_layers=4"], "--config.teacher.num_layers=3"), (["--config.distillation.layers=0,"], "for each of the student's 2 layers"),
        ([f"--config.data.path={byte_bpe_store}"], "prepare the text with the model's"), (["--config.teacher.max_positions=16"], "over teacher.max_positions 16"),
    ):  # fmt: skip
        assert distil(prepared, teacher, tmp_path / "none", *changes) == 1
        assert message in capsys.readouterr().err
    assert main(["pretrain", "--config=configs/bert_base.py", "--config.teacher.path=x", "--print-config"]) == 1
    assert "has no section `teacher`" in capsys.readouterr().err


def test_a_plan_counts_the_teacher():
    """As shipped, without a teacher on disk; its parameters are on every device, and models of few layers have as many of its in proportion."""
    config = phases_of(load("configs/distilbert_base.py", []))[0].config
    shapes = programs.shapes_of(config, jax.devices()[:1])
    bert, student = (make_blueprint(build_spec(section)) for section in (stated_section(config), config["model"]))
    assert shapes.num_params == student.num_params == 66_985_530
    assert shapes.frozen == 4 * sum(leaf.size for leaf in jax.tree.leaves(bert.params)) > 438e6 and shapes.state < 3.01 * shapes.weights
    assert shapes.model_flops > model_flops(student.spec, 512, 77) + model_flops(bert.spec, 512, 77) / 3
    shallow = programs.shallow(config, 2)
    assert (shallow["model"]["num_layers"], shallow["teacher"]["num_layers"]) == (2, 4)
    small = phases_of(load("configs/distilbert_base.py", [one.removeprefix("--") for one in DISTIL[1:]] + ["config.model.vocab_size=1000", "config.teacher.vocab_size=1000"]))[0].config
    assert "dot_general" in programs.lower_step(small, jax.devices()[:1], mask_id=None).as_text()
