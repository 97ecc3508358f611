"""Compiles a step for a TPU slice that is not here, with libtpu, and measures the compiled program. What the compiler says is kept by the program's own text.

Needs `libtpu` and, before JAX starts, the environment of `libtpu_environment()`. A program enters as `jax.stages.Lowered` over the devices of `slice_devices`;
plain numbers leave, as `Measured`.
"""

import dataclasses
import gzip
import hashlib
import json
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bert_jax.plan.costs import Costs
from bert_jax.plan.hlo import Collective, Kernel, Operation, Program
from bert_jax.plan.topology import Slice

FORMAT = 3  # of what is kept
LONGEST = 40  # operations that are kept
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class OutOfMemory(Exception):
    """The program does not fit. needed, capacity: bytes of a device, as the compiler says; None where it does not."""

    def __init__(self, message: str):
        size = r"([\d.]+)([KMGT]?)"
        match = re.search(rf"\({size}\) exceeds available HBM \({size}\)", message) or re.search(rf"Used {size}\w* of {size}\w* hbm", message)
        self.needed = float(match[1]) * _UNITS[match[2]] if match else None
        self.capacity = float(match[3]) * _UNITS[match[4]] if match else None
        super().__init__(message.splitlines()[0] if message else "out of memory")


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one device's program and one step, loops counted as often as they run.

    flops: the compiler's count, and `costs` for what is repeated; products: those of matrix products and kernels. bytes: read and written by the instructions, by `costs`. cycles: the compiler's estimate for
    each scheduled operation; operations: where the most of them go. optimal_seconds, compiler_bytes: the compiler's own estimate and count, in which a loop's body
    counts once. arguments, outputs, aliased, temporaries, code: bytes of memory."""

    flops: float
    products: float
    bytes: float
    cycles: float
    optimal_seconds: float
    compiler_bytes: float
    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    collectives: tuple[Collective, ...]
    kernels: tuple[Kernel, ...]
    operations: tuple[Operation, ...]

    @property
    def peak(self) -> int:
        """Bytes of a device's memory in use at once: what enters and stays, what leaves beside it, temporaries, and the program."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def libtpu_environment() -> dict[str, str]:
    """Lets libtpu compile where no TPU is, without looking for one."""
    return {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_LOG_DIR": "disabled", "TPU_MIN_LOG_LEVEL": "3"}


def versions() -> dict[str, str]:
    """ImportError with the command if libtpu is not installed."""
    try:
        return {name: version(name) for name in ("libtpu", "jax", "jaxlib")}
    except PackageNotFoundError as error:
        raise ImportError(f"{error.name} is not installed; plans for TPUs need it: pip install 'bert-jax[plan]'") from None


def slice_devices(topology: Slice) -> list[Any]:
    """The JAX devices of a slice, for a mesh to compile for; nothing runs on them."""
    versions()
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(**topology.libtpu).devices
    except Exception as error:  # libtpu's own kinds
        raise ValueError(f"libtpu does not know the slice {topology.name} ({topology.libtpu['topology_name']}): {str(error).splitlines()[0]}") from None
    if len(devices) != topology.devices:
        raise ValueError(f"libtpu gives {len(devices)} devices for {topology.name}, not {topology.devices}")
    return list(devices)


def measure(lowered, topology: Slice, *, cache: Path | None, options: dict[str, str] | None = None, keep_text: Path | None = None) -> Measured:
    """Compiles, or finds what the compiler said of the same program for the same slice and versions. OutOfMemory if it does not fit (kept too).

    options: of the compiler. keep_text: where to write the compiled program's text.
    """
    about = {"format": FORMAT, "topology": topology.libtpu, "options": options or {}, **versions()}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode() + lowered.as_text().encode()).hexdigest()[:32]
    kept = cache / f"{key}.json.gz" if cache else None
    if kept is not None and kept.is_file():
        said = json.loads(gzip.decompress(kept.read_bytes()))
    else:
        said = _compile(lowered, options)
        if kept is not None:
            cache.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_bytes(gzip.compress(json.dumps(said).encode()))
            os.replace(temporary, kept)
    if "out_of_memory" in said:
        raise OutOfMemory(said["out_of_memory"])
    if keep_text is not None:
        keep_text.write_text(said["text"])
    return _measured(said, topology)


def _compile(lowered, options: dict[str, str] | None) -> dict[str, Any]:
    """What the compiler says, as plain values: text, cost and memory, or out_of_memory."""
    try:
        compiled = lowered.compile(compiler_options=options)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower():
            return {"out_of_memory": _told(str(error))}
        raise
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    sizes = ("argument_size", "output_size", "alias_size", "temp_size", "generated_code_size")
    return {
        "text": compiled.as_text(),
        "cost": {name: cost.get(name, 0.0) for name in ("flops", "bytes accessed", "optimal_seconds")},
        "memory": {name: getattr(memory, f"{name}_in_bytes") for name in sizes},
    }


def _measured(said: dict[str, Any], topology: Slice) -> Measured:
    program = Program(said["text"])
    costs, kernels, chip = Costs(program), program.kernels(), topology.chip
    operations = program.operations(lambda instruction, computation: costs.bytes(instruction, computation) * chip.clock * chip.devices / chip.hbm_bandwidth)
    arguments, outputs, aliased, temporaries, code = said["memory"].values()
    return Measured(
        flops=said["cost"]["flops"] + costs.repeated_flops(),
        products=costs.products(),
        bytes=costs.moved(),
        cycles=sum(operation.cycles for operation in operations),
        optimal_seconds=said["cost"]["optimal_seconds"] % 1.0,  # each operation of unknown cost counts as -1 s; the rest is far below a second in programs of few layers
        # Of a kernel with a stated cost the compiler counts the stated bytes beside operands and results: here the stated alone.
        compiler_bytes=said["cost"]["bytes accessed"] - sum(kernel.traffic for kernel in kernels if kernel.bytes is not None),
        arguments=arguments,
        outputs=outputs,
        aliased=aliased,
        temporaries=temporaries,
        code=code,
        collectives=tuple(program.collectives(topology.devices)),
        kernels=tuple(kernels),
        operations=tuple(operations[:LONGEST]),
    )


def _told(message: str) -> str:
    """The line of the compiler's message that has the figures."""
    lines = message.splitlines()
    return next((line.strip() for line in lines if re.search("exceeds available HBM|Used .* hbm", line)), lines[0])


def from_json(held: dict[str, Any]) -> Measured:
    collectives = tuple(Collective(**one | {"devices": tuple(one["devices"])}) for one in held["collectives"])
    kernels, operations = (tuple(kind(**one) for one in held[name]) for name, kind in (("kernels", Kernel), ("operations", Operation)))
    return Measured(**held | {"collectives": collectives, "kernels": kernels, "operations": operations})
