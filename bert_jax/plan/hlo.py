"""Reads a compiled TPU program's text: its collectives, the cycles that the compiler expects, custom kernels' stated costs. No JAX.

The text is scheduled HLO of one device's program (`jax.stages.Compiled.as_text()`). Every instruction counts as often as its loops run, which is read from what a
loop's counter begins with, what its body adds and what its condition compares it with.
"""

import collections
import dataclasses
import json
import math
import re
from collections.abc import Callable

import numpy as np

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"\b(pred|bf16|[suf]\d+|f8\w+|c64|c128)\[([\d,]*)\]")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
RUN_OVER = 2**63 - 1  # cycles of softmax over scores of gigabytes
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_ORIGIN = re.compile(r'op_name="([^"]*)"')
_KERNEL_COST = re.compile(r'"cost_estimate":\s*(\{[^}]*\})')
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    shape: str
    attributes: str  # all after the opcode: operands, attributes, metadata, backend_config
    root: bool = False  # whether it is its computation's result

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.attributes.partition(")")[0])

    @property
    def called(self) -> dict[str, str]:
        """What it calls, as body=, condition=, calls= and the like -> the computation's name."""
        return dict(_CALLED.findall(self.attributes))


@dataclasses.dataclass(frozen=True)
class Collective:
    """kind: one of KINDS. bytes: of the whole array, before it is scattered or after it is gathered, on one device. devices: of one group, as
    positions in the mesh. count: executions in a step."""

    kind: str
    bytes: int
    devices: tuple[int, ...]
    count: int
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Operation:
    """Scheduled instructions of one origin. name: as JAX traced it, such as "jvp()/while/body/closed_call/bld,df->blf/dot_general". count: executions in a step;
    cycles: that the compiler expects of all of them."""

    name: str
    opcode: str
    count: int
    cycles: int


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A custom kernel's calls in a step, with what its author stated of one (`pl.CostEstimate`): FLOPs and bytes, None if nothing was stated.

    traffic: bytes of its operands and results, each once."""

    name: str
    count: int
    flops: float | None
    bytes: float | None
    traffic: float

    @property
    def moved(self) -> float:
        """Bytes of one call: those stated, or else operands and results."""
        return self.traffic if self.bytes is None else self.bytes


def shape_bytes(shape: str) -> list[int]:
    """Bytes of each array of an HLO shape, without padding."""
    sizes = []
    for kind, dims in _SHAPE.findall(shape):
        bits = _BITS.get(kind) or (8 if kind.startswith("f8") else int(re.sub(r"\D", "", kind)))
        sizes.append(math.ceil(bits * math.prod(int(dim) for dim in dims.split(",") if dim) / 8))
    return sizes


def shape_dims(shape: str) -> list[int]:
    """Of the first array of an HLO shape."""
    match = _SHAPE.search(shape)
    return [int(dim) for dim in match[2].split(",") if dim] if match else []


class Program:
    """computations: name -> instructions. times: name -> executions in a step, of the entry and of what it runs in sequence (loop bodies, calls, branches)."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        current: list[Instruction] = []
        for line in text.splitlines():
            if line.endswith("{") and (match := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
                current = self.computations.setdefault(match[2], [])
                self.entry = match[2] if match[1] else self.entry
            elif match := re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)", line):
                if opcode := _OPCODE.search(match[3]):
                    current.append(Instruction(match[2], opcode[1], match[3][: opcode.start()], match[3][opcode.end() :], root=bool(match[1])))
        if not self.entry:
            raise ValueError("this is no HLO module: it has no ENTRY computation")
        self.times = self._times()

    def _times(self) -> dict[str, int]:
        times: collections.Counter = collections.Counter()

        def visit(name: str, count: int) -> None:
            times[name] += count
            for instruction in self.computations.get(name, ()):
                called = instruction.called
                if instruction.opcode == "while":
                    visit(called["body"], count * self.trips(instruction, name))
                elif instruction.opcode == "call":
                    visit(called["to_apply"], count)
                elif instruction.opcode == "conditional":
                    branches = _BRANCHES.search(instruction.attributes)
                    either = [called[name] for name in called if name.endswith("_computation")]
                    for branch in re.findall(r"[\w.\-]+", branches[1]) if branches else either:
                        visit(branch, count)

        visit(self.entry, 1)
        return dict(times)

    def trips(self, loop: Instruction, holder: str) -> int:
        """Of a `while` in the computation `holder`, whose counter goes up in even steps to a constant; 1 if it is another sort of loop."""
        condition = self._named(loop.called["condition"])
        compare = next((one for one in condition.values() if one.opcode == "compare" and "direction=LT" in one.attributes), None)
        if compare is None:
            return 1
        counter = next((condition[name] for name in compare.operands if name in condition and condition[name].opcode == "get-tuple-element"), None)
        limit = next(filter(None, (_constant(condition, name) for name in compare.operands)), None)
        if counter is None or limit is None:
            return 1
        place = int(re.search(r"index=(\d+)", counter.attributes)[1])
        start, step = 0, 1
        around, body = self._named(holder), self._named(loop.called["body"])
        given = around.get(loop.operands[0])
        if given is not None and given.opcode == "tuple":
            start = _constant(around, given.operands[place]) or 0
        result = next(one for one in body.values() if one.root)
        if result.opcode == "tuple" and place < len(result.operands):
            following = body.get(result.operands[place])
            if following is not None and following.opcode == "add":
                step = next(filter(None, (_constant(body, name) for name in following.operands)), 1)
        return max(-(-(limit - start) // step), 0)

    def _named(self, computation: str) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.computations[computation]}

    def operations(self, otherwise: Callable[[Instruction, str], float] = lambda instruction, computation: 0.0) -> list[Operation]:
        """All with expected cycles, the longest first. otherwise: the cycles of an instruction of a computation for which the compiler's number has run over."""
        counts: collections.Counter = collections.Counter()
        cycles: collections.Counter = collections.Counter()
        for name, count in self.times.items():
            for instruction in self.computations[name]:
                if match := _CYCLES.search(instruction.attributes):
                    origin = _ORIGIN.search(instruction.attributes)
                    key = (origin[1].partition("/")[2] or origin[1] if origin else "", instruction.opcode)
                    counts[key] += count
                    cycles[key] += (int(match[1]) if int(match[1]) < RUN_OVER else round(otherwise(instruction, name))) * count
        return [Operation(name, opcode, counts[name, opcode], total) for (name, opcode), total in cycles.most_common()]

    def kernels(self) -> list[Kernel]:
        """Those written in Pallas."""
        found = []
        for name, count in self.times.items():
            shapes = {instruction.name: instruction.shape for instruction in self.computations[name]}
            for instruction in self.computations[name]:
                if instruction.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' in instruction.attributes:
                    match = _KERNEL_COST.search(instruction.attributes)
                    cost = {key: float(value) for key, value in json.loads(match[1]).items()} if match else {}
                    traffic = sum(sum(shape_bytes(shapes.get(operand, ""))) for operand in instruction.operands) + sum(shape_bytes(instruction.shape))
                    found.append(Kernel(instruction.name, count, cost.get("flops"), cost.get("bytes_accessed"), float(traffic)))
        return found

    def collectives(self, devices: int) -> list[Collective]:
        """devices: in the mesh, for groups that name no devices. Those inside fusions are found too."""
        found = []

        def look(name: str, count: int) -> None:
            for instruction in self.computations.get(name, ()):
                kind = instruction.opcode.removesuffix("-start")
                if kind == "all-reduce" and name.startswith("all-reduce-scatter"):  # a fusion of both, in which nothing is gathered
                    sizes = sum(shape_bytes(instruction.shape))
                    found.append(Collective("reduce-scatter", sizes, group_of(instruction.attributes, devices), count, instruction.name))
                elif kind in KINDS:
                    found.append(self._collective(instruction, kind, count, devices))
                elif instruction.opcode in ("fusion", "async-start"):
                    if "calls" in instruction.called:
                        look(instruction.called["calls"], count)

        for name, count in self.times.items():
            look(name, count)
        return found

    @staticmethod
    def _collective(instruction: Instruction, kind: str, count: int, devices: int) -> Collective:
        group = group_of(instruction.attributes, devices)
        sizes = shape_bytes(instruction.shape)
        if instruction.opcode.endswith("-start") and kind != "all-reduce":  # (operands, results, contexts)
            sizes = [size for size in sizes if size > 4]
            if kind == "all-gather":
                total = round(sum(sizes) * len(group) / (len(group) + 1))
            elif kind == "reduce-scatter":
                total = round(sum(sizes) * len(group) / (len(group) + 1))
            else:
                total = sum(sizes) // 2
        else:
            total = sum(sizes) * (len(group) if kind == "reduce-scatter" else 1)
        return Collective(kind, total, group, count, instruction.name)


def _constant(named: dict[str, Instruction], name: str) -> int | None:
    """The value of an integer constant, also through a copy; None if it is none."""
    instruction = named.get(name)
    if instruction is not None and instruction.opcode == "copy":
        instruction = named.get(instruction.operands[0])
    number = re.match(r"(\d+)\)", instruction.attributes) if instruction is not None and instruction.opcode == "constant" else None
    return int(number[1]) if number else None


def group_of(attributes: str, devices: int) -> tuple[int, ...]:
    """The devices of a collective's first group, from any of HLO's notations: mesh axes, iota, lists."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        chosen = re.findall(r"'([^']+)'", match[2])
        grid = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        return tuple(grid[tuple(slice(None) if name in chosen else 0 for name in sizes)].ravel().tolist())
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        grid = np.arange(int(match[1]) * int(match[2])).reshape([int(size) for size in match[3].split(",")])
        grid = grid.transpose([int(axis) for axis in match[4].split(",")]) if match[4] else grid
        return tuple(grid.reshape(int(match[1]), int(match[2]))[0].tolist())
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]+)\}", attributes):
        return tuple(int(device) for device in match[1].split(","))
    return tuple(range(devices))
