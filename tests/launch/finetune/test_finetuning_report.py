"""The pages of fine-tuned workdirs, sweeps and GLUE: true to the files, safe with hostile text, honest about what is missing."""

import json

import numpy as np
import pytest

from bert_jax.training.checkpoint_files import better
from data_pipeline.tasks.encode import Features
from data_pipeline.tasks.examples import Examples
from data_pipeline.tasks.task_data import TaskData
from data_pipeline.tasks.token_rows import TokenRows
from launch.config import read_json
from launch.finetune import outcome
from launch.finetune.seeds import spread
from launch.finetune.sets import TaskSet, TaskSets
from launch.finetune.several import glue_table
from launch.finetune.task_file import TaskFile
from launch.report.report import write_report
from tests.launch.test_report import HOSTILE, Page, event, train

LABELS = ("bad", HOSTILE, "good")
MODEL = {"family": "bert", "num_layers": 2, "hidden_size": 32, "vocab_size": 1000}


def features(count: int, labels) -> Features:
    return Features("classification", {"": TokenRows(np.zeros(3 * count, np.uint16), 3 * np.arange(count + 1), np.full(count, 3, np.int32))}, 0, np.arange(count), labels, truncated=2)


def sets_of(train_labels, eval_labels, texts) -> TaskSets:
    parts = []
    for labels, words in ((train_labels, ["text"] * len(train_labels)), (eval_labels, texts)):
        labels = np.array(labels, np.int32)
        parts.append(TaskSet("file", Examples("classification", [str(n) for n in range(len(labels))], words, labels=labels, label_names=LABELS), features(len(labels), labels)))
    return TaskSets(TaskData("classification"), *parts, None, (16,))


TASK = TaskFile("classification", 3, "cls", 0.1, LABELS, {}, 16)
SCORES = np.array([[4, 0, 0], [0, 6, 0], [0, 3, 0], [0, 0, 5]], np.float32)  # answers 0, 1, 1, 2
SETS = sets_of([0, 0, 0, 1, 2, 2], [0, 2, 0, 2], ["right", f"surest {HOSTILE}", "less sure", "right too"])


def test_outcome_counts_what_the_scores_say():
    found = outcome.outcome_of(TASK, SCORES, SETS)
    assert found["matrix"]["counts"] == [[1, 1, 0], [0, 0, 0], [0, 1, 1]] and found["wrong"] == 2
    assert [(one["text"][:6], one["given"], one["right"]) for one in found["mistakes"]] == [("surest", HOSTILE, "good"), ("less s", HOSTILE, "bad")]
    assert found["mistakes"][0]["sure"] == pytest.approx(np.exp(6) / (np.exp(6) + 2))
    assert found["baseline"]["answer"] == "bad" and found["baseline"]["scores"]["accuracy"] == 0.5
    rows = {row["name"]: row for row in found["classes"]}
    assert (rows["good"]["precision"], rows["good"]["recall"], rows["good"]["f1"]) == (1.0, 0.5, pytest.approx(2 / 3)) and rows[HOSTILE]["precision"] == 0
    assert outcome.facts_of_sets(SETS)["train"] == {"examples": 6, "rows": 6, "mean_length": 3.0, "cut": 2, "labels": {"bad": 3, HOSTILE: 1, "good": 2}}


def test_outcome_of_words_counts_entities_and_shows_the_surest_wrong_word():
    labels = ("O", "B-X", "I-X", "B-Y")
    words, tags = [["a", "b", "c"], ["d", "e"]], [np.array([1, 2, 0], np.int32), np.array([3, 0], np.int32)]
    tower = TokenRows(np.zeros(5, np.uint16), np.array([0, 3, 5]), np.array([3, 2], np.int32))
    given = Features("tokens", {"": tower}, 0, np.arange(2), np.concatenate(tags), first_words=np.array([0, 1, 2, 0, 1], np.int32))
    part = TaskSet("file", Examples("tokens", ["0", "1"], words=words, labels=tags, label_names=labels), given)
    scores = [np.eye(4, dtype=np.float32)[[1, 2, 3]] * [[1], [1], [2]], np.eye(4, dtype=np.float32)[[3, 3]] * [[1], [9]]]  # c and e are taken for Y
    task = TaskFile("tokens", 4, "cls", 0.1, labels, {"label": None}, 16)
    found = outcome.outcome_of(task, scores, TaskSets(TaskData("tokens"), part, part, None, (16,)))
    rows = {row["name"]: (row["count"], row["precision"], row["recall"]) for row in found["classes"]}
    assert rows == {"X": (1, 1.0, 1.0), "Y": (1, pytest.approx(1 / 3), 1.0)}
    assert [(one["given"], one["right"]) for one in found["mistakes"]] == [("e: B-Y", "e: O"), ("c: B-Y", "c: O")] and found["wrong"] == 2


