"""From measured programs to what a step should take.

Three estimates of the time a device computes, each from another reading of the compiler:
  roofline    the larger of flops / peak and bytes / memory bandwidth, of the whole step: no program of these flops and bytes is faster
  compiler    the compiler's cost model (`optimal_seconds`), operation by operation
  schedule    the cycles that the compiler expects of each operation of the real program, loops included, over the clock
The first two are extrapolated from unrolled models of few layers. To each the collectives are added, as if nothing overlapped.
"""

import dataclasses

from bert_jax.plan import interconnect
from bert_jax.plan.compiled import Measured
from bert_jax.plan.topology import Slice

KERNEL_SHARE = 0.5  # of the peak, by a custom kernel in the schedule: heads of 64 fill half of a TPU's 128 columns


@dataclasses.dataclass(frozen=True)
class Step:
    """Of one device and one update, in FLOPs, bytes and seconds. layer_*: of one layer and one micro-batch, with the layer's part of the update.

    rest_bytes: of embeddings, heads and their part of the update. unrolled_seconds: the schedule's cycles extrapolated from the unrolled models: what the loop
    over the layers costs is the difference. model_flops: of the whole batch, by `metrics.model_flops`, divided by the devices."""

    flops: float
    bytes: float
    layer_flops: float
    layer_bytes: float
    rest_bytes: float
    model_flops: float
    peak_flops: float
    bandwidth: float
    compiler_seconds: float
    schedule_seconds: float
    unrolled_seconds: float
    collective_seconds: float

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


def estimate(
    shallow: dict[int, Measured], whole: Measured, topology: Slice, *, layers: int, accumulate: int, update_bytes: float, model_flops: float
) -> Step:
    """shallow: of two depths, unrolled, with one micro-batch. whole: of the real program. update_bytes: that the update moves on a device, and that
    the shallow programs hold once, but a step of several micro-batches does not repeat. model_flops: of a device's share of the batch."""
    (few, one), (more, two) = sorted(shallow.items())

    def layer(name: str) -> float:
        return (getattr(two, name) - getattr(one, name)) / (more - few)

    def micro_batch(name: str) -> float:
        return getattr(one, name) + layer(name) * (layers - few)

    chip = topology.chip
    bandwidth = chip.hbm_bandwidth / chip.devices
    peak = chip.peak_flops / chip.devices
    again = (accumulate - 1) * update_bytes
    kernels = sum(  # no cycles are told of these
        kernel.count * max((kernel.flops or 0.0) / (KERNEL_SHARE * peak), kernel.moved / bandwidth) for kernel in whole.kernels
    )
    return Step(
        flops=accumulate * micro_batch("flops"),
        bytes=max(accumulate * micro_batch("bytes") - again, 0.0),
        layer_flops=layer("flops"),
        layer_bytes=layer("bytes"),
        rest_bytes=one.bytes - few * layer("bytes"),
        model_flops=model_flops,
        peak_flops=peak,
        bandwidth=bandwidth,
        compiler_seconds=accumulate * micro_batch("optimal_seconds") - again / bandwidth,
        schedule_seconds=whole.cycles / chip.clock + kernels,
        unrolled_seconds=accumulate * micro_batch("cycles") / chip.clock + kernels,
        collective_seconds=sum(interconnect.seconds(one, topology) for one in whole.collectives),
    )
