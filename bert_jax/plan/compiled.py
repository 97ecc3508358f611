"""Compiles a step for a TPU slice that is not here, with libtpu, and measures the compiled program. Results are kept by the program's own text.

Needs `libtpu` and, before JAX starts, the environment of `libtpu_environment()`. A program enters as `jax.stages.Lowered` over the devices of `slice_devices`;
plain numbers leave, as `Measured`.
"""

import dataclasses
import hashlib
import json
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bert_jax.plan.hlo import Collective, Kernel, Operation, Program
from bert_jax.plan.topology import Slice

FORMAT = 2  # of the kept results
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
    """Of one device's program and one step. flops, bytes: the compiler's cost analysis, in which a loop's body counts once (whole and true for unrolled
    programs without loops). optimal_seconds: the compiler's own estimate by the same count. cycles: its estimate for each scheduled operation, times its
    executions, which holds for loops too; operations: where the most of them go. arguments, outputs, aliased, temporaries, code: bytes of memory."""

    flops: float
    bytes: float
    optimal_seconds: float
    cycles: float
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
    """Compiles, or finds what was measured of the same program for the same slice and versions. OutOfMemory if it does not fit (kept too).

    options: of the compiler. keep_text: where to write the compiled program's text; then nothing is taken from the cache.
    """
    about = {"format": FORMAT, "topology": topology.libtpu, "options": options or {}, **versions()}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode() + lowered.as_text().encode()).hexdigest()[:32]
    kept = cache / f"{key}.json" if cache else None
    if kept is not None and kept.is_file() and keep_text is None:
        held = json.loads(kept.read_text())
        if "out_of_memory" in held:
            raise OutOfMemory(held["out_of_memory"])
        return from_json(held)
    try:
        measured = _measure(lowered, topology, options, keep_text)
        record = dataclasses.asdict(measured)
    except OutOfMemory as error:
        record = {"out_of_memory": str(error)}
        raise
    finally:
        if kept is not None and "record" in locals():
            cache.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(record))
            os.replace(temporary, kept)
    return measured


def _measure(lowered, topology: Slice, options: dict[str, str] | None, keep_text: Path | None) -> Measured:
    try:
        compiled = lowered.compile(compiler_options=options)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower():
            raise OutOfMemory(_told(str(error))) from None
        raise
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    if keep_text is not None:
        keep_text.write_text(text)
    program = Program(text)
    kernels, operations = program.kernels(), program.operations()
    seconds = cost.get("optimal_seconds", 0.0)
    return Measured(
        flops=cost["flops"],
        # Of a kernel with a stated cost the analysis takes the stated FLOPs, and as bytes the stated ones beside operands and results: here the stated alone.
        bytes=cost["bytes accessed"] - sum(kernel.traffic for kernel in kernels if kernel.bytes is not None),
        optimal_seconds=seconds % 1.0,  # each operation of unknown cost counts as -1 s; the rest is far below a second in programs of few layers
        cycles=sum(operation.cycles for operation in operations),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
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