def write_workdir(path, accuracies, *, finished=True, metric="accuracy", name="accuracy", **config):
    """A workdir with a seed for each accuracy; the last of them is not scored unless finished."""
    path.mkdir(parents=True)
    section = {"task": {"train": "data/train.csv", "metric": metric}, "seeds": list(map(float, range(len(accuracies)))), "steps": 20, "batch_size": 8} | config
    files = {"config": section, "task": {"kind": "classification"}, "model": MODEL, "environment": {"jax": "0.10"}, "data": {"sets": outcome.facts_of_sets(SETS)}}
    for file, content in files.items():
        (path / f"{file}.json").write_text(json.dumps(content))
    scores = []
    for seed, accuracy in enumerate(accuracies):
        place = path / "seeds" / str(seed)
        place.mkdir(parents=True)
        evaluations = [{"split": "eval", "step": step, "time": 1.7e9 + step, metric: accuracy - (20 - step) / 100} for step in (10, 20)]
        lines = [event(0, "started", detail="runs/base at step 7"), *(train(step) for step in range(2, 22, 2)), *evaluations, event(20, "finished")]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if finished or seed < len(accuracies) - 1:
            scores.append({"seed": seed, "step": 20, "eval": {metric: accuracy}})
            (place / "scores.json").write_text(json.dumps(scores[-1]))
            (place / "outcome.json").write_text(json.dumps(outcome.outcome_of(TASK, SCORES, SETS)))
    if finished:
        spread = {"mean": float(np.mean(accuracies)), "std": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0}
        best = max(scores, key=lambda record: better(metric, record["eval"][metric]))["seed"]
        (path / "scores.json").write_text(json.dumps({"metric": metric, "best_seed": best, "seeds": scores, "eval": {metric: spread}}))
    return path


def page_of(workdir) -> Page:
    return Page(write_report(workdir).read_text(encoding="utf-8"))


def test_page_holds_seeds_spread_baseline_and_best_checkpoints(tmp_path):
    page = page_of(write_workdir(tmp_path / "run", [0.8, 0.9, 0.7]))
    for expected in ("Classification: train.csv", "fine-tuning finished", "Accuracy 0.8000 ± 0.1000 over 3 seeds", "Best seed 0.9000 seed 1, step 20", "0.5000 bad, accuracy",
                     "Training examples 6 3 tokens on average, 2 were cut", "runs/base at step 7", "2 of 4 evaluation examples have a wrong answer", "surest", "99.5 %"):
        assert expected in page.words, expected
    chart = page.data()["charts"][0]
    assert chart["title"] == "Evaluation: accuracy" and chart["level"]["value"] == 0.5
    assert [(curve["label"], curve["mark"], curve["line"]["x"]) for curve in chart["curves"]] == [(f"seed {seed}", 20, [10, 20]) for seed in range(3)]
    assert not page.open and "is not in the run" not in page.words


def test_hostile_text_stays_text(tmp_path):
    workdir = write_workdir(tmp_path / "run", [0.8], task={"train": HOSTILE, "metric": HOSTILE}, metric=HOSTILE)
    page = page_of(workdir)
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 2 and "img" not in {tag for tag, _ in page.elements}
    assert not [attributes for _, attributes in page.elements if any(name.startswith("on") for name in attributes) or {"src", "href"} & set(attributes)]
    assert page.words.count("alert(1)") > 10 and not any("alert" in script for script in page.scripts[1:])


def test_a_run_that_goes_on_and_one_of_an_earlier_version_have_pages(tmp_path):
    page = page_of(write_workdir(tmp_path / "run", [0.8, 0.9], finished=False))
    assert "1 of 2 seeds scored" in page.words
    assert "Accuracy 0.8000" in page.words and "not all seeds are scored" in page.words
    old = write_workdir(tmp_path / "old", [0.8, 0.9])
    for path in [*old.glob("seeds/*/outcome.json"), old / "environment.json"]:
        path.unlink()
    (old / "data.json").write_text("{}")
    page = page_of(old)
    assert "outcome.json is not in the run’s directory" in page.words and "Accuracy 0.8500" in page.words
    for path in old.glob("*.json"):
        if path.name != "task.json":
            path.write_text("{")
    assert "config.json could not be read" in page_of(old).words


def test_seeds_that_were_asked_for_later_make_the_old_mean_no_result(tmp_path):
    workdir = write_workdir(tmp_path / "schedule.peak=1e-3", [0.8, 0.9])
    config = read_json(workdir / "config.json")
    (workdir / "config.json").write_text(json.dumps(config | {"seeds": [0.0, 1.0, 2.0]}))
    page = page_of(workdir)
    assert "2 of 3 seeds scored" in page.words and "fine-tuning finished" not in page.words and "not all seeds are scored" in page.words
    assert "mean" not in page.words.split("Scores")[1].split("Labels")[0].split() and "± 0.0707" not in page.words
    page = page_of(tmp_path)
    assert "0 of 1 are scored" in page.words and "0.8500" not in page.words
    (workdir / "config.json").write_text(json.dumps(config | {"seeds": [1, 0]}))
    assert "fine-tuning finished" in page_of(workdir).words and "1 of 1" not in page_of(tmp_path).words


