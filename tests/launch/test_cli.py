"""The commands as a user runs them, on a small real run."""

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from launch import pretrain
from launch.cli import main
from launch.load_model import load_model
from tests.launch.conftest import SMALL, run


def params_of(path):
    return jax.tree.map(np.asarray, load_model(path).params)


def assert_same(first, second):
    for mine, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "command", ["", "tokenizer", "prepare", "doctor", "pretrain", "evaluate", "export", "import", "fill-mask", "inspect", "record", "report"]
)
def test_help_explains_itself_with_examples(command, capsys):
    with pytest.raises(SystemExit) as status:
        main([command, "--help"] if command else ["--help"])
    assert status.value.code == 0
    assert "bert-jax " + command in capsys.readouterr().out


def test_a_finished_run_leaves_all_its_files(trained, prepared):
    for name in ("config.json", "model.json", "environment.json", "metrics.jsonl", "report.html", "samples.json", "tensorboard", "tokenizer"):
        assert (trained / name).exists(), name
    config = json.loads((trained / "config.json").read_text())
    assert config["model"]["vocab_size"] == json.loads((prepared.store / "manifest.json").read_text())["tokenizer"]["vocab_size"]
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if line["split"] == "eval"] == [6, 12]
    assert [line["event"] for line in lines if line["split"] == "event"] == ["started", "finished"]
    assert list((trained / "tensorboard").glob("events*"))


def test_running_again_has_nothing_to_do(trained, prepared, caplog):
    before = sorted(path.name for path in (trained / "checkpoints").iterdir())
    run("pretrain", *SMALL, f"--workdir={trained}", f"--config.data.path={prepared.store}")
    assert "nothing to do" in caplog.text
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == before


def test_evaluate_repeats_the_runs_own_evaluation(trained, capsys):
    run("evaluate", f"--workdir={trained}")
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["split"] == "eval"][-1]
    assert f"MLM loss {last['mlm_loss']:.3f}" in capsys.readouterr().out


def test_export_import_and_fill_mask(trained, tmp_path, capsys):
    run("export", f"--workdir={trained}", f"--output={tmp_path / 'model'}", "--verify")
    run("import", f"--from={tmp_path / 'model'}", f"--workdir={tmp_path / 'imported'}")
    assert_same(params_of(trained), params_of(tmp_path / "imported"))
    capsys.readouterr()
    printed = []
    for model in (trained, tmp_path / "model", tmp_path / "imported"):
        run("fill-mask", f"--model={model}", "--top=2", "the [MASK] of a [MASK] .")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    assert printed[0].count("%") == 4


def test_continued_pretraining_from_an_import(trained, prepared, tmp_path, caplog):
    run("export", f"--workdir={trained}", f"--output={tmp_path / 'model'}")
    run("import", f"--from={tmp_path / 'model'}", f"--workdir={tmp_path / 'go'}")
    imported = params_of(tmp_path / "go")
    arguments = [*SMALL, f"--workdir={tmp_path / 'go'}", f"--config.data.path={prepared.store}"]
    assert main(["pretrain", *arguments, "--config.model.num_layers=3"]) == 1
    run("pretrain", *arguments, "--config.schedule.peak=0.0", "--config.eval.every=0")
    assert "starting from imported weights" in caplog.text and "attention by xla (auto: " in caplog.text
    assert_same(imported, params_of(tmp_path / "go"))  # the rate was 0


def test_a_changed_config_is_refused_with_the_difference(trained, prepared, tmp_path, capsys):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    arguments = ["pretrain", *SMALL, f"--workdir={workdir}", f"--config.data.path={prepared.store}"]
    assert main([*arguments, "--config.batch_size=16", "--config.steps=14"]) == 1
    message = capsys.readouterr().err
    assert "batch_size: 8 -> 16" in message and "--accept-changes" in message
    assert main([*arguments, "--config.steps=14", "--accept-changes"]) == 0
    assert (workdir / "checkpoints" / "step_00000014" / "commit.json").exists()


