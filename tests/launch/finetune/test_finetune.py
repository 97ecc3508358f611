"""Fine-tuning by the commands a user types: every kind of task, resumed runs, patience, predictions, embeddings."""

import dataclasses
import json
import pydoc_data.topics
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax.training.checkpoint import Checkpoints
from data_pipeline.tasks.task_data import TaskData
from launch.cli import main
from launch.config import ConfigError, load
from launch.finetune.fields import FINETUNING
from launch.finetune.finetune import check_continues
from launch.finetune.scoring import metric_names
from launch.finetune.sets import columns_of
from launch.finetune.task_file import TaskFile
from launch.load_model import load_model
from tests.launch.conftest import run
from tests.launch.finetune.stopping import digests_of, stopped_and_resumed

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = [
    "--config=configs/finetune/classification.py", "--config.steps=4", "--config.batch_size=8", "--config.length=32", "--config.compute.dtype=float32", "--config.log_every=2",
    "--config.eval.every=2", "--config.eval.batch_size=16", "--config.seeds=0", "--config.task.metric=", "--config.schedule.peak=1e-3",
]
SENTENCES = [text for topic in pydoc_data.topics.topics.values() for text in " ".join(topic.split()).split(". ") if 40 < len(text) < 120][:48]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def span_row(sentence: str) -> dict:
    words = sentence.split()
    return {"question": f"What is there beside {words[0]}?", "context": sentence, "answers": {"text": [words[2]], "answer_start": [len(" ".join(words[:2])) + 1]}}


KINDS = {  # kind -> (a row of a sentence, overrides)
    "classification": (lambda number, text: {"text": text, "label": "long" if len(text) > 80 else "short"}, []),
    "multilabel": (lambda number, text: {"text": text, "label": [word for word in ("the", "is", "of") if word in text.split()]}, ["kind=multilabel"]),
    "regression": (lambda number, text: {"text": text, "label": len(text) / 120}, ["kind=regression"]),
    "tokens": (lambda number, text: {"tokens": text.split(), "tags": ["B-THE" if word == "the" else "O" for word in text.split()]}, ["kind=tokens"]),
    "span": (lambda number, text: span_row(text), ["kind=span", "text=question", "text_pair=context", "label=answers", "stride=8"]),
    "choice": (lambda number, text: {"text": text[:20], "a": text[20:], "b": SENTENCES[number - 1][20:], "label": 0}, ["kind=choice", "choices=a,b"]),
    "ranking": (lambda number, text: {"text": SENTENCES[number // 4], "passage": text, "label": float(number % 4 == 0)}, ["kind=ranking", "text_pair=passage"]),
    "embedding": (lambda number, text: {"text": text[:30], "pair": text[30:]}, ["kind=embedding", "text_pair=pair", "label=", "loss=multiple_negatives"]),
    "embedding of classes": (
        lambda number, text: {"text": text[:30], "pair": text[30:], "label": "abc"[number % 3]},
        ["kind=embedding", "text_pair=pair", "label_type=class", "loss=softmax"],
    ),
}


def data_of(kind: str, directory) -> list[str]:
    make, overrides = KINDS[kind]
    rows = [make(number, text) for number, text in enumerate(SENTENCES)]
    paths = {"train": write(directory / "train.jsonl", rows[:32]), "eval": write(directory / "eval.jsonl", rows[32:])}
    return [f"--config.task.{name}={path}" for name, path in paths.items()] + [f"--config.task.{override}" for override in overrides]


def scores_in(workdir, seed=0) -> dict:
    return json.loads((workdir / "seeds" / str(seed) / "scores.json").read_text())


def params_in(workdir, step) -> dict:
    checkpoints = Checkpoints(workdir / "seeds" / "0" / "checkpoints")
    loaded = load_model(workdir, step=step)
    assert step in checkpoints.steps()
    return loaded.params


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_is_trained_and_scored(kind, trained, tmp_path):
    run("finetune", *SMALL, *data_of(kind, tmp_path), f"--init={trained}", f"--workdir={tmp_path / 'run'}")
    scores = scores_in(tmp_path / "run")
    assert scores["step"] in (2, 4) and all(-1 <= value <= 1 for value in scores["eval"].values() if value == value)
    predictions = [json.loads(line) for line in (tmp_path / "run" / "seeds" / "0" / "predictions-eval.jsonl").read_text().splitlines()]
    assert len(predictions) == len(SENTENCES) - 32
    losses = [json.loads(line) for line in (tmp_path / "run" / "seeds" / "0" / "metrics.jsonl").read_text().splitlines()]
    assert all(record["task_loss"] > 0 for record in losses if record["split"] == "train")


@pytest.fixture(scope="module")
def classified(trained, tmp_path_factory):
    """A finished run of two seeds, and its data."""
    directory = tmp_path_factory.mktemp("classified")
    data = data_of("classification", directory)
    run("finetune", *SMALL, *data, "--config.seeds=0,1", f"--init={trained}", f"--workdir={directory / 'run'}")
    return directory, data


def test_seeds_are_told_with_mean_and_spread(classified):
    directory, _ = classified
    summary = json.loads((directory / "run" / "scores.json").read_text())
    values = [record["eval"]["accuracy"] for record in summary["seeds"]]
    assert [record["seed"] for record in summary["seeds"]] == [0, 1]
    assert summary["eval"]["accuracy"]["mean"] == pytest.approx(np.mean(values)) and summary["eval"]["accuracy"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert summary["best_seed"] == int(np.argmax(values))


def test_seeds_differ_in_the_head_and_share_the_encoder_at_the_start(classified, trained, tmp_path):
    directory, data = classified
    run("finetune", *SMALL, *data, "--config.steps=1", "--config.schedule.peak=1e-12", "--config.seeds=0,1", f"--init={trained}", f"--workdir={tmp_path / 'still'}")
    start, heads = load_model(trained).params, []
    for seed in (0, 1):
        held = Checkpoints(tmp_path / "still" / "seeds" / str(seed) / "checkpoints")
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), load_model(tmp_path / "still").params)
        params = held.restore(1, {"params": abstract})["params"]
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), params["encoder"], start["encoder"])
        np.testing.assert_allclose(params["pooler"]["kernel"], start["pooler"]["kernel"], atol=1e-6)
        heads.append(np.asarray(params["classifier"]["kernel"]))
    assert np.abs(heads[0] - heads[1]).max() > 1e-3


