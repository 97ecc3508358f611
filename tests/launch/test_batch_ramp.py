"""Batches that grow: what a config says of them, and runs that train on the same sequences in the same order as without."""

import shutil

import jax
import numpy as np
import pytest

from bert_jax.batch import device_fields
from bert_jax.sharding import put_batch
from bert_jax.training.state import init_state
from launch.cli import main
from launch.config import ConfigError, load
from launch.data import make_source, open_data, resolve_lengths
from launch.lengths import BatchStage, batch_sizes_of
from launch.load_model import load_model
from launch.phases import phases_of
from launch.pretrain import make_dropout_key, make_stages
from launch.run import build_run, step_of
from tests.launch.conftest import SMALL, run

QUICKSTART = "configs/quickstart.py"  # batches of 32 x 64, 1,200 steps
# Two steps with batches of 8, two with 16: micro-batches of 4.
RAMP = [
    *SMALL, "--config.steps=4", "--config.batch_size=16", "--config.accumulate=4", "--config.batch_ramp.start=8", "--config.batch_ramp.sizes=1",
    "--config.batch_ramp.over=50%", "--config.schedule.warmup_steps=1", "--config.model.num_layers=1", "--config.compute.unroll=1", "--config.checkpoint.every=1",
    "--config.checkpoint.keep=9", "--config.eval.every=0",
]


def phase_of(*overrides, path=QUICKSTART):
    (phase,) = phases_of(load(path, [f"config.{override}" for override in overrides]))
    return phase


def modernbert(*overrides):
    return phases_of(
        load(
            "configs/bert_base.py",
            [
                "config.batch_size=4608", "config.accumulate=48", "config.phases.0.batch_ramp.start=768", "config.phases.0.batch_ramp.over=50B tokens",
                "config.phases.0.batch_ramp.sizes=5", "config.phases.0.steps=1.7T tokens", "config.schedule.total_steps=0", *overrides,
            ],
        )
    )


