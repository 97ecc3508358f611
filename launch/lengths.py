"""Lengths and batch sizes of one stretch of training: a config says them in tokens, sequences, epochs or shares; numbers of steps leave.

A batch that grows takes `batch_ramp.sizes` sizes before `batch_size`, evenly apart from `batch_ramp.start` on, and each for as many updates
(as ModernBERT, Warner et al. 2024, arXiv 2412.13663, section 2.2). They depend on the config alone: the data is the same on any devices.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

from bert_jax.training.durations import is_share, resolve_steps
from data_pipeline.batches.batch_sizes import BatchSizes
from launch.config import ConfigError
from launch.fields import LENGTHS


@dataclasses.dataclass(frozen=True)
class BatchStage:
    """Steps `start` to `stop` of the run, in which batches have one size.

    accumulate: the number of their micro-batches, none larger than those of the full batch."""

    start: int
    stop: int
    batch_size: int
    accumulate: int


def resolve(config: dict[str, Any], sequences_per_epoch: Callable[[], int] | None = None) -> dict[str, Any]:
    """The config of one stretch with its LENGTHS as numbers of updates. ConfigError naming a field that cannot be.

    sequences_per_epoch: called only where there are epochs; None: they cannot be known."""
    if not any(isinstance(value_of(config, field), str) for field in LENGTHS):
        return config
    resolved = copy.deepcopy(config)

    def steps_in(field: str, rows: int | Callable[[int], int], whole: int | None = None) -> int:
        text = value_of(config, field)
        epoch = sequences_per_epoch() if sequences_per_epoch and isinstance(text, str) and "epoch" in text else None
        try:
            return resolve_steps(text, rows, config["length"], epoch, whole=whole)
        except ValueError as error:
            raise ConfigError(f"{field}: {error}") from None

    ramp, smaller = resolved["batch_ramp"], smaller_sizes(config)
    rows: int | Callable[[int], int] = config["batch_size"]
    if smaller and is_share(ramp["over"]):
        rows = lambda steps: sizes_over(steps_in("batch_ramp.over", 1, steps), smaller, config).before(steps)  # noqa: E731
    elif smaller:
        ramp["over"] = steps_in("batch_ramp.over", lambda steps: sizes_over(steps, smaller, config).before(steps))
        rows = sizes_over(ramp["over"], smaller, config).before
    steps = resolved["steps"] = steps_in("steps", rows)
    if smaller and is_share(ramp["over"]):
        ramp["over"] = steps_in("batch_ramp.over", 1, steps)
        rows = sizes_over(ramp["over"], smaller, config).before
    for field in LENGTHS:
        section, _, name = field.partition(".")
        if section == "schedule" and isinstance(value_of(config, field), str):
            resolved["schedule"][name] = steps_in(field, rows, steps)
    return resolved


def value_of(config: dict[str, Any], field: str) -> Any:
    """Of "section.name" or "name"; None where the config has no such field."""
    section, _, name = field.rpartition(".")
    return (config.get(section, {}) if section else config).get(name)


def smaller_sizes(config: dict[str, Any]) -> tuple[int, ...]:
    """The sizes that a batch takes before batch_size; none without a ramp. Multiples of what start and batch_size are both multiples of."""
    start, count, full = config["batch_ramp"]["start"], config["batch_ramp"]["sizes"], config["batch_size"]
    if start == 0:
        return ()
    if not 0 < start < full:
        raise ConfigError(
            f"batch_ramp.start is {start}, and batch_size {full}; a batch grows from a smaller size: set start to 1 up to {full - 1}, or 0 for no ramp"
        )
    unit = math.gcd(start, full)
    most = (full - start) // unit
    if not 1 <= count <= most:
        raise ConfigError(
            f"batch_ramp.sizes is {count}; from {start} to batch_size {full} there are 1 to {most} sizes that are multiples of {unit}, as both are. "
            "Use as many, or a start and a batch_size with a larger common divisor" if most < count else
            f"batch_ramp.sizes is {count}; give the number of sizes from {start} up to, and without, batch_size {full}: 1 to {most}"
        )
    return tuple(start + unit * round(number * most / count) for number in range(count))


def sizes_over(steps: int, smaller: tuple[int, ...], config: dict[str, Any]) -> BatchSizes:
    """A ramp of so many steps; of fewer than there are sizes: with the first of them."""
    return BatchSizes.ramp(smaller[:steps], config["batch_size"], steps) if steps else BatchSizes.constant(config["batch_size"])


def batch_sizes_of(config: dict[str, Any]) -> BatchSizes:
    """Of a stretch whose lengths are numbers, by its own steps. ConfigError if the ramp does not fit into it."""
    smaller, over = smaller_sizes(config), config["batch_ramp"]["over"]
    if smaller and not len(smaller) <= over <= config["steps"]:
        raise ConfigError(
            f"batch_ramp.over is {over} steps, for {len(smaller)} sizes before batch_size in {config['steps']} steps; "
            f"there is room for {len(smaller)} to {config['steps']} (batch_ramp.start=0: no ramp)"
        )
    return sizes_over(over, smaller, config) if smaller else BatchSizes.constant(config["batch_size"])


def micro_batches(config: dict[str, Any], batch_size: int) -> int:
    """In how many micro-batches a batch of this size is worked through: the fewest that divide it and are no larger than the full batch's."""
    if batch_size == config["batch_size"]:
        return config["accumulate"]
    fewest = -(-batch_size * config["accumulate"] // config["batch_size"])
    return next(count for count in range(fewest, batch_size + 1) if batch_size % count == 0)
