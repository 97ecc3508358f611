"""benchmarks/comparison.py: tables say what the results say, an interrupted comparison continues, results of other settings stay out."""

import importlib
import json
import sys
from pathlib import Path

import pytest

SETTINGS = {
    "model": {"num_layers": 2, "hidden_size": 128, "vocab_size": 8192}, "length": 64, "steps": 600, "target_tokens": 1000, "peak": 3e-3,
    "warmup_steps": 60, "rows": 20, "real_tokens": 1010.0, "epochs": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def comparison():
    """The script as a module: it finds its neighbours where Python finds them when it runs as a script."""
    directory = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, directory)
    try:
        importlib.import_module("comparison_data")
        yield importlib.import_module("comparison")
    finally:
        sys.path.remove(directory)


def result(comparison, arm, seed, accuracy, step=0.1, **settings):
    views = {view for table in comparison.TABLES.values() if arm in table.arms for view in table.views}
    metrics = {"mlm_accuracy": accuracy, "mlm_loss": 6.0} | ({"nsp_accuracy": 0.5} if "segment_pairs" in views else {})
    return {
        "arm": arm, "seed": seed, "settings": SETTINGS | settings, "held_out": dict.fromkeys(views, metrics),
        "baselines": dict.fromkeys(views, {"predictions": 5000, "unigram_accuracy": 0.0776, "unigram_loss": 6.557, "nsp_majority": 0.583}),
        "seconds": {
            "wall_median_step": step, "wall_total": 60.0, "cpu_median_step": step, "cpu_total": 50.0,
            "steps": 595, "excluded": 5, "turn": 20, "device": "1 core",
        },
    }  # fmt: skip


@pytest.fixture
def write(comparison, tmp_path):
    def write(*arguments, **keywords):
        comparison.comparison_table.write_result(tmp_path, result(comparison, *arguments, **keywords))

    return write


def row_of(text, label):
    return next(line for line in text.splitlines() if f"| {label} |" in line)


def test_table_has_mean_spread_seeds_and_differences_of_the_same_seed(comparison, write, tmp_path):
    for seed, (ours, theirs) in enumerate([(0.10, 0.11), (0.12, 0.13), (0.14, 0.18)]):
        write("mini_bert_jax", seed, ours, step=0.5)
        write("mini_transformers", seed, theirs, step=1.0)
    text = comparison.comparison_table.render(tmp_path)
    assert "| 3 | 12.00 ± 2.00 (10.00, 12.00, 14.00) |" in row_of(text, "bert_jax")
    assert "| 3 | 2.00 ± 1.73 (1.00, 1.00, 4.00) |" in row_of(text, "second - first, seed by seed")
    assert "2.00 ± 0.00 (2.00, 2.00, 2.00)" in row_of(text, "second / first")
    assert "7.76 | 6.557 | 58.3" in row_of(text, "by frequency alone")
    assert "Full sentences" not in text  # nothing is shown of a table without results


def test_seeds_that_one_arm_lacks_are_left_out_of_the_difference(comparison, write, tmp_path):
    for seed, accuracy in enumerate([0.10, 0.30]):
        write("tiny", seed, accuracy)
    write("tiny_30", 1, 0.31)
    text = comparison.comparison_table.render(tmp_path).split("### 15 %")[1]
    assert "| 2 | 20.00 ± 14.14 (10.00, 30.00) |" in row_of(text, "full sentences, 15 % masked")
    assert "| 1 | 31.00 (31.00) |" in row_of(text, "30 % masked")
    assert "| 1 | 1.00 (1.00) |" in row_of(text, "second - first, seed by seed")


def test_results_of_different_settings_are_refused(comparison, write, tmp_path):
    write("tiny", 0, 0.10)
    write("tiny", 1, 0.10, steps=700)
    with pytest.raises(ValueError, match="tiny-seed1.json and tiny-seed0.json differ in steps"):
        comparison.comparison_table.render(tmp_path)


def test_an_interrupted_comparison_continues_and_refuses_other_settings(comparison, write, tmp_path, monkeypatch):
    trained, steps = [], {"steps": 600}

    def train_group(texts, settings, budget, seed, views, arguments):
        if len(trained) == 3:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append((seed, *settings))
        for arm in settings:
            write(arm, seed, 0.10, **settings[arm])

    data = sys.modules["comparison_data"]
    monkeypatch.setattr(data, "prepare_texts", lambda *_: None)
    monkeypatch.setattr(data, "held_out", lambda *_: None)
    monkeypatch.setattr(comparison, "limit_threads", lambda *_: None)
    monkeypatch.setattr(comparison, "settings_of", lambda texts, name, budget: SETTINGS | steps)
    monkeypatch.setattr(comparison, "train_group", train_group)
    command = f"comparison.py --train a --valid b --work {tmp_path} --results {tmp_path} --seeds 2 --tables mini rate"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(KeyboardInterrupt):
        comparison.main()
    assert comparison.main() == 0
    once = [(seed, *group) for seed in (0, 1) for group in (("mini_bert_jax", "mini_transformers"), ("tiny",), ("tiny_30",))]
    assert [run for run in trained if run != "interrupted"] == once  # seed by seed, each once
    assert comparison.main() == 0 and len(trained) == len(once) + 1  # nothing is left to do
    steps["steps"] = 700
    with pytest.raises(SystemExit, match="made with another steps"):
        comparison.main()


def test_a_result_is_a_whole_file(comparison, write, tmp_path):
    write("tiny", 0, 0.10)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-seed0.json"]
    assert json.loads((tmp_path / "tiny-seed0.json").read_text(encoding="utf-8"))["held_out"]["full_sentences"]["mlm_accuracy"] == 0.10
