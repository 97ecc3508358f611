"""FLOPs and bytes of a compiled program with its loops. The compiler's own count (`cost_analysis`) takes the body of a loop once.

FLOPs as the compiler counts them: two for each product of a convolution, which is what TPUs make of every matrix product, one for each element of
arithmetic. Bytes are those of operands and results, in whichever memory; a fusion that only slices an operand reads the slice, and what only renames moves nothing.
"""

import math
import re
from collections import defaultdict

from bert_jax.plan.hlo import Instruction, Program, shape_bytes, shape_dims

_ARITHMETIC = frozenset(
    "abs add and atan2 clamp compare convert divide floor maximum minimum multiply negate not or remainder round-nearest-even select shift-left "
    "shift-right-arithmetic shift-right-logical sign subtract xor".split()
)
_MOVES_NOTHING = frozenset(
    "after-all bitcast broadcast call conditional constant get-tuple-element iota parameter partition-id replica-id tuple while".split()
)


class Costs:
    def __init__(self, program: Program):
        self.program = program
        self.named = {name: {one.name: one for one in instructions} for name, instructions in program.computations.items()}
        self.kernels = {kernel.name: kernel for kernel in program.kernels()}

    def products(self) -> float:
        """FLOPs of a step's matrix products and kernels alone."""
        return sum(count * self.flops(name, arithmetic=False) for name, count in self.program.times.items())

    def repeated_flops(self) -> float:
        """Of every execution of a loop's body after the first."""
        return sum((count - 1) * self.flops(name) for name, count in self.program.times.items() if count > 1)

    def moved(self) -> float:
        """Bytes of a step."""
        return sum(count * self.bytes(instruction, name) for name, count in self.program.times.items() for instruction in self.program.computations[name])

    def flops(self, computation: str, *, arithmetic: bool = True) -> float:
        """Of one execution, with its fusions, without the loops in it. arithmetic: also those that are of no matrix product or kernel."""
        total = 0.0
        for one in self.program.computations[computation]:
            if one.opcode == "convolution":
                total += self._convolution(one, computation)
            elif one.opcode == "fusion":
                total += self.flops(one.called["calls"], arithmetic=arithmetic)
            elif one.name in self.kernels:
                total += self.kernels[one.name].flops or 0.0
            elif arithmetic and one.opcode in _ARITHMETIC:
                total += math.prod(shape_dims(one.shape))
            elif arithmetic and one.opcode == "reduce":
                total += math.prod(shape_dims(self._shape(one.operands[0], computation)))
        return total

    def _convolution(self, one: Instruction, computation: str) -> float:
        left, right = (shape_dims(self._shape(operand, computation)) for operand in one.operands[:2])
        out = shape_dims(one.shape)
        left_labels, right_labels, out_labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes).groups()
        window = re.search(r"window=\{([^}]*)\}", one.attributes)
        fields = dict(part.split("=") for part in window[1].split()) if window else {}
        total = 2.0 * out[out_labels.index("b")] * out[out_labels.index("f")] * right[right_labels.index("i")]
        for axis in range(len(out) - 2):
            total *= _window_products(
                left[left_labels.index(str(axis))], right[right_labels.index(str(axis))], out[out_labels.index(str(axis))],
                **{name: int(fields[name].split("x")[axis].split("_")[0]) for name in ("stride", "pad", "lhs_dilate", "rhs_dilate") if name in fields},
            )  # fmt: skip
        return total

    def bytes(self, one: Instruction, computation: str) -> float:
        """Read and written by one execution of an instruction."""
        if one.opcode in _MOVES_NOTHING or one.opcode.endswith("-done") or '"ConcatBitcast"' in one.attributes:
            return 0.0
        if one.name in self.kernels:
            return self.kernels[one.name].moved
        sizes = shape_bytes(one.shape)
        if one.opcode in ("copy-start", "slice-start", "async-start"):  # the operand, the result and a handle
            return 2.0 * min((size for size in sizes if size > 4), default=0)
        if one.opcode == "dynamic-slice":
            return 2.0 * sum(sizes)
        operands = [sum(shape_bytes(self._shape(operand, computation))) for operand in one.operands]
        if one.opcode == "dynamic-update-slice":
            return 2.0 * operands[1]
        if one.opcode == "gather":
            return 2.0 * sum(sizes) + operands[1]
        if one.opcode == "fusion":
            inside = one.called["calls"]
            return self._written(next(part for part in self.program.computations[inside] if part.root), inside) + sum(
                self._read(self._parameter(inside, number), inside, size) for number, size in enumerate(operands)
            )
        return float(sum(sizes) + sum(operands))

    def _read(self, name: str, inside: str, size: int) -> float:
        """Of a fusion's parameter of `size` bytes."""
        total = 0.0
        for user in self._users(inside)[name]:
            if user.opcode == "bitcast":
                total += self._read(user.name, inside, size)
            elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
                total += sum(shape_bytes(user.shape))
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                pass  # the rest stays where it is
            elif user.opcode == "fusion":
                inner = user.called["calls"]
                total += self._read(self._parameter(inner, user.operands.index(name)), inner, size)
            else:
                return size
        return min(total, size)

    def _written(self, one: Instruction, inside: str) -> float:
        if one.opcode == "bitcast":
            return self._written(self.named[inside][one.operands[0]], inside)
        if one.opcode == "tuple":
            return sum(self._written(self.named[inside][part], inside) for part in one.operands)
        if one.opcode == "dynamic-update-slice":
            return sum(shape_bytes(self._shape(one.operands[1], inside)))
        return sum(shape_bytes(one.shape))

    def _parameter(self, inside: str, number: int) -> str:
        return next(one.name for one in self.program.computations[inside] if one.opcode == "parameter" and one.attributes.startswith(f"{number})"))

    def _users(self, inside: str) -> dict[str, list[Instruction]]:
        users = defaultdict(list)
        for one in self.program.computations[inside]:
            for operand in one.operands:
                users[operand].append(one)
        return users

    def _shape(self, name: str, computation: str) -> str:
        one = self.named[computation].get(name)
        return one.shape if one is not None else ""


def _window_products(size: int, kernel: int, out: int, *, stride: int = 1, pad: int = 0, lhs_dilate: int = 1, rhs_dilate: int = 1) -> int:
    """Along one axis of a convolution the pairs of input and kernel that meet, and not padding or the gaps of a dilated input."""
    places = ((at * stride - pad + tap * rhs_dilate) for at in range(out) for tap in range(kernel))
    return sum(place % lhs_dilate == 0 and 0 <= place // lhs_dilate < size for place in places)
