"""Any mesh of eight virtual CPU devices, with ZeRO-1 or without, computes what one device does; arrays are cut as the rules say; nothing travels that
should not; a checkpoint of one mesh fits all others.

The everyday cases cover every axis. All the others take minutes to compile: `python -m pytest tests/training/test_sharding.py -m slow`.
"""

import functools
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from bert_jax.model.families import build_spec
from bert_jax.sharding import MESH_AXES, RULES, shard_over_data
from bert_jax.training.state import make_blueprint
from bert_jax.training.transformations import is_axes
from tests.training.conftest import LENGTH, SLOTS
from tests.training.mesh_runs import BERT, ROWS, names

# (data, fsdp, tensor), zero1, accumulate
EVERYDAY = [((8, 1, 1), True, 2), ((2, 2, 2), True, 2)]
ALL = [
    ((data, fsdp, tensor), zero1, 1)
    for data, fsdp, tensor in itertools.product((1, 2, 4, 8), repeat=3)
    if data * fsdp * tensor == 8
    for zero1 in ((False, True) if data > 1 else (False,))
]
CASES = [*EVERYDAY, *(pytest.param(case, marks=pytest.mark.slow) for case in ALL if case not in EVERYDAY)]
BLUEPRINT = make_blueprint(build_spec(BERT))
SHAPES, AXES = names(jax.tree.map(lambda leaf: leaf.shape, BLUEPRINT.params), is_axes), names(BLUEPRINT.axes, is_axes)


class Collective(NamedTuple):
    kind: str
    arrays: list
    axes: list[str]
    times: int
    bytes: int


def run_cases(directory: Path, cases: list, subject: str = "bert") -> dict:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.mesh_runs", str(directory), json.dumps(cases), subject],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], env=os.environ | {"XLA_FLAGS": flags},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return dict(zip(cases, json.loads(result.stdout.splitlines()[-1])))


@pytest.fixture(scope="module")
def report_of(tmp_path_factory):
    """The report of a case; the everyday cases run together in one process, all others in another, the first time one is asked for."""

    @functools.cache
    def reports(everyday: bool) -> dict:
        cases = EVERYDAY if everyday else [case for case in ALL if case not in EVERYDAY]
        return run_cases(tmp_path_factory.mktemp("checkpoints"), cases)

    return lambda case: reports(case in EVERYDAY)[case]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_mesh_computes_what_one_device_does(report_of, case):
    farthest = report_of(case)["farthest"]
    assert farthest["loss"] < 1e-6 and farthest["gradients"] < 1e-5 and farthest["params"] < 1e-5


@pytest.mark.parametrize("subject", ["electra", "distillation", "multiple_negatives", "deberta_v3", "longformer", "big_bird", pytest.param("deberta", marks=pytest.mark.slow)])
def test_other_objectives_are_the_same_on_every_mesh_too(subject, tmp_path):
    """With two networks in the state, with one in it and a teacher beside it, with rows that are compared: whether each device sees its own alone, or the compiler divides the work."""
    for report in run_cases(tmp_path, [((8, 1, 1), True, 1), ((2, 2, 2), True, 1)], subject).values():
        farthest = report["farthest"]
        assert farthest["loss"] < 1e-6 and farthest["gradients"] < 1e-5 and farthest["params"] < 1e-5


