"""Reference curves: found for the config and text that they were made of, drawn, and compared with in words."""

import json

import numpy as np
import pytest

from launch import config as configs
from launch.report.reference_curves import REGISTRY, belongs, find, read, shaping_differences
from tests.launch.test_report import Page, evaluation, event, train, write_run

ENTRIES = json.loads(REGISTRY.read_text())
QUICKSTART = next(entry for entry in ENTRIES if entry["config"] == "quickstart")


@pytest.fixture
def store(tmp_path):
    """What a store of the embedded corpus says of itself."""
    (tmp_path / "store").mkdir()
    manifest = {"sources": [{"name": "embedded", "size": 1}], "tokenizer": {"kind": "wordpiece", "vocab_size": QUICKSTART["vocab_size"]}}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "store"


def run_config(store, *overrides, entry=QUICKSTART):
    config = configs.load(entry["config"], [*entry["overrides"], f"config.data.path={store}", *overrides])
    config["model"]["vocab_size"] = entry["vocab_size"]
    return json.loads(json.dumps(config))


def log_of(shift, until=1200):
    """A run that follows the mean, `shift` times the tolerance away from it."""
    band, losses = read(QUICKSTART).bands["train"], QUICKSTART["train"]
    lines = [
        train(step, loss=mean * (1 + shift * QUICKSTART["tolerance"]))
        for step, mean in zip(losses["step"], losses["mean"])
        if step <= until
    ]
    lines += [
        evaluation(step, loss=mean * (1 + shift * QUICKSTART["tolerance"]))
        for step, mean in zip(QUICKSTART["eval"]["step"], QUICKSTART["eval"]["mean"])
        if step <= until
    ]
    assert band.steps.tolist() == losses["step"]
    return [event(0, "started"), *lines]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["config"])
def test_the_registry_is_of_the_configs_as_they_are_shipped(entry, store):
    """If this fails a shipped config has been changed: make its curve anew with benchmarks/reference_curves.py."""
    assert belongs(entry, run_config(store, entry=entry)), [
        line for line in shaping_differences(entry["settings"], run_config(store, entry=entry)) if ": None -> " not in line
    ]
    for split in ("train", "eval"):
        columns = {name: np.asarray(values) for name, values in entry[split].items()}
        assert (
            (columns["min"] <= columns["mean"]).all() and (columns["mean"] <= columns["max"]).all() and (np.diff(columns["step"]) > 0).all()
        )
    assert entry["train"]["mean"][0] > entry["train"]["mean"][-1] and len(entry["seeds"]) >= 3


def test_a_reference_belongs_to_its_config_and_text_alone(store):
    assert find(run_config(store)).config == "quickstart"
    for free in (
        "config.seed=7",
        "config.accumulate=2",
        "config.eval.every=100",
        "config.checkpoint.keep=5",
        "config.mesh.fsdp=2",
        "config.compute.remat=full",
    ):
        assert find(run_config(store, free)) is not None, free
    for shaping in (
        "config.steps=600",
        "config.batch_size=64",
        "config.schedule.peak=1e-3",
        "config.model.dropout=0.1",
        "config.masking.rate=0.2",
        "config.log_every=10",
    ):
        assert find(run_config(store, shaping)) is None, shaping
    manifest = json.loads((store / "manifest.json").read_text())
    for other in ({"sources": [{"name": "novels.txt", "size": 1}]}, {"tokenizer": {"kind": "wordpiece", "vocab_size": 8000}}):
        (store / "manifest.json").write_text(json.dumps(manifest | other))
        assert find(run_config(store)) is None
    assert find(run_config(store.parent / "gone")) is None and find({}) is None and find({"data": {"path": None}}) is None


def test_an_entry_of_a_config_that_has_changed_since_is_not_used(store):
    config = run_config(store)
    older = QUICKSTART | {"settings": QUICKSTART["settings"] | {"batch_size": 64}}
    newer_field = {name: value for name, value in QUICKSTART["settings"].items() if name != "accumulate"}
    assert not belongs(older, config) and belongs(QUICKSTART | {"settings": newer_field}, config)


def test_a_run_within_the_band_is_drawn_and_told_so(tmp_path, store):
    page = Page(write_run(tmp_path / "run", log_of(0.5), config=run_config(store)))
    loss, *others = page.data()["charts"]
    assert "This run lies within its reference, held out and in training" in page.words and "lies outside" not in page.words
    assert loss["band"]["x"] == QUICKSTART["train"]["step"] and not any(chart["band"] for chart in others)
    line = next(curve["line"] for curve in loss["curves"] if curve["role"] == "train")
    assert line["x"] == loss["band"]["x"] and (np.less(loss["band"]["low"], line["y"]) & np.greater(loss["band"]["high"], line["y"])).all()
    assert f"{QUICKSTART['tolerance']:.0%} wider" in page.words and f"{len(QUICKSTART['seeds'])} seeds of quickstart" in page.words


@pytest.mark.parametrize(("shift", "word"), [(3, "above"), (-3, "below")])
def test_a_run_outside_is_told_so_with_the_figures(tmp_path, store, shift, word):
    page = Page(write_run(tmp_path / "run", log_of(shift), config=run_config(store)))
    assert f"This run lies outside its reference: its training loss is {word} the band at" in page.words
    assert f"its held-out loss is {word} the band" in page.words


def test_a_run_under_way_is_compared_as_far_as_it_is(tmp_path, store):
    page = Page(write_run(tmp_path / "run", log_of(0, until=400), config=run_config(store)))
    assert page.data()["charts"][0]["band"]["x"][-1] == 400 and "lies within" in page.words
    page = Page(write_run(tmp_path / "first", [event(0, "started"), train(1)], config=run_config(store)))
    assert page.data()["charts"][0]["band"] is None and "no step in common" in page.words


def test_other_runs_say_nothing_of_references(tmp_path, store):
    page = Page(write_run(tmp_path / "run", log_of(0), config=run_config(store, "config.steps=600")))
    assert "its reference" not in page.words and page.data()["charts"][0]["band"] is None
