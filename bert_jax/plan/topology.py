"""Names of slices: "v4-128" -> 64 chips in a 4x4x4 torus, 64 JAX devices, 16 hosts.

Google's names count TensorCores for v2, v3, v4 and v5p (two of them a chip) and chips for v5e and v6e. A shape may be given instead: "v4:2x2x4".
"""

import dataclasses
import math
import re

from bert_jax.plan.chips import CHIPS, GPUS, Chip, Gpu

# Chips in a slice -> its shape, as Google Cloud offers them (other shapes: by name "v4:4x4x12").
_TORUS_3D = {
    4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8), 512: (8, 8, 8), 1024: (8, 8, 16),
    2048: (8, 16, 16), 4096: (16, 16, 16),
}  # fmt: skip
_TORUS_2D = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_SHAPES: dict[str, dict[int, tuple[int, ...]]] = {
    "v2": {chips: _TORUS_2D[chips] for chips in (4, 16, 64, 128, 256)},
    "v3": {chips: _TORUS_2D[chips] for chips in (4, 16, 64, 128, 256)} | {512: (16, 32), 1024: (32, 32)},
    "v4": _TORUS_3D,
    "v5p": {chips: shape for chips, shape in _TORUS_3D.items() if chips <= 2048},
    "v5e": _TORUS_2D,
    "v6e": _TORUS_2D,
}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v6lite": "v6e", "v5": "v5p"}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice. shape: chips along each axis of its torus or mesh."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        single = 8 if self.chip.name in ("v5e", "v6e") else self.chip.host_chips  # eight of these fit one host if they are the whole slice
        return 1 if self.chips <= single else self.chips // self.chip.host_chips

    @property
    def name(self) -> str:
        count = self.chips * self.chip.cores if self.chip.counts_cores else self.chips
        return f"{self.chip.name}-{count}" if _SHAPES[self.chip.name].get(self.chips) == self.shape else f"{self.chip.name}:{self.shape_text}"

    @property
    def shape_text(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def rings(self) -> tuple[bool, ...]:
        """For each axis whether it closes to a ring."""
        if self.chip.wrap:
            return tuple(size >= self.chip.wrap for size in self.shape)
        return (all(size % 4 == 0 for size in self.shape),) * len(self.shape)

    @property
    def libtpu(self) -> dict:
        """Arguments of `jax.experimental.topologies.get_topology_desc`."""
        megacore = {"chip_config_name": "megacore"} if self.chip.name == "v4" else {}
        bounds = {"chips_per_host_bounds": (2, 2, 1)} if self.chips >= 4 else {"chips_per_host_bounds": (1, 1, 1)}
        return {"platform": "tpu", "topology_name": f"{self.chip.name}:{self.shape_text}", "num_slices": 1, **bounds, **megacore}

    def __str__(self) -> str:
        counted = f"{self.chips * self.chip.cores} TensorCores" if self.chip.counts_cores else f"{self.chips} chips"
        devices = f"{self.devices} JAX devices ({'one for each core' if self.chip.devices > 1 else 'one for each chip'})"
        hosts = "1 host" if self.hosts == 1 else f"{self.hosts} hosts"
        return f"{self.name}: {counted} = {self.chips} chips in {self.shape_text}, {devices}, {hosts}"


@dataclasses.dataclass(frozen=True)
class GpuCluster:
    gpu: Gpu
    count: int

    @property
    def chips(self) -> int:
        return self.count

    @property
    def devices(self) -> int:
        return self.count

    @property
    def hosts(self) -> int:
        return -(-self.count // self.gpu.host_gpus)

    @property
    def name(self) -> str:
        return f"gpu:{self.gpu.name}x{self.count}"

    def __str__(self) -> str:
        return f"{self.name}: {self.count} GPUs of {self.gpu.device_kind}, {self.hosts} machine(s)"


def parse_topology(text: str) -> Slice | GpuCluster:
    """ValueError names what was given and the nearest that exists."""
    name = text.strip().lower()
    if match := re.fullmatch(r"gpu:([a-z]+\d+)x(\d+)", name):
        if match[1] not in GPUS or int(match[2]) < 1:
            raise ValueError(f"topology {text!r}: known GPUs are {', '.join(GPUS)}; write such as gpu:h100x64")
        return GpuCluster(GPUS[match[1]], int(match[2]))
    match = re.fullmatch(r"(v\d+[a-z]*)(?:-(\d+)|:(\d+(?:x\d+)*))", name)
    generation = _ALIASES.get(match[1], match[1]) if match else None
    if match is None or generation not in CHIPS:
        raise ValueError(f"topology {text!r} is not known; write such as v4-128, v3-32, v5e-16, v4:4x4x8 or gpu:h100x64 (TPUs: {', '.join(CHIPS)})")
    chip = CHIPS[generation]
    if match[3]:
        shape = tuple(map(int, match[3].split("x")))
        if len(shape) != chip.torus_axes or 0 in shape:
            raise ValueError(f"topology {text!r}: {generation} slices have {chip.torus_axes} axes, such as {generation}:{'x'.join(['4'] * chip.torus_axes)}")
        return Slice(chip, shape)
    count, shapes = int(match[2]), _SHAPES[generation]
    unit = chip.cores if chip.counts_cores else 1
    if count % unit or count // unit not in shapes:
        what = f"TensorCores, {unit} a chip" if chip.counts_cores else "chips"
        sizes = ", ".join(f"{generation}-{chips * unit}" for chips in shapes)
        example = f"{generation}:2x2{'x4' * (chip.torus_axes - 2)}"
        raise ValueError(f"topology {text!r}: there is no such slice ({generation} names count {what}); there are {sizes}, or give a shape like {example}")
    return Slice(chip, shapes[count // unit])
