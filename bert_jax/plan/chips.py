"""What chips can do: memory, bandwidths, links. Figures are per chip; peak FLOP/s come from `training.metrics.PEAK_FLOPS`.

Memory is what a program may use of a JAX device, as libtpu 0.0.51 says when it refuses one that is too large. Other sources, by letter:
[C] Google Cloud's page of that TPU version (cloud.google.com/tpu/docs/v3, v4, v5e, v5p, v6e).
[S] "How to Scale Your Model" (jax-ml.github.io/scaling-book), tables of TPU specifications and of links, one way.
[N] Norrie et al. 2021, "The Design Process for Google's Training Chips: TPUv2 and TPUv3", IEEE Micro 41(2) (recalled).
[D] NVIDIA's data sheets of A100, H100 and H200 (recalled).
Clocks are those that give the peak: 2 x 128 x 128 x MXUs x clock (v6e: 256 x 256).
"""

import dataclasses

from bert_jax.training.metrics import PEAK_FLOPS

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """name: as in a slice's name. device_kind: `jax.Device.device_kind`. devices: JAX devices of a chip. cores: TensorCores of a chip, where the slice's
    name counts them (`counts_cores`). memory: bytes of a device. hbm_bandwidth: bytes/s of a chip. link_bandwidth: bytes/s one way of one link;
    torus_axes: axes with a link each way. clock: Hz, for cycles that the compiler estimates. host_chips: chips of a host in a large slice. wrap: the length from which an axis of
    the slice closes to a ring (0: all axes close once each is a multiple of 4)."""

    name: str
    device_kind: str
    devices: int
    cores: int
    counts_cores: bool
    memory: float
    hbm_bandwidth: float
    link_bandwidth: float
    torus_axes: int
    clock: float
    host_chips: int
    wrap: int = 0

    @property
    def peak_flops(self) -> float:
        """Of the chip."""
        return PEAK_FLOPS[self.device_kind] * self.devices


CHIPS = {
    chip.name: chip
    for chip in (
        #    name   kind           dev cores counted  memory       HBM/s   link/s  axes clock   host wrap
        Chip("v2", "TPU v2", 2, 2, True, 7.48 * GIB, 700e9, 62e9, 2, 0.70e9, 4, 16),  # [N]: 4 links of 496 Gbit/s
        Chip("v3", "TPU v3", 2, 2, True, 15.48 * GIB, 900e9, 82e9, 2, 0.94e9, 4, 32),  # [C]; [N]: 4 links of 656 Gbit/s
        Chip("v4", "TPU v4", 1, 2, True, 30.75 * GIB, 1200e9, 45e9, 3, 1.05e9, 4),  # [C], [S]; megacore: both cores are one device
        Chip("v5e", "TPU v5 lite", 1, 1, False, 15.75 * GIB, 819e9, 50e9, 2, 1.5e9, 4, 16),  # [C], [S]
        Chip("v5p", "TPU v5", 1, 2, True, 95.73 * GIB, 2765e9, 100e9, 3, 1.75e9, 4),  # [C], [S]
        Chip("v6e", "TPU v6 lite", 1, 1, False, 31.24 * GIB, 1640e9, 100e9, 2, 1.75e9, 4, 16),  # [C], [S]
    )
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """memory_bytes, bandwidth (bytes/s), link: NVLink bytes/s one way of one GPU; network: bytes/s of one GPU between machines of 8."""

    name: str
    device_kind: str
    memory_bytes: int
    bandwidth: float
    link: float
    network: float
    host_gpus: int = 8

    @property
    def peak_flops(self) -> float:
        return PEAK_FLOPS[self.device_kind]


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", "NVIDIA A100-SXM4-80GB", 80 * 10**9, 2.0e12, 300e9, 25e9),  # [D]
        Gpu("h100", "NVIDIA H100 80GB HBM3", 80 * 10**9, 3.35e12, 450e9, 50e9),  # [D]
        Gpu("h200", "NVIDIA H200", 141 * 10**9, 4.8e12, 450e9, 50e9),  # [D]
    )
}
