"""Longformer and BigBird by the commands a user types: begun as a BERT or RoBERTa with copied positions, trained until the objective falls, a verified export, and back."""

import json

import pytest

from launch.cli import main
from tests.launch.conftest import SMALL, run

pytestmark = pytest.mark.usefixtures("quick_compilation")
SHORT = [*SMALL, "--config.steps=1", "--config.eval.every=0", "--config.checkpoint.every=0", "--config.model.max_positions=32", "--config.model.num_layers=2"]
LONG = [
    *SMALL, "--config.steps=60", "--config.eval.every=0", "--config.checkpoint.every=0", "--config.log_every=1", "--config.length=64", "--config.model.max_positions=64",
    "--config.masking.rate=0.3", "--config.masking.predictions=20", "--config.schedule.peak=1e-2", "--config.model.num_layers=2",
    "--config.data.sequences=packed_documents",
]  # fmt: skip
KINDS = {  # family -> (what it begins as, its own fields)
    "longformer": (
        ["--config.model.family=roberta", "--config.model.position_offset=2", "--config.data.sequences=full_sentences"],
        ["--config.model.family=longformer", "--config.model.position_offset=2", "--config.model.window=8", "--config.model.global_tokens=4"],
    ),
    "big_bird": (
        ["--config.model.family=bert", "--config.data.sequences=full_sentences", "--config.model.nsp=false"],
        ["--config.model.family=big_bird", "--config.model.nsp=false", "--config.model.block_size=4", "--config.model.random_blocks=2"],
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, prepared, byte_bpe_store, tmp_path_factory):
    """(family, workdir)."""
    root, (short, long) = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    store = byte_bpe_store if request.param == "longformer" else prepared.store
    data = f"--config.data.path={store}"
    run("pretrain", *SHORT, *short, f"--workdir={root / 'short'}", data)
    vocab_size = json.loads((root / "short" / "model.json").read_text())["vocab_size"]
    run("grow", f"--from={root / 'short'}", *LONG, *long, f"--config.model.vocab_size={vocab_size}", f"--workdir={root / 'long'}")
    run("pretrain", *LONG, *long, f"--workdir={root / 'long'}", data)
    return request.param, root / "long"


def test_the_objective_falls_on_real_text(trained):
    lines = [json.loads(line) for line in (trained[1] / "metrics.jsonl").read_text().splitlines()]
    losses = [record["mlm_loss"] for record in lines if record["split"] == "train"]
    assert len(losses) == 60 and sum(losses[-10:]) / 10 < sum(losses[:5]) / 5 - 0.5


def test_it_leaves_with_proof_and_comes_back(trained, tmp_path, capsys):
    family, workdir = trained
    run("export", f"--workdir={workdir}", f"--output={tmp_path / 'model'}", "--verify")
    assert "MLM logits" in capsys.readouterr().out
    run("import", f"--from={tmp_path / 'model'}", f"--workdir={tmp_path / 'back'}")
    before, after = (json.loads((path / "model.json").read_text()) for path in (workdir, tmp_path / "back"))
    assert before.items() <= (after | {name: before[name] for name in ("dropout", "attention_dropout", "initializer_range")}).items()
    assert (tmp_path / "model" / "config.json").read_text().count(family) == 1


def test_another_model_is_refused_with_what_differs(trained, tmp_path, capsys):
    family, workdir = trained
    other = [*LONG, *KINDS[family][0], "--config.model.max_positions=128"]
    assert main(["grow", f"--from={workdir}", *other, "--config.model.hidden_size=64", f"--workdir={tmp_path / 'none'}"]) == 1
    error = capsys.readouterr().err
    assert f"is a {family}" in error and "hidden_size: 64, 32" in error and not (tmp_path / "none").exists()
