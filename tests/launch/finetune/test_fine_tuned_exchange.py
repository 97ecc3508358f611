"""A fine-tuned workdir leaves, is opened again with its head, and is where further fine-tuning begins."""

import dataclasses
import json
import shutil
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from bert_jax.interop.tasks import Task
from bert_jax.model.families import build_spec
from bert_jax.training.checkpoint import Checkpoints
from bert_jax.training.state import make_blueprint
from configs.finetune.classification import get_config
from launch.config import ConfigError, read_json, write_json
from launch.exchange import export
from launch.finetune.card import card_facts
from launch.finetune.seeds import best_place
from launch.finetune.start import start_params
from launch.finetune.task_file import TaskFile, task_file_of
from launch.load_model import LoadedModel, load_model
from launch.model_section import write_model_section

SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "max_positions": 32}
BERT = SIZES | {"family": "bert", "vocab_size": 200}
TASK = Task("classification", 2, "cls", 0.3, ("bad", "good"), 24)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """A workdir as `bert-jax finetune` leaves it, of two seeds."""
    workdir = tmp_path_factory.mktemp("finetune") / "workdir"
    task = dataclasses.replace(task_file_of(TASK), columns=task_file_of(TASK).columns | {"text": "sentence"})
    tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator([topics["assert"]], vocab_size=200, min_frequency=1, show_progress=False)
    (workdir / "tokenizer").mkdir(parents=True)
    tokenizer.save(str(workdir / "tokenizer" / "tokenizer.json"))
    write_model_section(workdir, BERT)
    task.write(workdir)
    config = get_config().to_dict()
    write_json(workdir / "config.json", config | {"seeds": [0, 1], "steps": 7, "task": config["task"] | {"train": "/data/private/train.csv", "eval": "dev.csv"}})
    records = [{"seed": seed, "step": 7, "eval": {"accuracy": 0.5 + seed / 10}} for seed in (0, 1)]
    for record in records:
        place = workdir / "seeds" / str(record["seed"])
        checkpoints = Checkpoints(place / "checkpoints")
        checkpoints.save(7, {"params": make_blueprint(task.spec(BERT)).init(jax.random.key(record["seed"]))})
        checkpoints.wait()
        write_json(place / "scores.json", record)
    write_json(workdir / "scores.json", {"metric": "accuracy", "best_seed": 1, "seeds": records, "eval": {"accuracy": {"mean": 0.55, "std": 0.0707}}})
    return workdir


@pytest.fixture(scope="module")
def exported(fine_tuned, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "model"
    export(fine_tuned, output)
    return output


def test_the_best_seed_leaves_and_is_opened_with_its_head(fine_tuned, exported):
    ours, theirs = load_model(fine_tuned), load_model(exported)
    assert theirs.step is None and theirs.task == task_file_of(TASK)
    assert theirs.blueprint.spec == ours.blueprint.spec
    for name in ("pooler", "classifier"):
        jax.tree.map(np.testing.assert_array_equal, theirs.params[name], ours.params[name])
    card = (exported / "README.md").read_text()
    assert "| accuracy, eval | 0.6000; 2 seeds: 0.5500 ± 0.0707 |" in card and "| task.train | train.csv |" in card and "private" not in card
    assert json.loads((exported / "config.json").read_text())["label2id"] == {"bad": 0, "good": 1}


def test_of_seeds_that_were_asked_for_later_the_best_leaves_once_its_run_is_over(fine_tuned, tmp_path):
    workdir = tmp_path / "workdir"
    shutil.copytree(fine_tuned, workdir)
    config = read_json(workdir / "config.json")
    write_json(workdir / "config.json", config | {"seeds": [0, 1, 2, 3]})  # and scores.json is still of 0 and 1
    assert best_place(workdir).name == "1"
    shutil.copytree(workdir / "seeds" / "1", workdir / "seeds" / "2")
    write_json(workdir / "seeds" / "2" / "scores.json", {"seed": 2, "step": 7, "eval": {"accuracy": 0.9}})
    assert load_model(workdir).origin.startswith(str(workdir / "seeds" / "2"))
    assert card_facts(workdir, 7)["scores"] == {"accuracy, eval": "0.9000"}  # no mean before the run of 3 is over, and none of 0 and 1 alone
    write_json(workdir / "config.json", config | {"seeds": [0, 1]})
    assert best_place(workdir).name == "1" and card_facts(workdir, 7)["scores"] == {"accuracy, eval": "0.6000; 2 seeds: 0.5500 ± 0.0707"}
    write_json(workdir / "config.json", config | {"seeds": [4]})
    with pytest.raises(ConfigError, match="is over yet"):
        load_model(workdir)


@pytest.mark.parametrize(("kind", "goes_on"), [("classification", True), ("choice", True), ("tokens", False)])
def test_fine_tuning_begins_with_encoder_and_pooler(exported, kind, goes_on):
    pretrained = load_model(exported).encoder_alone()
    task = Task(kind, 1 if kind == "choice" else 2, "cls", 0.1, None, 24)
    params = start_params(pretrained, make_blueprint(task.spec(BERT)), jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], pretrained.params["encoder"])
    assert ("pooler" in params) == goes_on
    if goes_on:
        np.testing.assert_array_equal(params["pooler"]["kernel"], pretrained.params["pooler"]["kernel"])
    assert not np.array_equal(params["classifier"]["kernel"], pretrained.params["classifier"]["kernel"][:, : task.outputs])


def test_a_layer_of_another_form_begins_afresh():
    """RoBERTa's classifier of sequences has a layer of its own; its choices are read from a pooler."""
    section = SIZES | {"family": "roberta", "vocab_size": 200}
    held, wanted = (task_file_of(dataclasses.replace(TASK, kind=kind, outputs=outputs)) for kind, outputs in (("classification", 2), ("choice", 1)))
    pretrained = loaded(section, held)
    params = start_params(pretrained, make_blueprint(wanted.spec(section)), jax.random.key(5))
    assert not np.array_equal(params["pooler"]["kernel"], pretrained.params["pooler"]["kernel"])


def loaded(section: dict, task: TaskFile | None) -> LoadedModel:
    blueprint = make_blueprint(build_spec(section) if task is None else task.spec(section))
    return LoadedModel(section, blueprint, blueprint.init(jax.random.key(0)), None, "here", 1, task)


def test_a_discriminator_leaves_its_generator_with_the_tables_that_it_added_to():
    section = SIZES | {"family": "deberta_v3", "vocab_size": 200, "generator_layers": 1, "max_distance": 32, "position_buckets": 8}
    whole = loaded(section, None)
    alone = whole.encoder_alone()
    assert alone.section["family"] == "deberta_v3_discriminator" and set(alone.params) == {"encoder", "detection_head"}
    tables = [params["encoder"]["embed"]["tokens"]["embedding"] for params in (whole.params, whole.params["generator"], alone.params)]
    np.testing.assert_array_equal(tables[0] + tables[1], tables[2])
    batch = {name: jnp.ones((1, 4), jnp.int32) for name in ("input_ids", "segment_ids", "token_type_ids")}
    task = task_file_of(TASK)
    params = start_params(alone, make_blueprint(task.spec(alone.section)), jax.random.key(1))
    assert np.isfinite(make_blueprint(task.spec(alone.section)).model(params)(batch)).all()
    assert loaded(BERT, None).encoder_alone().section is BERT