def test_what_would_be_another_run_is_refused_with_the_difference(trained, prepared, corpus, tmp_path, capsys):
    (tmp_path / "half.txt").write_text(corpus.read_text()[: len(corpus.read_text()) // 2])
    run("prepare", f"--input={tmp_path / 'half.txt'}", f"--tokenizer={prepared.tokenizer}", f"--output={tmp_path / 'half'}", "--workers=1", "--holdout=0.2")
    run("tokenizer", f"--input={corpus}", "--cased", "--vocab-size=1000", f"--output={tmp_path / 'cased'}")
    run("prepare", f"--input={corpus}", f"--tokenizer={tmp_path / 'cased'}", f"--output={tmp_path / 'other'}", "--workers=1", "--holdout=0.2")
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file() and not path.name.startswith(("exit_reason", ".lock"))}
    cases = [
        ("--config.batch_size=16", "batch_size: 8 -> 16"), ("--config.seed=1", "seed: 0 -> 1"), ("--config.compute.dtype=bfloat16", "compute.dtype: 'float32' -> 'bfloat16'"),
        (f"--config.data.path={tmp_path / 'half'}", f"(of {prepared.store}) -> "), (f"--config.data.path={tmp_path / 'other'}", "another tokenizer"),
    ]
    for change, expected in cases:
        assert main(["pretrain", *SMALL, f"--workdir={trained}", f"--config.data.path={prepared.store}", change]) == 1
        message = capsys.readouterr().err
        assert expected in message and ("--accept-changes" in message) == (expected != "another tokenizer"), message
    arguments = ["pretrain", *SMALL, f"--workdir={trained}", f"--config.data.path={tmp_path / 'other'}", "--accept-changes"]
    assert main(arguments) == 1 and "another tokenizer" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}


def test_a_step_that_is_not_deterministic_is_found_before_the_run_goes_on(prepared, tmp_path, capsys, caplog, monkeypatch):
    """The first of a run, and the one at which it continues."""
    arguments = ["pretrain", *SMALL, f"--workdir={tmp_path / 'run'}", f"--config.data.path={prepared.store}", "--config.eval.every=0", "--check-determinism"]
    run(*arguments, "--config.steps=4")
    assert "deterministic: step 1 made twice" in caplog.text
    make_step, calls = pretrain.step_of, itertools.count()

    def make_drifting(*settings, **named):
        step = make_step(*settings, **named)

        def drifting(state, batch, key, *frozen):
            state, metrics = step(state, batch, key, *frozen)
            return dataclasses.replace(state, params=jax.tree.map(lambda leaf: leaf + 1e-6 * next(calls), state.params)), metrics

        return drifting

    monkeypatch.setattr(pretrain, "step_of", make_drifting)
    assert main([*arguments, "--accept-changes"]) == 1
    message = capsys.readouterr().err
    assert "step 5, made twice" in message and "params.encoder" in message
    assert not (tmp_path / "run/checkpoints/step_00000008").exists()


def test_recorded_batches_train_to_the_same_weights(trained, prepared, tmp_path, capsys):
    """Static masking of as many batches as there are steps is the same run, and needs no TensorFlow."""
    recorded = tmp_path / "recorded"
    run("record", *SMALL, f"--config.data.path={prepared.store}", "--batches=12", f"--output={recorded}")
    run("pretrain", *SMALL, f"--workdir={tmp_path / 'run'}", f"--config.data.path={recorded}")
    assert_same(params_of(trained), params_of(tmp_path / "run"))
    run("inspect", str(recorded), "--rows=1")
    assert "12 of 8 x 32" in capsys.readouterr().out
    code = "import sys; sys.modules['tensorflow'] = None\nfrom launch.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["pretrain", *SMALL, f"--workdir={tmp_path / 'without'}", f"--config.data.path={recorded}"]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert_same(params_of(trained), params_of(tmp_path / "without"))


def test_the_report_of_a_real_run_has_both_curves(trained):
    page = (trained / "report.html").read_text()
    last = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines() if '"eval"' in line][-1]
    assert last["loss"] == pytest.approx(last["mlm_loss"] + last["nsp_loss"])
    assert f"{last['loss']:.2f}" in page


def test_another_tokenizer_of_the_same_size_is_refused(trained, corpus, prepared, tmp_path, capsys):
    run("tokenizer", f"--input={corpus}", "--cased", "--vocab-size=1000", f"--output={tmp_path / 'tok'}")
    run("prepare", f"--input={corpus}", f"--tokenizer={tmp_path / 'tok'}", f"--output={tmp_path / 'store'}", "--workers=1", "--holdout=0.2")
    assert main(["evaluate", f"--workdir={trained}", f"--data={tmp_path / 'store'}"]) == 1
    assert "another tokenizer" in capsys.readouterr().err
    run("export", f"--workdir={trained}", f"--output={tmp_path / 'model'}")
    run("import", f"--from={tmp_path / 'model'}", f"--workdir={tmp_path / 'go'}")
    arguments = ["pretrain", *SMALL, f"--workdir={tmp_path / 'go'}"]
    assert main([*arguments, f"--config.data.path={tmp_path / 'store'}"]) == 1
    assert "another tokenizer" in capsys.readouterr().err


