"""The `plan` command where nothing is compiled: GPUs by arithmetic, pages from given figures, and what it refuses."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from bert_jax.plan.compiled import Measured
from bert_jax.plan.estimate import Unrolled, estimate
from bert_jax.plan.hlo import Collective, Operation
from bert_jax.plan.topology import parse_topology
from launch.cli import main
from launch.config import ConfigError, load
from launch.phases import phases_of
from launch.plan import page as plan_page
from launch.plan.plan import Candidate, PhasePlan, Plan, setting_of, traffic_of, with_chip_batch
from launch.plan.programs import Shapes, batch_shapes, shallow, timeless
from launch.run import compute_of

GIB = 2**30
UNROLLED = Unrolled(layer_flops=1e12, layer_bytes=1.5e9, rest_bytes=2e9, compiler_seconds=0.25, schedule_seconds=0.3)


def make_plan(**changes) -> Plan:
    """Of BERT-large's two phases on a v4-32, from figures given here."""
    topology, config = parse_topology("v4-32"), load("bert_large", [])
    fields = dict(
        flops=24e12, products=23e12, bytes=24e10, cycles=1e7, optimal_seconds=0.01, compiler_bytes=1e10, arguments=2 * GIB, outputs=2 * GIB, aliased=2 * GIB, temporaries=20 * GIB, code=GIB // 2,
        collectives=(Collective("all-reduce", 10**8, tuple(range(16)), 24),), kernels=(),
        operations=(Operation("jvp()/while/body/closed_call/bld,df->blf/dot_general", "fusion", 24, 10**7),),
    )
    measured = Measured(**fields)
    shapes = Shapes({"data": 16, "fsdp": 1, "tensor": 1}, 336_000_000, GIB, GIB // 2, GIB // 8, 2**20, 3 * GIB, 2.4e11)
    phases = []
    for phase in phases_of(config):
        step = estimate(measured, topology, shapes.model_flops * 16, UNROLLED)
        phases.append(PhasePlan(
            len(phases), phase.name, phase.stop - phase.start, 256 * (phase.stop - phase.start), phase.config, setting_of(phase.config), fits=True, needed=None, shapes=shapes, measured=measured,
            step=step, traffic=traffic_of(measured, shapes.mesh, topology), tried=(Candidate(1, "none", 20 * GIB, 0.1),),
        ))  # fmt: skip
        phases[-1] = type(phases[-1])(**vars(phases[-1]) | changes)
    return Plan(config, topology, tuple(phases), price=3.0)


def test_a_page_says_what_a_person_decides_from():
    plan = make_plan()
    page = plan_page.to_markdown(plan, "bert_large")
    for words in ("It fits", "22.50 GiB of a device's 30.75 GiB", "32 TensorCores = 16 chips", "336.0M parameters", "12.00 GiB of disk", "900,000 steps of 256 x 128", "at 3 per chip-hour",
                  "| all-reduce | data | 24 | 2,400.0 MB |", "bound by memory bandwidth", "| `bld,df->blf/dot_general` | fusion | 24 | 9.52 ms |", "4 host(s) feeds", "1.50 GB a layer and micro-batch", "do not prove speed"):  # fmt: skip
        assert words in page, words
    assert plan.seconds == pytest.approx(sum(phase.sequences / phase.rate for phase in plan.phases))
    figures = json.loads(json.dumps(plan_page.to_json(plan)))
    assert figures["cost"] == pytest.approx(plan.seconds / 3600 * 16 * 3) and figures["phases"][1]["memory"]["peak"] == 22.5 * GIB


def test_a_page_says_what_would_fit():
    plan = make_plan(fits=False, needed=50 * GIB, asked=(1, "none"), config=phases_of(load("bert_large", ["config.accumulate=2"]))[0].config)
    page = plan_page.to_markdown(plan, "bert_large")
    assert "does not fit as configured" in page and "needs 50.00 GiB" in page and "--config.phases.0.accumulate=2" in page
    alone = Plan(plan.config, plan.topology, plan.phases[1:], None)  # as with --phase=1
    assert "--config.phases.1.accumulate=2" in plan_page.to_markdown(alone, "bert_large") and "phases.0." not in plan_page.to_markdown(alone, "bert_large")


def test_a_page_warns_of_an_evaluation_that_does_not_divide():
    plan = make_plan(config=phases_of(load("bert_large", ["config.eval.batch_size=250"]))[0].config)
    assert "--config.eval.batch_size=256" in plan_page.to_markdown(plan, "bert_large")


def test_gpus_by_arithmetic(capsys):
    status = main(["plan", "--config=bert_base", "--topology=gpu:h100x8", "--json", "--price=2"])
    figures = json.loads(capsys.readouterr().out)
    assert status == 0 and figures["fits"] and figures["topology"]["hosts"] == 1
    first, second = figures["phases"]
    assert 69.9e9 == pytest.approx(first["shapes"]["model_flops"], rel=0.01) and 300.9e9 == pytest.approx(second["shapes"]["model_flops"], rel=0.01)
    shapes = first["shapes"]
    assert 110e6 * 2 < shapes["gathered"] < 110e6 * 2.6 and shapes["weights"] == pytest.approx(110e6 * 4 / 8, rel=0.02)  # bfloat16 but for embeddings; a piece of float32
    assert second["memory"] > first["memory"] > shapes["weights"] * 3 + shapes["gathered"] * 2
    assert figures["cost"] == pytest.approx(figures["seconds"] / 3600 * 8 * 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=bert_base", "--topology=v4-12"], "v4-16"),
        (["--config=quickstart", "--topology=gpu:h100x1"], "model.vocab_size"),
        (["--config=bert_base", "--topology=gpu:h100x48"], "use a multiple of 48"),
        (["--config=bert_base", "--topology=gpu:h100x8", "--search", "--phase=0"], "--search, --phase would change nothing"),
        (["--config=bert_base", "--topology=gpu:h100x8", "--price=-2"], "--price=-2"),
        (["--config=bert_base", "--topology=v4-8", "--price=nan"], "--price=nan"),
    ],
)
def test_what_it_refuses(arguments, told, capsys):
    assert main(["plan", *arguments]) == 1
    assert told in capsys.readouterr().err


