"""From measured programs to a step: bounds, extrapolation over depth and micro-batches, and what is tried when memory runs out."""

import dataclasses

import pytest

from bert_jax.model.spec import REMAT
from bert_jax.plan.chips import GIB
from bert_jax.plan.compiled import Measured, OutOfMemory, from_json
from bert_jax.plan.estimate import estimate, unroll
from bert_jax.plan.hlo import Collective, Kernel
from bert_jax.plan.topology import parse_topology
from launch.config import ConfigError
from launch.phases import Phase
from launch.plan import plan
from launch.plan.programs import Shapes

V4 = parse_topology("v4-8")
LAYER, REST = 1e12, 3e11  # FLOPs; as bytes a hundredth of each


def measured(layers: int, **changes) -> Measured:
    flops = REST + layers * LAYER
    fields = dict(
        flops=flops, products=flops, bytes=flops / 100, cycles=flops / 1e6, optimal_seconds=flops / 2e14, compiler_bytes=flops / 50, arguments=5, outputs=4, aliased=3, temporaries=7, code=2,
        collectives=(), kernels=(), operations=(),
    )
    return Measured(**fields | changes)


def step_of(whole: Measured):
    return estimate(whole, V4, model_flops=24e12)


def unrolled_of(whole: Measured, accumulate: int = 1, update_bytes: float = 0.0):
    return unroll({1: measured(1), 2: measured(2)}, whole, V4, layers=24, accumulate=accumulate, update_bytes=update_bytes)


def test_two_depths_give_the_full_one():
    unrolled = unrolled_of(measured(24))
    assert (unrolled.layer_flops, unrolled.layer_bytes, unrolled.rest_bytes) == pytest.approx((LAYER, LAYER / 50, REST / 50))
    assert unrolled.compiler_seconds == pytest.approx((REST + 24 * LAYER) / 2e14)
    assert unrolled.schedule_seconds == pytest.approx(step_of(measured(24)).schedule_seconds)


def test_micro_batches_repeat_all_but_the_update():
    once, often = unrolled_of(measured(24)), unrolled_of(measured(24), accumulate=8, update_bytes=1.2e9)
    assert often.compiler_seconds == pytest.approx(8 * once.compiler_seconds - 7e-3)
    assert often.layer_bytes == once.layer_bytes


def test_the_larger_part_bounds_the_step():
    step = step_of(measured(24))
    assert step.flops_ratio == pytest.approx((REST + 24 * LAYER) / 24e12)
    assert step.bound == "memory bandwidth" and step.roofline_seconds == pytest.approx(step.bytes / 1.2e12)
    flooded = step_of(measured(24, cycles=1.05e6, collectives=(Collective("all-reduce", 10**11, (0, 1, 2, 3), 1),)))
    assert flooded.bound == "interconnect" and flooded.seconds == pytest.approx(flooded.collective_seconds + 1e-3)
    assert step.mfu(step.flops / step.peak_flops) == pytest.approx(1 / step.flops_ratio)


def test_custom_kernels_count_by_their_stated_cost():
    plain, kernel = step_of(measured(24)), Kernel("attention", 24, 275e9, 1.2e6, 1e6)
    assert step_of(measured(24, kernels=(kernel,))).schedule_seconds - plain.schedule_seconds == pytest.approx(24 * 2e-3)  # at half of the peak


def test_peak_memory_adds_up_and_measurements_survive_json():
    whole = measured(2, collectives=(Collective("all-gather", 8, (0, 1), 2),), kernels=(Kernel("k", 1, None, None, 3.0),))
    assert whole.peak == 5 + 4 - 3 + 7 + 2
    assert from_json(dataclasses.asdict(whole) | {"collectives": [dataclasses.asdict(one) | {"devices": [0, 1]} for one in whole.collectives], "kernels": [dataclasses.asdict(whole.kernels[0])], "operations": []}) == whole


def test_the_compilers_refusal_is_read():
    error = OutOfMemory("CompileTimeHbmOom: the total memory required for HLO temporaries (41.50G) exceeds available HBM (30.75G). HLO module: x")
    assert (error.needed, error.capacity) == (41.5 * 2**30, 30.75 * 2**30)
    assert OutOfMemory("E: Used 17.2G of 15.48G hbm. Exceeded").needed == pytest.approx(17.2 * 2**30)
    assert OutOfMemory("no figures").needed is None


def settings(batch_size: int, accumulate: int, search: bool) -> list[tuple[int, str]]:
    config = {"batch_size": batch_size, "accumulate": accumulate, "length": 512, "compute": {"remat": "none"}}
    return list(plan.settings_to_try(config, 4, search))


def test_what_does_not_fit_is_halved():
    assert settings(96, 3, search=False) == [(3, "none"), (6, "none"), (12, "none"), (24, "none")]
    assert settings(8, 2, search=False) == [(2, "none")]


def test_a_search_goes_from_large_micro_batches_to_small_for_every_remat():
    tried = settings(64, 2, search=True)
    assert tried[:5] == [(1, "full"), (2, "full"), (4, "full"), (8, "full"), (16, "full")]
    assert {remat for _, remat in tried} == set(plan.REMATS) == set(REMAT) and len(tried) == 20


@pytest.mark.parametrize(("devices", "axes"), [((0, 1), "tensor"), ((0, 2), "fsdp"), ((0, 4), "data"), ((0, 2, 4, 6), "data x fsdp"), ((3,), "none")])
def test_groups_are_named_by_the_axes_they_span(devices, axes):
    assert plan.axes_of(devices, {"data": 2, "fsdp": 2, "tensor": 2}) == axes


class Fits:
    """Programs of which those with at most so many rows on a device fit; time falls with the rows."""

    def __init__(self, rows: int):
        self.rows, self.seen = rows, []

    def measure(self, config, mask_id=None):
        rows = config["batch_size"] // (config["accumulate"] * 4)
        self.seen.append((rows, config["compute"]["remat"]))
        if rows > self.rows * (1 if config["compute"]["remat"] == "none" else 2):
            raise OutOfMemory("temporaries (99.00G) exceeds available HBM (30.75G)")
        slower = 1 if config["compute"]["remat"] == "none" else 1.2
        return measured(2, cycles=1e9 * slower * (1 + 1 / rows), temporaries=rows)


def best_of(programs: Fits, search: bool):
    config = {"batch_size": 128, "accumulate": 1, "length": 512, "compute": {"remat": "none"}}
    shapes = Shapes({"data": 4, "fsdp": 1, "tensor": 1}, 1, 1, 1, 1, 1, 1, 1.0)
    return plan.best_setting(Phase(0, "", 0, 1, "keep", config), V4, programs, shapes, None, search, lambda _: None)


def test_the_first_that_fits_is_taken_and_the_refused_are_told():
    config, _, tried = best_of(Fits(8), search=False)
    assert config["accumulate"] == 4 and [one.seconds is None for one in tried] == [True, True, False]
    assert tried[0].memory == 99 * GIB


def test_a_search_finds_the_fastest_that_fits_among_all_remats():
    programs = Fits(8)
    config, whole, tried = best_of(programs, search=True)
    assert (config["accumulate"], config["compute"]["remat"]) == (4, "none") and whole.temporaries == 8
    assert {one.remat for one in tried if one.seconds} == set(plan.REMATS)
    assert [remat for rows, remat in programs.seen if rows == 32] == ["full"]  # what does not fit with most recomputed is not tried with less


def test_where_nothing_fits_it_says_how_much_is_needed():
    with pytest.raises(ConfigError, match="needs 99.0 GiB of a device's 30.8.*mesh.fsdp"):
        best_of(Fits(0), search=False)