@pytest.mark.parametrize("subject", ["lora", pytest.param("bottleneck", marks=pytest.mark.slow), pytest.param("frozen", marks=pytest.mark.slow)])
def test_a_part_is_trained_alike_on_every_mesh(subject, tmp_path):
    (report,) = run_cases(tmp_path, [((2, 2, 2), True, 1)], subject).values()
    farthest, params, moments = report["farthest"], *(report["shapes"][name] for name in ("params", "opt_state"))
    assert farthest["loss"] < 1e-6 and farthest["gradients"] < 1e-5 and farthest["params"] < 1e-5 and report["restored"]
    added = {  # a path -> its shape, and that on one device: cut over fsdp and tensor as the matrices beside them
        "lora": {"attention.query.lora.a": [[4, 64, 8], [4, 32, 8]], "attention.query.lora.b": [[4, 8, 8, 8], [4, 8, 4, 8]], "mlp.down.lora.a": [[4, 112, 8], [4, 56, 8]]},
        "bottleneck": {"attention_adapter.down.kernel": [[4, 64, 24], [4, 32, 24]], "mlp_adapter.up.kernel": [[4, 24, 64], [4, 24, 32]]},
        "frozen": {"mlp.up.kernel": [[4, 64, 112], [4, 32, 56]]},
    }[subject]
    for name, (whole, piece) in added.items():
        assert params[f"encoder.layers.{name}"] == [whole, [piece]]
        trained = [whole[0] // 2 if subject == "frozen" else whole[0], *whole[1:]]
        both = [value for path, value in moments.items() if path.endswith(f"u.encoder.layers.{name}")]  # mu and nu
        assert len(both) == 2
        for held, pieces in both:
            assert held == trained and all(math.prod(one) == math.prod(piece) * trained[0] // whole[0] // 2 for one in pieces)  # over data too
    assert not any("tokens" in path for path in moments)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_parameter_and_moment_is_cut_as_the_rules_say(report_of, case):
    (data, fsdp, tensor), zero1, _ = case
    shapes = report_of(case)["shapes"]
    assert shapes["params"].keys() == SHAPES.keys()
    moments = {name: value for name, value in shapes["opt_state"].items() if value[0]}
    assert len(moments) == 2 * len(SHAPES)
    for name, shape in SHAPES.items():
        pieces = [{"fsdp": fsdp, "tensor": tensor, None: 1}[RULES[axis]] for axis in AXES[name]]
        own = [size // count for size, count in zip(shape, pieces)]
        held, on_devices = shapes["params"][name]
        assert held == list(shape) and [math.prod(piece) for piece in on_devices] == [math.prod(own) // (data if zero1 else 1)], name
        for whole, on_devices in (value for other, value in moments.items() if other.endswith(f"u.{name}")):  # mu and nu
            assert whole == list(shape)
            assert [math.prod(piece) for piece in on_devices] == [math.prod(own) // (data if zero1 else 1)], name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_only_what_has_to_travel_travels(report_of, case):
    (data, fsdp, tensor), zero1, accumulate = case
    found = [Collective(kind, arrays, axes, times, size) for kind, arrays, axes, times, size, _ in report_of(case)["collectives"]]
    sizes = {name: 4 * math.prod(shape) // (tensor if {"heads", "mlp", "vocab"} & {*AXES[name]} else 1) for name, shape in SHAPES.items()}
    in_layers = {name for name in SHAPES if AXES[name][0] == "layers"}
    over_fsdp = {name for name in SHAPES if "embed" in AXES[name]}

    def gathered(*axes):
        return sum(one.times * one.bytes for one in found if one.kind == "all-gather" and one.axes == [*axes])

    # With ZeRO-1 the parameters, once, over data (and a few bytes for the layers' norms).
    new = sum(size // (fsdp if name in over_fsdp else 1) for name, size in sizes.items())
    assert gathered("data") == pytest.approx(new if zero1 else 0, abs=100)
    # Parameters over fsdp before they are used: those in layers in both directions, the others once.
    used = accumulate * sum(sizes[name] * (2 if name in in_layers else 1) for name in over_fsdp)
    assert 0 < gathered("fsdp") <= used if fsdp > 1 else gathered("fsdp") == 0
    # Each device's best prediction over tensor, for the accuracy.
    assert gathered("tensor") <= ROWS // (data * fsdp) * SLOTS * tensor * (4 + 4)
    assert sum(one.times * one.bytes for one in found if one.kind == "all-gather") == gathered("data") + gathered("fsdp") + gathered("tensor")

    # Activations are summed over tensor, and travel no other way.
    for one in found:
        big = [shape for _, shape in one.arrays if math.prod(shape) > ROWS * SLOTS * tensor]
        activations = [shape for shape in big if len(shape) > 2 and {LENGTH, SLOTS} & {*shape}]
        if one.axes == ["tensor"]:
            assert big == activations and (not big or one.kind == "all-reduce"), one
        else:
            assert not activations, one

    # Gradients are summed over data alone once a step. Over data and fsdp: at once, or over fsdp and then, in pieces, over data, and the table has two: as looked up, and as the decoder.
    table = sizes["encoder.embed.tokens.embedding"]
    gradients = sum(sizes.values()) if data == 8 else accumulate * (sum(sizes.values()) * (2 if data > 1 and fsdp > 1 else 1) + table)
    reduced = sum(one.times * one.bytes for one in found if one.kind in ("all-reduce", "reduce-scatter") and {*one.axes} <= {"data", "fsdp"})
    assert reduced <= (1.02 * gradients if data * fsdp > 1 else 0)
    others = sum(one.times * one.bytes for one in found if one.kind in ("all-to-all", "collective-permute"))
    assert others <= 0.01 * sum(sizes.values())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_checkpoint_of_another_mesh_is_restored(report_of, case):
    """That of the process's first case; this one's own is restored on one device."""
    assert report_of(case)["restored"]


def test_zero1_cuts_the_first_free_axis_that_divides():
    mesh = AbstractMesh((4, 2, 2), MESH_AXES, axis_types=(AxisType.Auto,) * 3)

    def cut(shape, *spec):
        return shard_over_data(NamedSharding(mesh, PartitionSpec(*spec)), shape).spec

    assert cut((24, 64, 128), None, "fsdp", "tensor") == PartitionSpec("data", "fsdp", "tensor")
    assert cut((6, 64, 128), None, "fsdp", None) == PartitionSpec(None, "fsdp", "data")
    assert cut((6, 64, 128), None, "fsdp", "tensor") == PartitionSpec(None, ("fsdp", "data"), "tensor")
    assert cut((6, 4, 16), None, "fsdp", "tensor") == PartitionSpec(None, "fsdp", ("tensor", "data"))
    assert cut((6,), None) == PartitionSpec(None)
