"""Mixtures, sentence order, packed documents and phases, by the command a user types."""

import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.training.optim import make_optimizer
from bert_jax.training.schedules import Schedule
from bert_jax.training.state import TrainState
from launch.cli import main
from launch.config import ConfigError, load
from launch.data import data_paths
from launch.phases import phase_at, phases_of
from launch.pretrain import enter_phase, make_stages
from tests.launch.conftest import SMALL, run
from tests.training.small_trees import ENCODER_AXES, make_encoder, spec_of


@pytest.fixture(scope="module")
def second_store(prepared, tmp_path_factory):
    """Another store with the tokenizer of `prepared`, of the documentation of installed packages."""
    path = tmp_path_factory.mktemp("second") / "packages"
    run("prepare", "--input=embedded", f"--tokenizer={prepared.tokenizer}", f"--output={path}", "--workers=1", "--holdout=0.1")
    return path


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def phased(prepared, second_store, tmp_path_factory):
    """A run of two phases: sentence order on a mixture with n-gram masks, then packed documents twice as long of one store."""
    config = tmp_path_factory.mktemp("config") / "phased.py"
    config.write_text(
        "from configs.quickstart import get_config as quickstart\n\n"
        "def get_config():\n"
        "    config = quickstart()\n"
        "    config.steps = 0\n"
        "    config.phases = [\n"
        f"        dict(name='short', steps=4, data=dict(path='{prepared.store},{second_store}', weights=(0.75, 0.25), sequences='sentence_order'),\n"
        "             masking=dict(choice='ngrams:3', end_rate=0.3)),\n"
        "        dict(name='long', steps=4, length=64, masking=dict(predictions=12), opt_state='restart'),\n"
        "    ]\n"
        "    config.data.sequences = 'segment_pairs'\n"
        "    return config\n"
    )
    arguments = [f"--config={config}", *[argument for argument in SMALL[1:] if "steps" not in argument], f"--config.data.path={prepared.store}"]
    arguments += ["--config.masking.rate=0.15", "--config.masking.predictions=10", "--config.schedule.warmup_steps=1"]
    workdir = tmp_path_factory.mktemp("phased") / "workdir"
    run("pretrain", *arguments, f"--workdir={workdir}")
    return arguments, workdir


def test_each_phase_trains_its_own_objective_on_its_own_sources(phased, prepared, second_store):
    _, workdir = phased
    train = [record for record in records(workdir) if record["split"] == "train"]
    assert [record["step"] for record in train] == [2, 4, 6, 8]
    short, long = train[:2], train[2:]
    assert all("sop_accuracy" in record and "nsp_accuracy" not in record for record in short)
    assert all("nsp_accuracy" in record and "sop_accuracy" not in record for record in long)
    counts = {name: sum(record.get(f"sequences/{name}", 0) for record in train) for name in ("store", "packages")}
    assert sum(counts.values()) == 4 * 8 and counts["store"] > counts["packages"] > 0
    events = [(record["step"], record["event"]) for record in records(workdir) if record["split"] == "event"]
    assert events == [(0, "started"), (4, "phase"), (8, "finished")]
    page = (workdir / "report.html").read_text()
    assert "packages" in page and "Sentence-order accuracy" in page


def test_a_phased_run_continues_in_its_second_phase(phased, tmp_path, capsys):
    """From the checkpoint between the phases the run ends with the same loss; each checkpoint is evaluated as its phase trains."""
    arguments, workdir = phased
    copy = tmp_path / "again"
    shutil.copytree(workdir, copy)
    shutil.rmtree(copy / "checkpoints" / "step_00000008")
    run("pretrain", *arguments, f"--workdir={copy}")
    whole, again = ([record["loss"] for record in records(path) if record["split"] == "train" and record["step"] == 8] for path in (workdir, copy))
    assert whole == again
    run("evaluate", f"--workdir={workdir}", "--step=4")
    printed = capsys.readouterr().out
    assert "SOP accuracy" in printed and "store: MLM loss" in printed and "packages: MLM loss" in printed
    run("evaluate", f"--workdir={workdir}")
    assert "NSP accuracy" in capsys.readouterr().out


def test_what_is_off_is_said(prepared, second_store, tmp_path, capsys, caplog):
    """Random pairs that give the label away, fewer held-out sequences than asked for, a phase that does not fit, weights beside alpha."""
    both = f"--config.data.path={prepared.store},{second_store}"
    refused = [*SMALL, f"--workdir={tmp_path / 'refused'}", both]
    for overrides, message in (
        (["--config.data.weights=1,1", "--config.data.alpha=0.5"], "give one of them"),
        (["--config.data.weights=1"], "1 entries for 2 stores"),
        (["--config.length=4096"], "over model.max_positions"),
    ):
        assert main(["pretrain", *refused, *overrides]) == 1
        assert message in capsys.readouterr().err
    config = load("configs/bert_base.py", [f"config.data.path={prepared.store}", "config.model.vocab_size=0", "config.phases.1.length=4096"])
    with pytest.raises(ConfigError, match=r"phase 2 \(512\): length 4096 is over"):
        make_stages(config)
    config = load("configs/quickstart.py", [both.removeprefix("--"), "config.length=16", "config.masking.predictions=6", "config.eval.sequences=100000"])
    make_stages(config)
    assert "of the segment pairs B is random" in caplog.text and "instead of eval.sequences=100000" in caplog.text