def test_a_batch_for_each_chip_holds_for_all_phases():
    phases = phases_of(with_chip_batch(load("bert_large_lamb_64k", []), 64))
    assert {(phase.config["batch_size"], phase.config["accumulate"]) for phase in phases} == {(64, 1)}


def test_programs_of_few_layers_are_one_micro_batch():
    config = shallow(phases_of(load("bert_large_lamb_64k", []))[0].config, 2)
    assert config["batch_size"] == 1024 and config["model"]["num_layers"] == config["compute"]["unroll"] == 2


def test_phases_that_differ_in_schedule_and_seed_share_their_program():
    overrides = [f"config.phases.1.{override}" for override in ("length=128", "masking.predictions=20", "batch_size=65536", "accumulate=64", "steps=7038")]
    first, second = (phase.config for phase in phases_of(load("bert_large_lamb_64k", overrides)))
    assert first["schedule"] != second["schedule"]
    assert timeless(first) == timeless(second | {"seed": 3})


@pytest.mark.parametrize(("kind", "attention"), [("TPU v3", "xla"), ("TPU v4", "pallas"), ("TPU v6 lite", "pallas")])
def test_attention_is_what_the_chip_can_compile(kind, attention):
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(device_kind=kind, platform="tpu")]))
    assert compute_of(load("bert_base", []), mesh).attention == attention
    asked = load("bert_base", ["config.compute.attention=pallas"])
    if attention == "xla":
        with pytest.raises(ConfigError, match="needs a TPU v4 or newer, not TPU v3"):
            compute_of(asked, mesh)
    else:
        assert compute_of(asked, mesh).attention == "pallas"


def test_batches_have_the_fields_of_their_objective():
    config = load("bert_base", [])
    config |= {"batch_size": 8}
    assert "nsp_labels" in batch_shapes(config) and batch_shapes(config)["mlm_positions"] == ((8, 20), batch_shapes(config)["input_ids"][1])
    packed = config | {"model": config["model"] | {"nsp": False}, "data": config["data"] | {"sequences": "packed_documents"}}
    assert "position_ids" in batch_shapes(packed) and "nsp_labels" not in batch_shapes(packed)
