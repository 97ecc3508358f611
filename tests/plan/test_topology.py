"""Slices by their names: what a name counts, its shape, hosts and rings; what links make of a collective."""

import pytest

from bert_jax.plan import interconnect
from bert_jax.plan.chips import CHIPS, GPUS
from bert_jax.plan.hlo import Collective
from bert_jax.plan.topology import _SHAPES, parse_topology


@pytest.mark.parametrize(
    ("name", "chips", "devices", "hosts", "shape"),
    [
        ("v4-128", 64, 64, 16, (4, 4, 4)),  # a name of TensorCores; both cores of a chip are one device
        ("v4-8", 4, 4, 1, (2, 2, 1)),
        ("v3-32", 16, 32, 4, (4, 4)),  # each core a device
        ("v3-8", 4, 8, 1, (2, 2)),
        ("v5p-16", 8, 8, 2, (2, 2, 2)),
        ("v5e-16", 16, 16, 4, (4, 4)),  # a name of chips
        ("v5litepod-8", 8, 8, 1, (2, 4)),
        ("v6e-256", 256, 256, 64, (16, 16)),
        ("v4:4x4x12", 192, 192, 48, (4, 4, 12)),
    ],
)
def test_names_count_cores_or_chips(name, chips, devices, hosts, shape):
    found = parse_topology(name)
    assert (found.chips, found.devices, found.hosts, found.shape) == (chips, devices, hosts, shape)
    assert parse_topology(found.name) == found


def test_every_listed_slice_has_as_many_chips_as_its_shape():
    for generation, shapes in _SHAPES.items():
        for chips, shape in shapes.items():
            assert parse_topology(f"{generation}:{'x'.join(map(str, shape))}").chips == chips


def test_a_slice_says_both_its_counts():
    assert "128 TensorCores = 64 chips in 4x4x4, 64 JAX devices" in str(parse_topology("v4-128"))
    assert "8 TensorCores = 4 chips in 2x2, 8 JAX devices (one for each core)" in str(parse_topology("v3-8"))


@pytest.mark.parametrize(("name", "told"), [("v4-12", "v4-16"), ("v7-8", "v5e"), ("v4:2x2", "3 axes"), ("gpu:b9x8", "h100"), ("v3-4", "TensorCores, 2 a chip"), ("tpu", "v4-128")])
def test_unknown_names_are_told_the_known(name, told):
    with pytest.raises(ValueError, match=told):
        parse_topology(name)


def test_gpus_are_counted_in_machines():
    cluster = parse_topology("gpu:h100x64")
    assert (cluster.devices, cluster.hosts, cluster.gpu) == (64, 8, GPUS["h100"])


def test_peaks_are_of_whole_chips():
    assert CHIPS["v3"].peak_flops == 123e12 and CHIPS["v4"].peak_flops == 275e12


def test_rings_close_in_whole_cubes():
    assert parse_topology("v4-128").rings == (True, True, True)
    assert parse_topology("v4-32").rings == (False, False, False)
    assert parse_topology("v5e-256").rings == (True, True)


def test_an_all_reduce_takes_twice_a_gather_and_rings_halve_it():
    def of(kind, name, count):
        topology = parse_topology(name)
        return interconnect.seconds(Collective(kind, 10**9, tuple(range(topology.devices)), count), topology)

    everywhere = of("all-reduce", "v4-128", 1)
    assert everywhere == pytest.approx(2 * of("all-gather", "v4-128", 1), rel=1e-3)
    assert everywhere == pytest.approx(2 * 1e9 * 63 / 64 / (6 * 45e9), rel=1e-2)
    assert of("all-reduce", "v4-128", 7) == pytest.approx(7 * everywhere)
    assert of("all-reduce", "v4:2x4x4", 1) > 1.9 * everywhere  # as large, without rings


def test_one_device_needs_no_links():
    assert interconnect.seconds(Collective("all-reduce", 10**9, (0,), 1), parse_topology("v4-8")) == 0.0
