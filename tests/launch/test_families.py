"""ALBERT, ELECTRA and DeBERTa by the commands a user types: training in which the objective falls, an evaluation, a verified export, and back."""

import json

import pytest

from launch.cli import main
from tests.launch.conftest import SMALL, run

pytestmark = pytest.mark.usefixtures("quick_compilation")
FASTER = [
    *SMALL, "--config.steps=80", "--config.batch_size=16", "--config.eval.every=0", "--config.checkpoint.every=0", "--config.log_every=1",
    "--config.masking.rate=0.3", "--config.masking.predictions=10", "--config.schedule.peak=1e-2",
]  # fmt: skip
ALBERT = [
    "--config.model.family=albert", "--config.model.layer_groups=1", "--config.model.embedding_size=24", "--config.data.sequences=sentence_order",
    "--config.masking.choice=ngrams:3",
]  # fmt: skip
ELECTRA = [
    "--config.model.family=electra", "--config.model.generator_hidden_size=16", "--config.model.generator_layers=1", "--config.model.generator_heads=1",
    "--config.model.generator_intermediate_size=32", "--config.model.detection_weight=50", "--config.data.sequences=packed_documents", "--config.model.embedding_size=24",
]  # fmt: skip
DEBERTA = [
    "--config.model.family=deberta", "--config.model.type_vocab_size=0", "--config.model.max_distance=64", "--config.model.input_positions=false",
    "--config.model.mask_decoder=true", "--config.data.sequences=packed_documents",
]  # fmt: skip
DEBERTA_V3 = [
    "--config.model.family=deberta_v3", *DEBERTA[1:], "--config.model.position_buckets=16", "--config.model.convolution=0", "--config.model.generator_layers=1",
    "--config.model.detection_weight=50",
]  # fmt: skip
CHANGES = {"albert": ALBERT, "electra": ELECTRA, "deberta": DEBERTA, "deberta_v3": DEBERTA_V3}
LOSSES = {"albert": ["mlm_loss", "sop_loss"], "deberta": ["mlm_loss"]}  # of the others: the generator's and the detection
HEADS = {"albert": ["MLM logits", "NSP logits"], "electra": ["detection logits", "MLM logits"]}


@pytest.fixture(scope="module", params=CHANGES)
def trained(request, prepared, tmp_path_factory):
    """(family, workdir)."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    run("pretrain", *FASTER, *CHANGES[request.param], f"--workdir={workdir}", f"--config.data.path={prepared.store}")
    return request.param, workdir


def records(workdir, split):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if record["split"] == split]


def test_the_objective_falls(trained):
    family, workdir = trained
    steps = records(workdir, "train")
    losses = LOSSES.get(family, ["mlm_loss", "detection_loss"])
    assert len(steps) == 80 and all(record[name] > 0 for record in steps for name in losses)
    first, last = ([sum(record[name] for record in part) / 10 for name in ("loss", "mlm_loss")] for part in (steps[:10], steps[-10:]))
    assert last[0] < 0.9 * first[0] and last[1] < first[1] - 0.5
    scales = {"detection_loss": 50}
    assert all(record["loss"] == pytest.approx(sum(scales.get(name, 1) * record[name] for name in losses), rel=1e-4) for record in steps)


def test_the_evaluation_says_what_was_learnt(trained, capsys):
    family, workdir = trained
    capsys.readouterr()
    run("evaluate", f"--workdir={workdir}")
    printed = capsys.readouterr().out
    (held_out,) = records(workdir, "eval")
    if family == "albert":
        assert "SOP accuracy" in printed and 0 <= held_out["sop_accuracy"] <= 1
    if "detection_loss" not in held_out:
        return
    assert "replaced tokens:" in printed and "of those named" in printed
    assert held_out["loss"] == pytest.approx(held_out["mlm_loss"] + 50 * held_out["detection_loss"], rel=1e-5)
    assert held_out["detection_accuracy"] > 0.6 and all(0 <= held_out[f"detection_{name}"] <= 1 for name in ("recall", "precision"))


def test_it_leaves_with_proof_and_comes_back(trained, tmp_path, capsys):
    family, workdir = trained
    run("export", f"--workdir={workdir}", f"--output={tmp_path / 'model'}", "--verify")
    heads, printed = HEADS.get(family, ["MLM logits"]), capsys.readouterr().out
    assert [printed.index(name) for name in heads] == sorted(printed.index(name) for name in heads)
    run("export", f"--workdir={workdir}", f"--output={tmp_path / 'model'}")  # an earlier export is replaced
    run("import", f"--from={tmp_path / 'model'}", f"--workdir={tmp_path / 'back'}")
    answers = []
    for model in (workdir, tmp_path / "back"):
        capsys.readouterr()
        run("fill-mask", f"--model={model}", "--top=3", "the [MASK] of the list")
        answers.append(capsys.readouterr().out)
    assert answers[0].count("%") == 3 and answers[0].splitlines()[1:] == answers[1].splitlines()[1:]
    before, after = (json.loads((path / "model.json").read_text()) for path in (workdir, tmp_path / "back"))
    assert before.items() <= (after | {name: before[name] for name in ("dropout", "attention_dropout", "initializer_range")}).items()


def test_an_encoder_without_its_generator_is_refused_in_words(prepared, tmp_path, capsys):
    changes = [one for one in ELECTRA if "generator" not in one and "weight" not in one and "family" not in one]
    status = main(["pretrain", *FASTER, "--config.model.family=electra_discriminator", *changes, f"--workdir={tmp_path / 'run'}", f"--config.data.path={prepared.store}"])
    assert status == 1 and "has no generator" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
