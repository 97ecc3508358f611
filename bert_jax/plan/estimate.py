"""From measured programs to what a step should take.

Estimates of the time a device computes, each from another reading of the compiler:
  roofline    the larger of flops / peak and bytes / memory bandwidth, of the whole step: no program of these flops and bytes is faster
  schedule    the cycles that the compiler expects of each operation of the real program, loops included, over the clock
and, from models of few layers without loops, extrapolated to the real depth (`Unrolled`):
  compiler    its cost model (`optimal_seconds`), operation by operation
  schedule    as above, of a program without loops over layers
To each the collectives are added, as if nothing overlapped.
"""

import dataclasses

from bert_jax.plan import interconnect
from bert_jax.plan.compiled import Measured
from bert_jax.plan.topology import Slice

KERNEL_SHARE = 0.5  # of the peak, by a custom kernel in the schedule: heads of 64 fill half of a TPU's 128 columns


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Without loops over layers and micro-batches, of one device. layer_flops, layer_bytes: of one layer and one micro-batch, with the layer's part of the update, by
    the compiler's count. rest_bytes: of embeddings, heads and their part of the update. compiler_seconds, schedule_seconds: of the step."""

    layer_flops: float
    layer_bytes: float
    rest_bytes: float
    compiler_seconds: float
    schedule_seconds: float


@dataclasses.dataclass(frozen=True)
class Step:
    """Of one device and one update, in FLOPs, bytes and seconds. model_flops: of the whole batch, by `metrics.model_flops`, divided by the devices.
    unrolled: if it was measured."""

    flops: float
    bytes: float
    model_flops: float
    peak_flops: float
    bandwidth: float
    schedule_seconds: float
    collective_seconds: float
    unrolled: Unrolled | None = None

    @property
    def flops_ratio(self) -> float:
        return self.flops / self.model_flops

    @property
    def flops_seconds(self) -> float:
        return self.flops / self.peak_flops

    @property
    def bytes_seconds(self) -> float:
        return self.bytes / self.bandwidth

    @property
    def roofline_seconds(self) -> float:
        return max(self.flops_seconds, self.bytes_seconds) + self.collective_seconds

    @property
    def seconds(self) -> float:
        """The one that plans count with: the schedule's, which is of the program that runs."""
        return self.schedule_seconds + self.collective_seconds

    @property
    def bound(self) -> str:
        """What takes most of the roofline's time."""
        parts = {"arithmetic": self.flops_seconds, "memory bandwidth": self.bytes_seconds, "interconnect": self.collective_seconds}
        return max(parts, key=parts.get)

    def mfu(self, seconds: float) -> float:
        return self.model_flops / seconds / self.peak_flops


def estimate(whole: Measured, topology: Slice, model_flops: float, unrolled: Unrolled | None = None) -> Step:
    """whole: of the real program. model_flops: of a device's share of the batch."""
    chip = topology.chip
    return Step(
        flops=whole.flops,
        bytes=whole.bytes,
        model_flops=model_flops,
        peak_flops=chip.peak_flops / chip.devices,
        bandwidth=chip.hbm_bandwidth / chip.devices,
        schedule_seconds=whole.cycles / chip.clock + kernel_seconds(whole, topology),
        collective_seconds=sum(interconnect.seconds(one, topology) for one in whole.collectives),
        unrolled=unrolled,
    )


def unroll(shallow: dict[int, Measured], whole: Measured, topology: Slice, *, layers: int, accumulate: int, update_bytes: float) -> Unrolled:
    """shallow: of two depths, unrolled, with one micro-batch. update_bytes: that the update moves on a device, and that the shallow programs hold once, but a
    step of several micro-batches does not repeat."""
    (few, one), (more, two) = sorted(shallow.items())

    def layer(name: str) -> float:
        return (getattr(two, name) - getattr(one, name)) / (more - few)

    def micro_batch(name: str) -> float:
        return getattr(one, name) + layer(name) * (layers - few)

    chip = topology.chip
    again = (accumulate - 1) * update_bytes / (chip.hbm_bandwidth / chip.devices)
    return Unrolled(
        layer_flops=layer("flops"),
        layer_bytes=layer("compiler_bytes"),
        rest_bytes=one.compiler_bytes - few * layer("compiler_bytes"),
        compiler_seconds=accumulate * micro_batch("optimal_seconds") - again,
        schedule_seconds=accumulate * micro_batch("cycles") / chip.clock - again + kernel_seconds(whole, topology),
    )


def kernel_seconds(whole: Measured, topology: Slice) -> float:
    """Of custom kernels, of which the schedule tells no cycles, by their stated cost."""
    chip = topology.chip
    bandwidth, peak = chip.hbm_bandwidth / chip.devices, chip.peak_flops / chip.devices
    return sum(kernel.count * max((kernel.flops or 0.0) / (KERNEL_SHARE * peak), kernel.moved / bandwidth) for kernel in whole.kernels)