def test_packed_documents_train(prepared, tmp_path):
    workdir = tmp_path / "packed"
    run(
        "pretrain", *SMALL, f"--workdir={workdir}", f"--config.data.path={prepared.store}", "--config.steps=4", "--config.model.nsp=false",
        "--config.data.sequences=packed_documents", "--config.masking.choice=whole_words",
    )
    last = [record for record in records(workdir) if record["split"] == "train"][-1]
    assert np.isfinite(last["loss"]) and last["tokens_per_second"] > 0


def test_phases_resolve_and_are_checked():
    base = {"steps": 0, "length": 128, "masking": {"rate": 0.15, "predictions": 20}}
    phases = phases_of(base | {"phases": [{"steps": 9}, {"name": "long", "steps": 1, "length": 512, "masking": {"predictions": 77}, "opt_state": "reset"}]})
    assert [(phase.start, phase.stop, phase.name, phase.opt_state) for phase in phases] == [(0, 9, "1", "keep"), (9, 10, "long", "reset")]
    assert phases[1].config == {"steps": 1, "length": 512, "masking": {"rate": 0.15, "predictions": 77}}
    assert phases[0].config == {"steps": 9, "length": 128, "masking": {"rate": 0.15, "predictions": 20}}
    assert [phase_at(phases, step).number for step in (1, 9, 10)] == [0, 0, 1]
    assert phases_of(base | {"steps": 5, "phases": []})[0].stop == 5
    for config, message in (
        (base | {"steps": 5, "phases": [{"steps": 9}]}, "set steps to 0"),
        (base | {"phases": [{"length": 64}]}, "phases.0.steps is 0"),
        (base | {"phases": [{"steps": 1, "opt_state": "forget"}]}, "phases.0.opt_state is 'forget'"),
        (base | {"phases": [{"steps": 1, "name": "a"}, {"steps": 1, "name": "a"}]}, "two phases are called 'a'"),
    ):
        with pytest.raises(ConfigError, match=message):
            phases_of(config)


@pytest.mark.parametrize("name", ["adamw", "adamw_bert", "muon", "adafactor"])
def test_a_phase_restarts_every_count_and_nothing_else(name):
    """With whatever optimizer, one without a count included; each new count is an array of its own, or it could not be donated."""
    params = make_encoder()
    tx = make_optimizer(spec_of(name), ENCODER_AXES)
    _, opt_state = jax.jit(tx.update)(params, tx.init(params), params)
    stage = types.SimpleNamespace(phase=types.SimpleNamespace(opt_state="restart"), run=types.SimpleNamespace(tx=tx, abstract=types.SimpleNamespace(opt_state=opt_state)))
    after = enter_phase(TrainState(jnp.int32(1), params, opt_state), stage).opt_state
    assert jax.tree.structure(after) == jax.tree.structure(opt_state)
    is_count = [getattr(path[-1], "name", None) == "count" for path, _ in jax.tree.leaves_with_path(opt_state)]
    assert any(is_count) == (name != "adamw_bert")
    for count, before, now in zip(is_count, jax.tree.leaves(opt_state), jax.tree.leaves(after)):
        np.testing.assert_array_equal(now, 0 if count else before)
    counts = [now.unsafe_buffer_pointer() for count, now in zip(is_count, jax.tree.leaves(after)) if count]
    assert len(set(counts)) == len(counts)


def test_a_phase_may_have_another_kind_of_schedule():
    linear = {"name": "linear", "peak": 1e-3, "warmup_steps": 1, "total_steps": 0, "end": 0.0, "decay_from": "warmup"}
    phases = phases_of({"steps": 0, "schedule": linear, "phases": [{"steps": 9}, {"steps": 9, "schedule": {"name": "constant", "warmup_steps": 0}}]})
    assert phases[0].config["schedule"] == linear
    assert Schedule(**phases[1].config["schedule"])(5) == np.float32(1e-3)


def test_steps_in_other_units(prepared, capsys):
    def steps(*overrides):
        stages = make_stages(load("configs/quickstart.py", [f"config.data.path={prepared.store}", "config.eval.sequences=32", "config.schedule.warmup_steps=1", *overrides]))[1]
        return stages[-1].phase.stop, stages[0].source.num_sequences

    last, sequences = steps("config.steps=2 epochs")
    assert last == -(-2 * sequences // 32)
    assert steps("config.steps=1k sequences")[0] == -(-1000 // 32)
    assert steps("config.steps=1M tokens", "config.batch_size=16")[0] == -(-(10**6) // (16 * 64))
    assert main(["pretrain", "--config=quickstart", "--workdir=nowhere", f"--config.data.path={prepared.store}", "--config.steps=a while"]) == 1
    assert "'a while' is not a length of training" in capsys.readouterr().err


def test_data_paths(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
    assert [path.name for path in data_paths(f"{tmp_path}/*")] == ["a", "b"]
    assert [path.name for path in data_paths(f"{tmp_path}/b, {tmp_path}/a")] == ["b", "a"]
    (tmp_path / "with, comma").mkdir()
    assert [path.name for path in data_paths(f"{tmp_path}/with, comma")] == ["with, comma"]
    for text, message in (("", "data.path is empty"), (f"{tmp_path}/c*", "nothing matches"), (f"{tmp_path}/a,{tmp_path}/a", "names a store twice")):
        with pytest.raises(ConfigError, match=message):
            data_paths(text)