def test_rows_of_many_lengths_have_no_mfu(tmp_path):
    workdir = write_workdir(tmp_path / "run", [0.8])
    (workdir / "seeds/0/metrics.jsonl").write_text("".join(json.dumps(train(step, mfu=0.4321)) + "\n" for step in (10, 20)))  # as earlier versions logged it
    page = page_of(workdir)
    assert "Median rows per second 100" in page.words and "MFU" not in page.words and "43.2" not in page.words


def test_a_sweep_names_the_best_and_draws_its_grid(tmp_path):
    for peak, size, mean in (("1e-3", 8, 0.7), ("1e-3", 16, 0.9), ("1e-4", 8, 0.6)):
        write_workdir(tmp_path / f"schedule.peak={peak},batch_size={size}", [mean - 0.1, mean + 0.1], batch_size=size)
    write_workdir(tmp_path / "schedule.peak=1e-4,batch_size=16", [0.99, 0.99], finished=False)
    page = page_of(tmp_path)
    assert "3 of 4 are scored" in page.words and "Best accuracy 0.9000 ± 0.1414: schedule.peak=1e-3, batch_size=16" in page.words
    assert "schedule.peak=1e-3, batch_size=16 ✓" in page.words and page.words.count("✓") == 1
    grid = page.words.split("The grid")[1].split("Configuration")[0]
    assert [word for word in grid.split() if word[0] in "0–"] == ["0.9000", "0.7000", "–", "0.6000"]
    assert "batch_size" not in page.words.split("Configuration")[1]  # what differs is not common


def test_glue_averages_as_its_table_does(tmp_path):
    write_workdir(tmp_path / "rte", [0.6, 0.8])
    write_workdir(tmp_path / "cola", [0.1, 0.2], metric="matthews")
    page = page_of(tmp_path)
    assert "GLUE, development sets" in page.words and "Average 0.4250 of 2 tasks" in page.words and "0.7000 ± 0.1414" in page.words


def test_a_score_that_is_not_defined_is_said_and_the_others_keep_their_places(tmp_path):
    for peak, size, values in (("1e-3", 8, [0.6, 0.8]), ("1e-3", 16, [0.5, np.nan]), ("1e-4", 8, [0.8, 1.0]), ("1e-4", 16, [0.7, 0.9])):
        write_workdir(tmp_path / "grid" / f"schedule.peak={peak},batch_size={size}", values, metric="pearson")
    page = page_of(tmp_path / "grid")
    assert "Best pearson 0.9000" in page.words and "Worst 0.7000" in page.words and "Seeds 2 of each" in page.words
    assert "schedule.peak=1e-3, batch_size=16: the score of a seed is not defined" in page.words
    means = [word for word in page.words.split("The grid")[1].split("Configuration")[0].split() if word[0] in "0–"]
    shades = [attributes["style"] for tag, attributes in page.elements if "--shade" in attributes.get("style", "")]
    assert dict(zip(means, shades, strict=True)) == {"0.7000": "--shade:0%", "–": "--shade:0%", "0.8000": "--shade:50%", "0.9000": "--shade:100%"}
    assert not [attributes for _, attributes in page.elements if "nan" in attributes.get("style", "")]
    write_workdir(tmp_path / "glue" / "rte", [0.6, 0.8])
    write_workdir(tmp_path / "glue" / "cola", [0.1, np.nan], metric="matthews")
    page = page_of(tmp_path / "glue")
    assert "Average 0.7000 of 1 of 2 tasks" in page.words and "Spread over seeds 0.1414" in page.words


def test_the_average_of_glue_is_of_the_tasks_that_have_a_score():
    scores = {"rte": [0.6, 0.8], "qnli": [0.7, np.nan], "sst2": [0.9, 0.9]}
    found = {task: {"metric": "accuracy", "seeds": [], "eval": {"accuracy": spread(values)}} for task, values in scores.items()}
    assert glue_table(found)[-1] == ("average", "80.0", "of 2 of 3 tasks")
    assert ("qnli", "nan", "accuracy nan ± nan") in glue_table(found)
    assert glue_table({"rte": found["rte"]})[-1] == ("average", "70.0", "of 1 tasks") and glue_table({"qnli": found["qnli"]})[-1][1] == "nan"


def test_what_is_no_workdir_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="finetune and glue"):
        write_report(tmp_path)
    assert read_json(write_workdir(tmp_path / "run", [0.5, 0.6]) / "task.json")["kind"] == "classification"
