"""The collectives of a compiled program: which, how large, over which devices, how often.

What enters: the text of a compiled program, `jitted.lower(...).compile().as_text()`, of CPU, GPU or TPU. What leaves: a `Collective` for every
all-reduce, all-gather, reduce-scatter, all-to-all and collective-permute in it. Shapes are those on one device, and so are bytes; a
collective inside a loop is listed once, with the loop's length in `times`.

    for kind, (count, size) in totals(collectives(text)).items(): ...       # runs and bytes per step of each kind
"""

import dataclasses
import math
import re
from collections import defaultdict

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}  # the others end in their number of bits
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLS = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)|\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_LIMIT = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")  # a scan counts from 0 to a constant of its condition
_KIND = re.compile(rf"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\(")


@dataclasses.dataclass(frozen=True)
class Collective:
    """kind: of KINDS. arrays: (dtype, shape) of what leaves, on one device; a reduce-scatter's are whole, as they enter. groups: the devices that
    exchange with each other, as positions in the mesh's `devices.flat`; for a collective-permute (from, to) pairs. times: runs per step.
    source: where in the program it comes from (`op_name`), or ""."""

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    groups: tuple[tuple[int, ...], ...]
    times: int
    source: str

    @property
    def size(self) -> int:
        """Devices in a group."""
        return len(self.groups[0]) if self.groups else 1

    @property
    def bytes(self) -> int:
        """Of the whole arrays of one run on one device: before a reduce-scatter, after an all-gather."""
        return sum(_item_bits(dtype) * math.prod(shape) for dtype, shape in self.arrays) // 8

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one run around a ring: twice (n - 1)/n of the array for an all-reduce, once for the others."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        return self.bytes * (self.size - 1) / self.size * (2 if self.kind == "all-reduce" else 1)

    def axes(self, sizes: dict[str, int]) -> tuple[str, ...]:
        """The mesh axes along which devices exchange; sizes: `mesh.shape`, name -> devices."""
        places = np.stack(np.unravel_index(np.array(self.groups), tuple(sizes.values())))
        return tuple(name for name, place in zip(sizes, places) if (place != place[:, :1]).any())


def collectives(text: str) -> list[Collective]:
    """ValueError if a collective's devices are written in a way that is not known here, or the length of a loop around it is not to be found."""
    found, calls, limits, entry, current = [], defaultdict(list), defaultdict(list), None, None
    for line in text.splitlines():
        if line and not line[0].isspace():
            if match := _COMPUTATION.match(line):
                current = match[2]
                entry = current if match[1] else entry
        elif match := _KIND.match(line):
            found.append((current, match[2], match[1], bool(match[3]), line))
        elif match := _LIMIT.search(line):
            limits[current].append(int(match[1]))
        elif "=%" in line or "={%" in line:
            trips = _TRIPS.search(line)
            condition = _CONDITION.search(line)
            for one, several in _CALLS.findall(line):
                for name in re.findall(r"[\w.\-]+", one or several):
                    calls[name].append((current, int(trips[1]) if trips else None, condition and condition[1]))
    runs: dict[str, int] = {entry: 1}

    def runs_of(name: str) -> int:
        if name not in runs:
            runs[name] = sum(runs_of(caller) * length(trips, condition) for caller, trips, condition in calls[name])
        return runs[name]

    def length(trips: int | None, condition: str | None) -> int:
        if condition is None:
            return 1
        if trips is None and len(limits[condition]) != 1:
            raise ValueError(f"there are collectives in a loop whose length is not to be found: {condition} compares with {limits[condition]}")
        return trips or limits[condition][0]

    return [_collective(kind, shapes, started, line, runs_of(name)) for name, kind, shapes, started, line in found if runs_of(name)]


def totals(found: list[Collective]) -> dict[str, tuple[int, int]]:
    """kind -> (runs per step, bytes per step and device)."""
    result = {kind: (0, 0) for kind in KINDS}
    for one in found:
        count, size = result[one.kind]
        result[one.kind] = (count + one.times, size + one.times * one.bytes)
    return {kind: total for kind, total in result.items() if total[0]}


def _collective(kind: str, shapes: str, started: bool, line: str, times: int) -> Collective:
    arrays = [(dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in _ARRAY.findall(shapes)]
    if started and kind == "collective-permute":
        arrays = arrays[:2]  # then its contexts
    if started and kind in ("all-gather", "collective-permute", "all-to-all"):
        arrays = arrays[len(arrays) // 2 :]  # what enters is listed first
    groups = _groups(line)
    if kind == "reduce-scatter":
        axis = int(re.search(r"dimensions=\{(\d+)\}", line)[1])
        arrays = [(dtype, (*shape[:axis], shape[axis] * len(groups[0]), *shape[axis + 1 :])) for dtype, shape in arrays]
    source = re.search(r'op_name="([^"]*)"', line)
    return Collective(kind, tuple(arrays), groups, times, source[1] if source else "")


def _groups(line: str) -> tuple[tuple[int, ...], ...]:
    """Four ways to write them: {{0,1},{2,3}}, [2,2]<=[4], [2,2]<=[2,2]T(1,0), mesh['a'=2,'b'=2] {'b'}."""
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", line):
        return tuple(tuple(int(number) for number in group.split(",")) for group in re.findall(r"\{([\d,]+)\}", match[1]))
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", line):
        return _tuples(_devices(match[2]).reshape(_numbers(match[1])))
    if match := re.search(r"replica_groups=@?mesh\[([^\]]*)\](?:, device_ids=\(([^ ]+)\))? \{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        devices = _devices(match[2]) if match[2] else np.arange(math.prod(sizes.values()))
        split, chosen = _split_axes(sizes, re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", match[3]))
        kept = [axis for axis in range(len(split)) if axis not in chosen]
        return _tuples(devices.reshape(split).transpose(*kept, *chosen).reshape(-1, math.prod(split[axis] for axis in chosen)))
    raise ValueError(f"the devices of this collective are written in an unknown way: {line.strip()[:500]}")


def _split_axes(sizes: dict[str, int], references: list[tuple[str, str, str]]) -> tuple[list[int], list[int]]:
    """The mesh's sizes with every axis of which only a part is meant, ('name', 'size before', 'size'), cut into three; the axes that are meant."""
    split, places = [], {}
    for name, size in sizes.items():
        parts = sorted((int(before), int(part)) for other, before, part in references if other == name and before)
        done = 1
        for before, part in parts:
            if before > done:
                split.append(before // done)
            places[name, before] = len(split)
            split.append(part)
            done = before * part
        if not parts:
            places[name, 0] = len(split)
        if done < size or not parts:
            split.append(size // done)
    return split, [places[name, int(before or 0)] for name, before, _ in references]


def _devices(text: str) -> np.ndarray:
    """[4,2]T(1,0) or [8]: 0 to n - 1 in this shape, transposed."""
    shape, _, order = text.partition("T")
    devices = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return devices.transpose(_numbers(order)) if order else devices


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _tuples(groups: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(group) for group in groups.tolist())


def _item_bits(dtype: str) -> int:
    return _BITS.get(dtype) or int(re.search(r"\d+$", dtype)[0])