def test_a_published_ramp():
    """ModernBERT's from 768 to 4,608 over 50B tokens: each size for as many updates, micro-batches of 96 throughout, tokens as they were asked for."""
    ramped, constant = modernbert()
    stages = ramped.batch_stages
    assert [stage.batch_size for stage in stages] == [768, 1536, 2304, 3072, 3840, 4608]
    assert [stage.batch_size // stage.accumulate for stage in stages] == [96] * 6
    lengths = [stage.stop - stage.start for stage in stages]
    assert max(lengths[:5]) - min(lengths[:5]) <= 1 and sum(lengths) == ramped.stop
    tokens = [128 * stage.batch_size * length for stage, length in zip(stages, lengths)]
    assert 0 <= sum(tokens[:5]) - 50e9 < 128 * 4608 and 0 <= sum(tokens) - 1.7e12 < 128 * 4608 and sum(tokens) == 128 * ramped.sequences
    assert constant.batch_stages == [BatchStage(ramped.stop, ramped.stop + 100_000, 4608, 48)]


def test_lengths_count_the_smaller_batches():
    warmup = "config.phases.0.schedule.warmup_steps=3B tokens"
    assert modernbert(warmup)[0].config["schedule"]["warmup_steps"] == -(-3 * 10**9 // (768 * 128))  # all of it in the first size
    half = phase_of("steps=120k sequences", "batch_ramp.start=8", "batch_ramp.sizes=3", "batch_ramp.over=50%", "schedule.warmup_steps=10%")
    sizes = batch_sizes_of(half.config)
    assert sizes.sizes == (8, 16, 24, 32) and half.config["batch_ramp"]["over"] == round(half.stop / 2)
    assert sizes.before(half.stop) >= 120_000 > sizes.before(half.stop - 1) and half.config["schedule"]["warmup_steps"] == round(half.stop / 10)
    assert phase_of("batch_ramp.start=8", "batch_ramp.sizes=3", "batch_ramp.over=481 sequences").config["batch_ramp"]["over"] == 31


def test_lengths_of_a_schedule():
    phase = phase_of(
        "schedule.name=wsd", "schedule.warmup_steps=6%", "schedule.decay_steps=25%", "schedule.total_steps=1024k tokens", "schedule.end=0", "steps=1000"
    )
    assert {name: value for name, value in phase.config["schedule"].items() if "steps" in name} == {"warmup_steps": 60, "decay_steps": 250, "total_steps": 500}
    config = load("configs/bert_base.py", ["config.schedule.warmup_steps=1%"])
    kept = resolve_lengths(config)  # as it stands in a workdir: numbers, of the phase that inherits the share
    assert kept["phases"][0]["schedule"] == {"warmup_steps": 9_000} and kept["phases"][1]["schedule"]["warmup_steps"] == 0
    assert [phase.config for phase in phases_of(kept)] == [phase.config for phase in phases_of(config)]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["batch_ramp.start=32", "batch_ramp.sizes=1"], "batch_ramp.start is 32, and batch_size 32"),
        (["batch_ramp.start=24"], "batch_ramp.sizes is 0; give the number of sizes from 24 .* 1 to 1"),
        (["batch_ramp.start=16", "batch_ramp.sizes=2"], "batch_ramp.sizes is 2; .* 1 to 1 sizes that are multiples of 16"),
        (["batch_ramp.start=8", "batch_ramp.sizes=3", "batch_ramp.over=2"], "batch_ramp.over is 2 steps, for 3 sizes .* room for 3 to 1200"),
        (["batch_ramp.start=8", "batch_ramp.sizes=3", "batch_ramp.over=110%"], "batch_ramp.over is 1320 steps"),
        (["batch_ramp.start=8", "batch_ramp.sizes=3", "batch_ramp.over=2 epochs"], "batch_ramp.over: '2 epochs': the sequences of an epoch are not known"),
        (["batch_ramp.start=8", "batch_ramp.sizes=3", "batch_ramp.over=soon"], "batch_ramp.over: 'soon' is not a length of training"),
        (["steps=6%"], "steps: '6%' is a share"),
        (["batch_ramp.start=7", "batch_ramp.sizes=1", "batch_ramp.over=10", "mesh.data=4"], r"batches of 7, 32, and 7 does not divide .* over 4 devices"),
    ],
)
def test_a_ramp_that_does_not_fit_is_explained(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_run(phase_of("model.vocab_size=1000", *overrides).config, devices=jax.devices() * 4 if "mesh.data=4" in overrides else None)


@pytest.fixture(scope="module")
def ramped(prepared, tmp_path_factory, quick_compilation):
    workdir = tmp_path_factory.mktemp("ramped") / "run"
    arguments = [*RAMP, f"--config.data.path={prepared.store}"]
    run("pretrain", *arguments, f"--workdir={workdir}")
    return arguments, workdir


def params_of(workdir, step=None):
    return jax.tree.map(np.asarray, load_model(workdir, step=step).params)


def test_updates_are_those_of_the_same_sequences_cut_by_hand(ramped):
    """A run with growing batches in micro-batches of 4, beside batches put together from those of 8 of a run without a ramp, the large ones whole."""
    arguments, workdir = ramped
    config = load(QUICKSTART, [argument.removeprefix("--") for argument in arguments[1:]])
    stage = make_stages(config)[1][0]
    assert [(part.batch_size, part.accumulate, part.stop) for part in stage.phase.batch_stages] == [(8, 2, 2), (16, 4, 4)]
    pieces = make_source(stage.config, open_data(config), stage.run.mesh, batch_size=8).batches()
    state = init_state(stage.run.blueprint, stage.run.tx, stage.run.abstract, jax.random.key(config["seed"]))
    steps = {8: step_of(stage.run, accumulate=2, first_step=0), 16: step_of(stage.run, accumulate=1, first_step=0)}
    with jax.set_mesh(stage.run.mesh):
        for count in (1, 1, 2, 2):
            parts = [next(pieces) for _ in range(count)]
            batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            state, _ = steps[8 * count](state, put_batch(device_fields(batch), stage.run.mesh), make_dropout_key(config))
    for mine, by_hand in zip(jax.tree.leaves(params_of(workdir)), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(mine, by_hand, atol=2e-5)


def test_a_run_continues_within_its_ramp(ramped, tmp_path, capsys):
    arguments, workdir = ramped
    copy = tmp_path / "again"
    shutil.copytree(workdir, copy)
    for step in (2, 3, 4):
        shutil.rmtree(copy / "checkpoints" / f"step_{step:08d}")
    run("pretrain", *arguments, f"--workdir={copy}")
    for again, whole in zip(jax.tree.leaves(params_of(copy)), jax.tree.leaves(params_of(workdir)), strict=True):
        np.testing.assert_array_equal(again, whole)
    assert "step       3  the first batch of 16 sequences x" in capsys.readouterr().err


def test_every_command_knows_the_ramp(ramped, prepared, tmp_path, capsys):
    arguments, workdir = ramped
    run("evaluate", f"--workdir={workdir}", "--step=1")
    run("inspect", str(workdir), "--step=2", "--rows=16")
    assert "batch of step 2" in capsys.readouterr().out
    assert main(["record", *arguments, "--batches=2", f"--output={tmp_path / 'recorded'}"]) == 1
    assert "--config.batch_ramp.start=0" in capsys.readouterr().err
    run("record", *arguments, "--config.batch_ramp.start=0", "--batches=2", f"--output={tmp_path / 'recorded'}")
    assert main(["pretrain", *arguments, f"--workdir={tmp_path / 'run'}", f"--config.data.path={tmp_path / 'recorded'}"]) == 1
    assert "was recorded with batch_ramp.start=0" in capsys.readouterr().err


def test_a_phase_may_change_what_no_parameter_depends_on(prepared):
    changes = ["config.phases.1.model.dropout=0.3", "config.phases.1.length=128", "config.model.vocab_size=0", f"config.data.path={prepared.store}"]
    config = load("configs/bert_base.py", [*changes, *(f"config.model.{size}" for size in ("hidden_size=32", "num_heads=2", "intermediate_size=64"))])
    kept, stages = make_stages(config)
    assert [stage.run.blueprint.spec.encoder.dropout for stage in stages] == [0.1, 0.3]
    assert kept["model"]["dropout"] == 0.1 and kept["model"]["vocab_size"] == stages[0].data.vocab_size
    with pytest.raises(ConfigError, match="may change .*model.dropout.*, but not 'model.hidden_size'"):
        load("configs/bert_base.py", ["config.phases.1.model.hidden_size=64"])
    config["phases"][1]["model"]["intermediate_size"] = 128
    with pytest.raises(ConfigError, match=r"phase 2 \(512\) has .*model.intermediate_size=128 \(before: 64\), which makes other parameters"):
        make_stages(config)
