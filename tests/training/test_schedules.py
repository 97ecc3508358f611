"""Schedules against float64 formulas and transformers' own; lengths of training in other units; sections that fit their name."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import optimization as theirs

from bert_jax.training.durations import resolve_steps
from bert_jax.training.named_fields import OPTIMIZERS, SCHEDULES
from bert_jax.training.optim import OptimizerSpec
from bert_jax.training.schedules import Schedule
from launch import config as configs
from launch.config import ConfigError
from launch.fields import FIELDS

PEAK, END = 7e-4, 2e-6


def example(name, warmup=10, total=110):
    """A schedule of each name."""
    values = dict(
        peak=PEAK, warmup_steps=warmup, total_steps=total, power=0.5, end=END, decay_from="warmup", start=PEAK / 4,
        decay_steps=total * 3 // 10,
    )
    return Schedule(name=name, **{field: values[field] for field in SCHEDULES[name]})


def formula(schedule, step):
    """As published, in Python's float64, without a thought for cancellation."""
    s = schedule
    if s.name == "triangle":  # JonasGeiping/cramming, get_budget_triangle; ours has an end
        rise, fall = s.start + (s.peak - s.start) * step / s.warmup_steps, (s.total_steps - step) / (s.total_steps - s.warmup_steps)
        return rise if step < s.warmup_steps else s.end + (s.peak - s.end) * max(fall, 0.0)
    if step < s.warmup_steps:
        return s.peak * step / s.warmup_steps
    if s.name == "constant":
        return s.peak
    if s.name == "inverse_sqrt":  # fairseq
        return max(s.end, s.peak * s.warmup_steps**0.5 * step**-0.5)
    step = min(step, s.total_steps)
    if s.name == "wsd":
        progress = max(0.0, step - (s.total_steps - s.decay_steps)) / s.decay_steps
        return s.end + (s.peak - s.end) * (1 - math.sqrt(progress))
    first = 0 if s.decay_from == "start" else s.warmup_steps
    progress = (step - first) / (s.total_steps - first)
    if s.name == "cosine":
        return s.end + (s.peak - s.end) * 0.5 * (1 + math.cos(math.pi * progress))
    return s.end + (s.peak - s.end) * (1 - progress) ** (1.0 if s.name == "linear" else s.power)