def test_a_stopped_run_goes_on_to_the_same_bits(classified, trained, tmp_path):
    directory, data = classified
    command = ["finetune", *SMALL, *data, f"--init={trained}", f"--workdir={tmp_path / 'run'}"]
    assert stopped_and_resumed(command, tmp_path / "run") == digests_of(directory / "run")


def test_patience_ends_a_run(trained, classified, tmp_path):
    _, data = classified
    arguments = ["--config.steps=40", "--config.eval.every=1", "--config.eval.patience=2", "--config.schedule.peak=1e-12"]
    run("finetune", *SMALL, *data, *arguments, f"--init={trained}", f"--workdir={tmp_path / 'run'}")
    evaluations = [line for line in (tmp_path / "run" / "seeds" / "0" / "metrics.jsonl").read_text().splitlines() if '"eval"' in line]
    assert len(evaluations) == 3


def test_what_can_be_learnt_is_learnt(trained, tmp_path):
    rows = [{"text": f"{text} {word}", "label": word} for number, text in enumerate(SENTENCES) for word in ("class", "number")]
    train, dev = write(tmp_path / "train.jsonl", rows[:64]), write(tmp_path / "eval.jsonl", rows[64:])
    more = ["--config.steps=60", "--config.eval.every=0", "--config.schedule.peak=5e-3", "--config.length=64"]
    run("finetune", *SMALL, *more, f"--config.task.train={train}", f"--config.task.eval={dev}", f"--init={trained}", f"--workdir={tmp_path / 'run'}")
    assert scores_in(tmp_path / "run")["eval"]["accuracy"] > 0.9


def test_predictions_for_a_file_are_those_of_the_run(classified, capsys):
    directory, _ = classified
    summary = json.loads((directory / "run" / "scores.json").read_text())
    capsys.readouterr()
    run("predict", f"--model={directory / 'run'}", f"--input={directory / 'eval.jsonl'}")
    printed = capsys.readouterr()
    written = directory / "run" / "seeds" / str(summary["best_seed"]) / "predictions-eval.jsonl"
    assert [json.loads(line)["label"] for line in printed.out.splitlines()] == [json.loads(line)["label"] for line in written.read_text().splitlines()]
    assert "accuracy" in printed.err
    unlabelled = write(directory / "unlabelled.jsonl", [{"text": text} for text in SENTENCES[:3]])
    run("predict", f"--model={directory / 'run'}", f"--input={unlabelled}")
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_vectors_do_not_depend_on_what_stands_beside_them(trained, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join([*SENTENCES[:5], "", "one"]) + "\n")
    run("embed", f"--model={trained}", f"--input={lines}", f"--output={tmp_path / 'all.npy'}", "--batch-size=4", "--normalise")
    lines.write_text(SENTENCES[3] + "\n")
    run("embed", f"--model={trained}", f"--input={lines}", f"--output={tmp_path / 'one.npy'}", "--normalise")
    vectors, alone = np.load(tmp_path / "all.npy"), np.load(tmp_path / "one.npy")
    assert vectors.shape == (7, 32) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[3], alone[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_passage_ranks_itself_first(trained, tmp_path, capsys):
    (tmp_path / "passages.txt").write_text("\n".join(SENTENCES[:6]))
    run("rank", f"--model={trained}", f"--input={tmp_path / 'passages.txt'}", "--top=3", SENTENCES[4])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].endswith(SENTENCES[4])


