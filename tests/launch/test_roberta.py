"""RoBERTa by the commands a user types: byte-level BPE, full sentences, training, a verified export, predictions at <mask>."""

import json
import re

import numpy as np
import transformers

from launch.cli import main
from tests.launch.conftest import SMALL, run

ROBERTA = [
    *SMALL, "--config.steps=4", "--config.model.family=roberta", "--config.model.position_offset=2", "--config.model.norm_eps=1e-5",
    "--config.data.sequences=full_sentences", "--config.eval.every=0", "--config.checkpoint.every=0",
]  # fmt: skip


def test_from_text_to_predictions_in_stock_transformers(byte_bpe_store, tmp_path, capsys):
    run("pretrain", *ROBERTA, f"--workdir={tmp_path / 'run'}", f"--config.data.path={byte_bpe_store}")
    section = json.loads((tmp_path / "run" / "model.json").read_text())
    assert section["family"] == "roberta" and section["vocab_size"] == 700 and not {"nsp", "type_vocab_size", "activation"} & section.keys()
    capsys.readouterr()
    run("export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'model'}", "--verify")
    assert "MLM logits" in capsys.readouterr().out
    run("import", f"--from={tmp_path / 'model'}", f"--workdir={tmp_path / 'imported'}")
    text, printed = "The <mask> of the list.", []
    capsys.readouterr()
    for model in ("run", "model", "imported"):
        run("fill-mask", f"--model={tmp_path / model}", "--top=3", text)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2] and printed[0].count("%") == 3
    theirs = transformers.pipeline("fill-mask", model=str(tmp_path / "model"))(text, top_k=3)
    assert all(f"{one['score']:.1%}" in printed[0] for one in theirs)
    assert np.isfinite([one["score"] for one in theirs]).all()


def test_what_does_not_fit_the_family_is_refused_with_the_fix(byte_bpe_store, prepared, tmp_path, capsys):
    for changes, message in (
        ([f"--config.data.path={byte_bpe_store}", "--config.model.position_offset=1"], "pads with id 1.*--config.model.position_offset=2"),
        ([f"--config.data.path={prepared.store}"], "pads with id 0.*--config.model.position_offset=1"),
        ([f"--config.data.path={byte_bpe_store}", "--config.model.nsp=true"], "model.nsp is set, but model.family=roberta takes vocab_size"),
        ([f"--config.data.path={byte_bpe_store}", "--config.model.family=xlnet"], "model.family is 'xlnet'; known: bert, roberta, xlm_roberta"),
        ([f"--config.data.path={byte_bpe_store}", "--config.length=128", "--config.masking.predictions=30"], "length 128 is over model.max_positions 64"),
    ):
        assert main(["pretrain", *ROBERTA, f"--workdir={tmp_path / 'none'}", *changes]) == 1
        error = capsys.readouterr().err
        assert re.search(message, error), error
    assert not (tmp_path / "none").exists()
    assert main(["pretrain", *[one for one in ROBERTA if "position_offset" not in one], "--print-config"]) == 1
    assert "lacks model.position_offset" in capsys.readouterr().err
