"""A tiny model's update compiled by libtpu for four v4 chips, where libtpu is installed: FLOPs, memory and collectives as they must be."""

import copy

import pytest

from bert_jax.plan.topology import parse_topology
from launch.config import load
from launch.phases import phases_of

pytest.importorskip("libtpu")
OVERRIDES = (
    "model.vocab_size=512", "model.num_layers=1", "model.hidden_size=256", "model.num_heads=2", "model.intermediate_size=1024", "model.nsp=false",
    "data.sequences=full_sentences", "mesh.data=2", "mesh.fsdp=2", "batch_size=32",
)  # fmt: skip


@pytest.fixture(scope="module")
def programs():
    from launch.plan.programs import Programs

    with Programs(parse_topology("v4-8")) as programs:
        yield programs


@pytest.fixture(scope="module")
def config():
    return phases_of(load("bert_tiny", [f"config.{override}" for override in OVERRIDES]))[0].config


@pytest.fixture(scope="module")
def planned(programs, config):
    return programs.shapes(config), programs.measure(config)


def test_flops_are_the_models(planned, config):
    shapes, measured = planned
    assert shapes.mesh == {"data": 2, "fsdp": 2, "tensor": 1}
    assert 1.0 < measured.flops / (shapes.model_flops * config["batch_size"] / 4) < 1.25  # the update's are not small in so small a model


def test_memory_adds_up(planned):
    shapes, measured = planned
    state = shapes.weights + shapes.opt_state
    assert state + shapes.batch <= measured.arguments < 1.5 * (state + shapes.batch)  # small arrays are padded to tiles
    assert measured.aliased > 0.9 * state  # the state is donated
    assert measured.peak > measured.arguments + measured.temporaries


def test_collectives_of_data_and_fsdp_are_found(planned):
    from launch.plan.plan import traffic_of

    shapes, measured = planned
    traffic = traffic_of(measured, shapes.mesh, parse_topology("v4-8"))
    spanned = {axis for one in traffic for axis in one.axes.split(" x ")}
    assert {"data", "fsdp"} <= spanned and all(one.seconds > 0 for one in traffic)
    gathered = sum(one.bytes for one in traffic if one.kind == "all-gather")
    assert gathered > 0.5 * shapes.num_params * 2  # fsdp: most weights are gathered, in bfloat16 at least


def test_what_does_not_divide_is_told_as_pretrain_tells_it(programs, config):
    wrong = copy.deepcopy(config) | {"batch_size": 30}
    with pytest.raises(ValueError, match="use a multiple of 4"):
        programs.measure(wrong)
    programs.shapes(config)  # and the process goes on