@pytest.mark.parametrize("warmup, total", [(10, 110), (31_337, 12_345_677), (2**24 + 3, 2**30 + 1)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_equals_its_formula_to_the_last_step(name, warmup, total):
    schedule = example(name, warmup, total)
    edges = [0, 1, warmup - 1, warmup, warmup + 1, total - total * 3 // 10, total - 2, total - 1, total, total + 1, 2**31 - 1]
    steps = np.array(edges + list(np.random.default_rng(0).integers(0, total, 200)))
    ours = jax.jit(jax.vmap(schedule))(steps.astype(np.int32))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, [formula(schedule, int(step)) for step in steps], rtol=2e-6, atol=1e-6 * END)


def test_a_python_int_and_a_traced_step_give_the_same():
    for name in SCHEDULES:
        schedule = example(name)
        traced = jax.jit(schedule)
        for step in (0, 5, 50, 99):
            np.testing.assert_allclose(schedule(step), traced(jnp.int32(step)), rtol=1e-6)


def test_late_steps_still_differ():
    """A rate computed as 1 - progress in float32 stands still for many steps at the end of ten million."""
    schedule = Schedule(peak=1.0, warmup_steps=0, total_steps=10**7, end=0.0, decay_from="warmup", name="linear")
    np.testing.assert_allclose([float(schedule(10**7 - left)) for left in (1, 2, 3, 4)], [1e-7, 2e-7, 3e-7, 4e-7], rtol=1e-6)


@pytest.mark.parametrize("name", ["linear", "polynomial", "cosine", "inverse_sqrt", "wsd", "constant"])
def test_equals_transformers(name):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    if name == "wsd":
        schedule = theirs.get_wsd_schedule(optimizer, 10, 33, 110, decay_type="1-sqrt", min_lr_ratio=END / PEAK)
    elif name == "polynomial":
        schedule = theirs.get_polynomial_decay_schedule_with_warmup(optimizer, 10, 110, lr_end=END, power=0.5)
    elif name == "constant":
        schedule = theirs.get_constant_schedule_with_warmup(optimizer, 10)
    else:
        make = {
            "linear": theirs.get_linear_schedule_with_warmup, "cosine": theirs.get_cosine_schedule_with_warmup,
            "inverse_sqrt": theirs.get_inverse_sqrt_schedule,
        }[name]
        schedule = make(optimizer, 10, **({} if name == "inverse_sqrt" else {"num_training_steps": 110}))
    ours = example(name)
    if name in ("linear", "cosine", "inverse_sqrt"):  # theirs have no end
        ours = dataclasses.replace(ours, end=0.0)
    # Their wsd warms up from its end, ours from 0; their cosine rises again after the end.
    steps = np.arange(10 if name == "wsd" else 0, 111 if name == "cosine" else 130, dtype=np.int32)
    expected = [PEAK * schedule.lr_lambdas[0](int(step)) for step in steps]
    np.testing.assert_allclose(jax.vmap(ours)(steps), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "schedule, step, rate",
    [
        (Schedule(1.0, 10, 110, 1.0, 0.0, "warmup"), 60, 0.5),
        (Schedule(1.0, 10, 110, 1.0, 0.0, "warmup"), 500, 0.0),
        (Schedule(1.0, 10, 100, 1.0, 0.0, "start"), 10, 0.9),  # google-research/bert falls to what it would have been without a warmup
        (Schedule(1.0, 10, 100, 1.0, 0.0, "start"), 9, 0.9),
        (Schedule(1.0, 0, 100, 0.5, 0.0, "warmup"), 75, 0.5),
        (Schedule(1.0, 0, 100, 1.0, 0.2, "warmup"), 50, 0.6),
        (Schedule(1.0, 10, 100, end=0.001, decay_steps=40, name="wsd"), 60, 1.0),
        (Schedule(1.0, 10, 100, end=0.001, decay_steps=40, name="wsd"), 70, 0.5005),
        (Schedule(1.0, 75, 100, end=0.0, start=0.25, name="triangle"), 25, 0.5),
        (Schedule(1.0, 75, 100, end=0.0, start=0.25, name="triangle"), 90, 0.4),
        (Schedule(1.0, 100, end=0.0, name="inverse_sqrt"), 400, 0.5),
        (Schedule(1.0, 100, end=0.6, name="inverse_sqrt"), 400, 0.6),
    ],
)
def test_rates_worked_out_by_hand(schedule, step, rate):
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(name="exponential"), "schedule.name is 'exponential'; known: constant, linear"),
        (dict(warmup_steps=100), "warmup_steps is 100; it must be below total_steps 100"),
        (dict(warmup_steps=-1), "warmup_steps is -1"),
        (dict(total_steps=2**31), "below 2\\^31"),
        (dict(peak=float("inf")), "schedule.peak is inf"),
        (dict(peak=-1.0), "schedule.peak is -1.0"),
        (dict(end=0.02), "schedule.end is 0.02, above schedule.peak 0.01; both are learning rates"),
        (dict(decay_from="end"), "decay_from is 'end'"),
        (dict(decay_steps=10), "schedule.decay_steps is 10, which schedule.name=linear does not use; it takes peak"),
        (dict(total_steps=None), "schedule.total_steps is missing; schedule.name=linear takes peak"),
        (dict(name="wsd", decay_from=None, decay_steps=91), "there is room for 1 to 90"),
        (dict(name="inverse_sqrt", decay_from=None, total_steps=None, warmup_steps=0), "at least 1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(change, message):
    good = dict(name="linear", peak=0.01, warmup_steps=10, total_steps=100, end=0.0, decay_from="warmup")
    Schedule(**good)
    with pytest.raises(ValueError, match=message):
        Schedule(**good | change)


@pytest.mark.parametrize(
    "duration, steps",
    [
        ("31k", 31_000), ("31k steps", 31_000), (31_000, 31_000), ("31_000", 31_000), ("1 step", 1), ("0", 0), ("1e6", 10**6),
        ("0.5M", 500_000),
        ("2560 sequences", 10), ("2561 sequences", 11), ("1.2M sequences", 4688), ("1sequence", 1),
        ("500B tokens", 15_258_790), ("32768 tokens", 1), ("32769 tokens", 2), ("1.719T tokens", 52_459_717),
        ("3 epochs", 12), ("1 epoch", 4), ("0.25 epochs", 1),
    ],
)
def test_a_length_of_training_in_steps(duration, steps):
    """256 sequences of 128 tokens per update, 1000 sequences per epoch; what does not divide is covered by one more update."""
    assert resolve_steps(duration, 256, 128, 1000) == steps


def test_a_length_where_batches_grow_is_the_least_that_covers_it():
    rows_after = lambda steps: steps * (steps + 1) // 2  # 1, 2, 3 ... sequences  # noqa: E731
    for sequences, steps in ((0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (5050, 100), (5051, 101)):
        assert resolve_steps(f"{sequences} sequences", rows_after, 128) == resolve_steps(f"{128 * sequences} tokens", rows_after, 128) == steps
    assert resolve_steps("50.5 epochs", rows_after, 128, 100) == 100
    assert resolve_steps("50B tokens", lambda steps: 256 * steps, 128) == resolve_steps("50B tokens", 256, 128)


def test_a_share_is_the_nearest_number_of_steps():
    assert [resolve_steps(share, 256, 128, whole=1000) for share in ("6%", "0.26 %", "100%", "28.43%")] == [60, 3, 1000, 284]


def test_lengths_are_exact_beyond_float64():
    assert resolve_steps("1.000000000000000001T sequences", 1, 128) == 10**12 + 1


@pytest.mark.parametrize(
    "duration, message",
    [
        ("", "is not a length of training; write such as 31k"), ("-3 epochs", "is not a length"), ("3 weeks", "is not a length"),
        ("3 m tokens", "is not a length"), ("1,5 epochs", "is not a length"), ("12.5", "12.5 steps; steps are whole"),
        ("3 epochs", "the sequences of an epoch are not known here"), ("6%", "'6%' is a share, and there is nothing here"), ("%", "is not a length"),
    ],
)
def test_a_length_that_cannot_be_read_is_explained(duration, message):
    with pytest.raises(ValueError, match=message):
        resolve_steps(duration, 256, 128)


def test_every_field_of_a_named_section_is_in_the_config_and_in_the_dataclass():
    for section, names, settings in (("schedule", SCHEDULES, Schedule), ("optimizer", OPTIMIZERS, OptimizerSpec)):
        fields = {field.name for field in dataclasses.fields(settings)}
        assert fields == {field.split(".")[1] for field in FIELDS if field.startswith(section + ".")}
        assert fields == {"name"}.union(*names.values())


def test_an_override_of_a_name_takes_its_fields_and_drops_the_old_ones():
    section = configs.load("configs/bert_base.py", ["config.schedule.name=wsd", "config.schedule.decay_steps=1000"])["schedule"]
    assert section == dict(name="wsd", peak=1e-4, warmup_steps=10_000, total_steps=1_000_000, end=0.0, decay_steps=1000)
    Schedule(**section)
    section = configs.load("configs/bert_base.py", ["config.optimizer.name=adafactor", "config.optimizer.decay_exponent=0.8"])["optimizer"]
    OptimizerSpec(**section)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["schedule.name=wsd"], "lacks schedule.decay_steps"),
        (["schedule.power=2"], "schedule.power is set, but schedule.name=linear takes peak"),
        (["schedule.name=cosine", "schedule.power=2"], "schedule.power is set, but schedule.name=cosine takes peak"),
        (["schedule.name=sine"], "schedule.name is 'sine'; known: constant"),
        (["optimizer.name=muon"], "lacks optimizer.momentum"),
        (["optimizer.momentum=0.9"], "optimizer.momentum is set, but optimizer.name=adamw_bert takes b1"),
    ],
)
def test_a_section_that_does_not_fit_its_name_is_explained(overrides, message):
    with pytest.raises(ConfigError, match=message):
        configs.load("configs/bert_base.py", [f"config.{override}" for override in overrides])
