"""benchmarks/finetune_comparison.py: both sides are told the same settings, tables say what the results say, an interrupted comparison continues."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from launch.config import load
from launch.finetune.fields import FINETUNING


@pytest.fixture(scope="module")
def comparison():
    """The script as a module: it finds its neighbours where Python finds them when it runs as a script."""
    directory = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, directory)
    try:
        yield importlib.import_module("finetune_comparison")
    finally:
        sys.path.remove(directory)


def result(comparison, task, arm, seed, score, **settings):
    entry = comparison.TASKS[task]
    seconds = {"wall": 20.0, "cpu": 10.0, "peak_memory": 600 * 2**20, "train_wall": 8.0, "train_cpu": 6.0}
    return {
        "task": task, "arm": arm, "seed": seed, "settings": json.loads(json.dumps(comparison.settings_of(entry))) | settings,
        "evaluation_examples": 1066, "training_rows": 8530, "training_tokens": 264_129, "scores": dict.fromkeys(entry.metrics, score),
        "baseline": dict.fromkeys(entry.metrics, 0.5), "seconds": seconds | ({"compile_wall": 4.0} if arm == "bert_jax" else {}),
    }  # fmt: skip


@pytest.fixture
def write(comparison, tmp_path):
    def write(*arguments, **keywords):
        comparison.write_result(tmp_path, result(comparison, *arguments, **keywords))

    return write


def rows_of(text, title):
    return [line for line in text.splitlines() if line.startswith(f"| {title} |")]


def test_both_sides_are_told_the_same(comparison):
    from finetune_comparison_tasks import RECIPE, TASKS, overrides, training_arguments

    for task in TASKS.values():
        path, *fields = overrides(task, "train.jsonl", "eval.jsonl", seed=2)
        ours = load(str(Path(__file__).parents[1] / path.removeprefix("--config=")), [field.removeprefix("--") for field in fields], FINETUNING)
        theirs = training_arguments(task, seed=2)
        optimizer, schedule = ours["optimizer"], ours["schedule"]
        assert ours["seeds"] == (2,) and theirs["seed"] == 2
        same = {
            "max_steps": ours["steps"], "per_device_train_batch_size": ours["batch_size"], "gradient_accumulation_steps": ours["accumulate"],
            "learning_rate": schedule["peak"], "warmup_steps": schedule["warmup_steps"], "lr_scheduler_type": schedule["name"],
            "adam_beta1": optimizer["b1"], "adam_beta2": optimizer["b2"], "adam_epsilon": optimizer["eps"],
            "weight_decay": optimizer["weight_decay"], "max_grad_norm": optimizer["clip_norm"], "eval_steps": ours["eval"]["every"],
        }  # fmt: skip
        assert {name: theirs[name] for name in same} == same
        assert optimizer["name"] == "adamw" and set(optimizer["exclude"]) == {"bias", "norm"}  # with bias correction; what Trainer leaves without decay
        assert ours["model"] == {"dropout": RECIPE.dropout, "attention_dropout": RECIPE.dropout} and ours["compute"]["dtype"] == "float32"
        assert ours["task"]["kind"] == task.kind and ours["length"] == task.length and schedule["end"] == 0.0


def test_tables_have_means_spreads_and_the_difference_with_its_error(comparison, write, tmp_path):
    for seed, (ours, theirs) in enumerate([(0.70, 0.72), (0.72, 0.74), (0.74, 0.76)]):
        write("mr_sentences", "bert_jax", seed, ours)
        write("mr_sentences", "transformers", seed, theirs)
    scores, settings, seconds = rows_of(comparison.finetune_comparison_table.render(tmp_path), comparison.TASKS["mr_sentences"].title)
    assert "| 72.0 ± 2.0 (70.0, 72.0, 74.0) | 74.0 ± 2.0 (72.0, 74.0, 76.0) | +2.0 ± 1.6 | 50.0 |" in scores
    assert "| 8,530 | 264,129 | 1,066 |" in settings
    assert "| 10 ± 0 | 10 ± 0 | 6 ± 0 | 6 ± 0 | 600 ± 0 | 600 ± 0 | 2 ± 0 |" in seconds  # it had half a core, so 4 s by the clock are 2 of CPU


def test_a_table_is_there_before_all_is(comparison, write, tmp_path):
    write("ir_squad", "transformers", 0, 0.3)
    found = {"compared": 1000, "answers": "labels", "agreement": 0.999, "largest": 5e-5, "of": "the label's probability"}
    exported = {name: result(comparison, "ir_squad", "export", 0, 0.3)[name] for name in ("task", "arm", "seed", "settings")} | {"export": found}
    comparison.write_result(tmp_path, exported)
    text = comparison.finetune_comparison_table.render(tmp_path)
    assert "|  | 30.0 (30.0) |  | 50.0 |" in rows_of(text, comparison.TASKS["ir_squad"].title)[0]
    assert "| 1,000 labels | 99.90 % | 5.0e-05 | the label's probability |" in text


def test_results_of_different_settings_are_refused(comparison, write, tmp_path):
    write("mr_sentences", "bert_jax", 0, 0.7)
    write("mr_sentences", "transformers", 0, 0.7, peak=1.0)
    with pytest.raises(ValueError, match="differ in peak"):
        comparison.finetune_comparison_table.render(tmp_path)


def test_an_interrupted_comparison_continues_and_refuses_other_settings(comparison, write, tmp_path, monkeypatch):
    trained, data = [], {"mr_sentences": "a", "pos_ewt": "b"}

    def one_run(task, arm, seed, settings, arguments):
        if len(trained) == 4:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append((task.name, arm, seed))
        write(task.name, arm, seed, 0.7, **{name: settings[name] for name in ("data", "init")})

    def compare_export(task, seed, settings, arguments):
        one_run(task, comparison.EXPORT, seed, settings, arguments)

    def compare_steps(task, seed, settings, arguments):
        one_run(task, comparison.STEPS, seed, settings, arguments)

    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(comparison, "one_run", one_run)
    monkeypatch.setattr(comparison, "compare_export", compare_export)
    monkeypatch.setattr(comparison, "compare_steps", compare_steps)
    monkeypatch.setattr(comparison, "prepare", lambda task, *_: data[task.name])
    monkeypatch.setattr(comparison.os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(comparison.finetune_comparison_table, "render", lambda *_: "")
    paths = f"--data {tmp_path} --init {tmp_path} --work {tmp_path} --results {tmp_path}"
    monkeypatch.setattr(sys, "argv", f"finetune_comparison.py {paths} --tasks mr_sentences pos_ewt --seeds 2".split())
    with pytest.raises(KeyboardInterrupt):
        comparison.main()
    assert comparison.main() == 0
    arms = list(comparison.ARMS)
    first = [(task, arm, 0) for task in data for arm in (*arms, comparison.EXPORT, comparison.STEPS)]
    second = [(task, arm, 1) for task in data for arm in reversed(arms)]  # the other one begins
    assert [run for run in trained if run != "interrupted"] == first + second
    assert comparison.main() == 0 and len(trained) == 13  # nothing is left to do
    data["pos_ewt"] = "c"
    with pytest.raises(SystemExit, match="made with another data"):
        comparison.main()