def test_a_corpus_of_one_document_trains_without_evaluation(corpus, prepared, tmp_path, caplog, capsys):
    (tmp_path / "one.txt").write_text(corpus.read_text().replace("\n\n", " ")[:60_000])
    run("prepare", f"--input={tmp_path / 'one.txt'}", f"--tokenizer={prepared.tokenizer}", f"--output={tmp_path / 'store'}", "--workers=1", "--holdout=0.001")
    run("inspect", str(tmp_path / "store"), "--rows=1", "--length=32")
    arguments = ["pretrain", *SMALL, f"--workdir={tmp_path / 'run'}", f"--config.data.path={tmp_path / 'store'}", "--config.steps=2"]
    run(*arguments)
    assert "no evaluation" in caplog.text and (tmp_path / "run" / "report.html").exists()
    (tmp_path / "run" / "report.html").unlink()
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(line for line in log if "finished" not in line) + "\n")
    run(*arguments)  # killed after its last checkpoint: the page is still made
    assert (tmp_path / "run" / "report.html").exists()


def test_one_run_at_a_time_in_a_workdir(trained, prepared, capsys):
    from launch.pretrain import locked

    with locked(trained):
        assert main(["pretrain", *SMALL, f"--workdir={trained}", f"--config.data.path={prepared.store}"]) == 1
    assert "another process is training" in capsys.readouterr().err


def test_bad_input_gets_one_clear_line(trained, prepared, corpus, tmp_path, capsys):
    bare = tmp_path / "empty"
    bare.mkdir()
    cases = [
        (["pretrain", *SMALL, f"--workdir={tmp_path / 'w'}"], "data.path is empty"),
        (["pretrain", *SMALL, f"--workdir={tmp_path / 'w'}", f"--config.data.path={bare}"], str(bare)),
        (["pretrain", *SMALL, f"--workdir={tmp_path / 'w'}", f"--config.data.path={prepared.store}", "--config.length=128"], "max_positions 64"),
        (["pretrain", *SMALL, f"--workdir={tmp_path / 'w'}", f"--config.data.path={prepared.store}", "--config.model.vocab_size=7"], "1000"),
        (["pretrain", *SMALL, f"--workdir={tmp_path / 'w'}", f"--config.data.path={prepared.store}", "--config.data.sequences=full_sentences"], "nsp"),
        (["evaluate", f"--workdir={bare}"], "config.json"),
        (["export", f"--workdir={bare}", f"--output={tmp_path / 'x'}"], "neither a bert_jax workdir"),
        (["export", f"--workdir={trained}", f"--output={tmp_path / 'x'}", "--step=5"], "steps there"),
        (["fill-mask", f"--model={trained}", "no mask here"], "no [MASK]"),
        (["fill-mask", f"--model={tmp_path / 'nowhere'}", "[MASK]"], "not a directory"),
        (["tokenizer", f"--input={tmp_path / '*.txt'}", f"--output={tmp_path / 't'}"], "*.txt"),
        (["prepare", f"--input={corpus}", f"--tokenizer={bare}", f"--output={tmp_path / 's'}"], "no tokenizer at"),
        (["pretrain", *SMALL, f"--workdir={tmp_path / 'w'}", f"--config.data.path={prepared.store}", "--config.masking.rate=0.5"], "masking.predictions=14"),
        (["pretrain", *SMALL, f"--workdir={tmp_path / 'w'}", f"--config.data.path={prepared.store}", "--config.data.duplicates=0"], "duplicates"),
        (["fill-mask", f"--model={trained}", "--top=0", "[MASK]"], "--top=0"),
        (["import", f"--from={bare}", f"--workdir={tmp_path / 'i'}"], str(bare)),
        (["report", f"--workdir={bare}"], "metrics.jsonl"),
    ]
    for arguments, expected in cases:
        assert main(arguments) == 1, arguments
        message = capsys.readouterr().err
        assert expected in message and "Traceback" not in message, (arguments, message)
    assert not (tmp_path / "w").exists()
