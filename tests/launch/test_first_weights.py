"""A domain's words in an imported model, and a larger model from a smaller one, by the commands a user types: first weights, pretraining, and out to transformers."""

import json

import numpy as np
import pytest
import transformers

from data_pipeline.tokenization import tokenizers
from launch.cli import main
from launch.load_model import load_model
from tests.launch.conftest import SMALL, run

pytestmark = pytest.mark.usefixtures("quick_compilation")
WORDS = 30
CONTINUE = [*SMALL, "--config.steps=4", "--config.eval.every=0", "--config.checkpoint.every=0"]
TEXT = "The garbage-collected metaclass raises AttributeError."


@pytest.fixture(scope="module")
def domain(trained, corpus, tmp_path_factory):
    """A model of a run, exported; its tokenizer with further words; and the import that has them, its pretraining begun."""
    root = tmp_path_factory.mktemp("domain")
    run("export", f"--workdir={trained}", f"--output={root / 'model'}")
    run("extend-tokenizer", f"--tokenizer={root / 'model'}", f"--input={corpus}", f"--words={WORDS}", f"--output={root / 'tokenizer'}")
    run("import", f"--from={root / 'model'}", f"--tokenizer={root / 'tokenizer'}", f"--workdir={root / 'run'}")
    run("prepare", f"--input={corpus}", f"--tokenizer={root / 'tokenizer'}", f"--output={root / 'store'}", "--workers=1", "--holdout=0.2")
    return root


def test_new_rows_begin_as_the_mean_of_their_old_pieces(domain):
    old, new = load_model(domain / "model"), load_model(domain / "run", step=0)
    size = old.section["vocab_size"]
    assert new.section == old.section | {"vocab_size": size + WORDS}
    before, after = old.tokenizer(), tokenizers.load(domain / "tokenizer")
    rows = {name: (np.asarray(model["encoder"]["embed"]["tokens"]["embedding"]), np.asarray(model["mlm_head"]["bias"])) for name, model in (("old", old.params), ("new", new.params))}
    for old_rows, new_rows in zip(rows["old"], rows["new"]):
        np.testing.assert_array_equal(new_rows[:size], old_rows[:size])
        for number in range(size, size + WORDS):
            pieces = before.encode(after.hf.id_to_token(number))
            assert len(pieces) > 1
            np.testing.assert_allclose(new_rows[number], old_rows[pieces].mean(0), rtol=1e-6)
        assert not new_rows[size + WORDS :].any()
    np.testing.assert_array_equal(old.params["encoder"]["layers"]["mlp"]["up"]["kernel"], new.params["encoder"]["layers"]["mlp"]["up"]["kernel"])


def test_it_pretrains_and_leaves_with_its_tokenizer(domain, tmp_path):
    run("pretrain", *CONTINUE, f"--workdir={domain / 'run'}", f"--config.data.path={domain / 'store'}")
    events = [record for line in (domain / "run" / "metrics.jsonl").read_text().splitlines() if (record := json.loads(line))["split"] == "event"]
    assert events[0]["detail"] == "imported weights"
    run("export", f"--workdir={domain / 'run'}", f"--output={tmp_path / 'model'}", "--verify")
    model, info = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "model", output_loading_info=True)
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "model"), tokenizers.load(domain / "tokenizer")
    assert not any(info.values()) and model.config.vocab_size == len(theirs) == ours.vocab_size
    assert theirs(TEXT, add_special_tokens=False)["input_ids"] == ours.encode(TEXT).tolist()


def test_a_tokenizer_that_does_not_go_on_is_refused(domain, byte_bpe_store, tmp_path, capsys):
    for tokenizer in (byte_bpe_store / "tokenizer", domain / "model"):
        assert main(["import", f"--from={domain / 'model'}", f"--tokenizer={tokenizer}", f"--workdir={tmp_path / 'none'}"]) == 1
        assert "does not go on from the model's own" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_larger_model_begins_as_a_smaller_one_and_pretrains(trained, prepared, tmp_path, capsys):
    larger = [*CONTINUE, "--config.model.hidden_size=48", "--config.model.num_heads=3", "--config.model.intermediate_size=80", "--config.model.num_layers=3"]
    run("grow", f"--from={trained}", *larger, f"--workdir={tmp_path / 'large'}")
    table, own = (np.asarray(load_model(path).params["encoder"]["embed"]["tokens"]["embedding"]) for path in (tmp_path / "large", trained))
    np.testing.assert_array_equal(table[:, 8:40], own)
    run("pretrain", *larger, f"--workdir={tmp_path / 'large'}", f"--config.data.path={prepared.store}")
    assert load_model(tmp_path / "large").step == 4
    for changes, words in ((["--config.model.vocab_size=500"], "tiling keeps the vocabulary"), (["--config.model.num_layers=1"], "as many layers or more")):
        assert main(["grow", f"--from={trained}", *larger, *changes, f"--workdir={tmp_path / 'none'}"]) == 1
        assert words in capsys.readouterr().err