def test_a_sweep_tries_every_combination_and_names_the_best(classified, trained, tmp_path, capsys):
    _, data = classified
    grid = ["--sweep=schedule.peak=1e-3,1e-4", "--sweep=steps=2,3"]
    run("finetune", *SMALL, *data, *grid, f"--init={trained}", f"--workdir={tmp_path / 'grid'}")
    table = json.loads((tmp_path / "grid" / "table.json").read_text())
    assert list(table) == [f"schedule.peak={peak},steps={steps}" for peak in ("1e-3", "1e-4") for steps in (2, 3)]
    best = max(table.values(), key=lambda one: one["eval"]["accuracy"]["mean"])["eval"]["accuracy"]["mean"]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.endswith("best"))
    assert f"{best:.4f}" in line


def test_glue_averages_over_tasks(trained, tmp_path, capsys):
    rows = [{"sentence1": text[:30], "sentence2": text[30:], "label": number % 2} for number, text in enumerate(SENTENCES)]
    train, dev = write(tmp_path / "train.jsonl", rows[:32]), write(tmp_path / "eval.jsonl", rows[32:])
    small = [one for one in SMALL if not one.startswith(("--config=", "--config.task.metric"))]
    run("glue", "--tasks=rte,mrpc", *small, f"--config.task.train={train}", f"--config.task.eval={dev}", f"--init={trained}", f"--workdir={tmp_path / 'glue'}")
    table = json.loads((tmp_path / "glue" / "table.json").read_text())
    mrpc = (table["mrpc"]["eval"]["f1"]["mean"] + table["mrpc"]["eval"]["accuracy"]["mean"]) / 2
    assert f"average  {50 * (mrpc + table['rte']['eval']['accuracy']['mean']):.1f}" in capsys.readouterr().out


CONFIGS = sorted(path for path in (Path(__file__).parents[3] / "configs" / "finetune").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_describes_a_task(path):
    config = load(str(path), [], FINETUNING)
    task, kind = TaskData(**columns_of(config["task"])), config["task"]["kind"]
    assert config["task"]["metric"] in metric_names(TaskFile(kind, 2, "cls", 0.1, ("O", "B-A", "I-A"), dataclasses.asdict(task), 8))
    assert f"configs/finetune/{path.name}" in path.read_text().split('"""')[1]


def refused(*arguments: str) -> str:
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()) as errors:
        assert main(list(arguments)) == 1
    return errors.getvalue()


def test_a_changed_run_is_refused_in_words(classified, trained, tmp_path):
    directory, data = classified
    again = ["finetune", *SMALL, *data, "--config.seeds=0,1", f"--workdir={directory / 'run'}"]
    assert "schedule.peak: 0.001 -> 0.1" in refused(*again, f"--init={trained}", "--config.schedule.peak=0.1")
    assert "task.metric is 'spearman'" in refused(*again, f"--init={trained}", "--config.task.metric=spearman")
    assert "length 9999" in refused(*again, f"--init={trained}", "--config.length=9999")
    other = tmp_path / "other.jsonl"
    other.write_text((directory / "train.jsonl").read_text().replace("the", "a"))
    assert "data (fingerprint of its contents)" in refused(*again, f"--init={trained}", f"--config.task.train={other}")
    assert "give --init" in refused(*again)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "is not empty" in refused("finetune", *SMALL, *data, f"--init={trained}", f"--workdir={tmp_path / 'full'}")
    assert "was not fine-tuned" in refused("predict", f"--model={trained}", f"--input={other}")
    vectors = ["finetune", *SMALL, *data_of("embedding", tmp_path), f"--init={trained}", f"--workdir={tmp_path / 'frozen'}", "--config.freeze=encoder"]
    assert "freeze is 'encoder'" in refused(*vectors) and not (tmp_path / "frozen").exists()


def test_what_a_kill_at_the_very_start_leaves_can_be_gone_on_from(tmp_path):
    for name in ("tokenizer", "tokenizer.tmp"):
        (tmp_path / name).mkdir()
    for name in (".lock", "config.json", "exit_reason.json", "stacks-0.txt"):
        (tmp_path / name).write_text("{}")
    check_continues({}, {}, tmp_path, False)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        check_continues({}, {}, tmp_path, False)


def test_a_label_that_training_lacks_is_named_with_its_line(classified, trained, tmp_path):
    _, data = classified
    bad = write(tmp_path / "bad.jsonl", [{"text": "one", "label": "long"}, {"text": "two", "label": "broad"}])
    words = refused("finetune", *SMALL, *data, f"--config.task.eval={bad}", f"--init={trained}", f"--workdir={tmp_path / 'run'}")
    assert "broad" in words and "2" in words and str(bad) in words
