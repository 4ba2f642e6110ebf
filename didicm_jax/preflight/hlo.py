"""Reads the text of a compiled program: `jax.stages.Compiled.as_text()`. Knows no jax.

The text is a list of computations, each a list of instructions, `%name = TYPE OPCODE(OPERANDS),
ATTRIBUTES`. One of them is the entry; loops, fusions, calls and branches name others.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

# Bits of an element; what is not here (tokens, opaque) has none.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "c64": 64, "c128": 128} | {
    f"{kind}{bits}": bits
    for kind, widths in (("s", (8, 16, 32, 64)), ("u", (8, 16, 32, 64)), ("f", (16, 32, 64)))
    for bits in widths
}
_ARRAY = re.compile(r"(\w+)\[([0-9,<=]*)\]")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*-> .*\{$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Frame(NamedTuple):
    """A line of Python that an instruction was traced from."""

    file: str
    function: str  # `DiDiRN.encode`
    line: int


@dataclass(frozen=True)
class Array:
    """An array of a type, or one of a tuple's."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Its bytes, rounded up; padding that a layout adds is not counted."""
        bits = 8 if self.dtype.startswith("f8") else _BITS.get(self.dtype, 0)
        bits = 16 if self.dtype == "bf16" else bits
        return -(-self.size * bits // 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # what it gives
    operands: tuple[str, ...]  # names, within its computation
    attributes: str  # the rest of the line
    root: bool

    @property
    def bytes(self) -> int:
        """Of what it gives."""
        return sum(array.bytes for array in self.arrays)

    @cached_property
    def op_name(self) -> str:
        """Where it comes from in the traced program, `jit(step)/.../conv`; "" where unknown."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1] if found else ""

    @cached_property
    def frame(self) -> int:
        """The number of the Python stack that it comes from; 0 where unknown."""
        found = re.search(r"stack_frame_id=(\d+)", self.attributes)
        return int(found[1]) if found else 0

    @cached_property
    def called(self) -> tuple[str, ...]:
        """The computations that run as a part of it; of a reduction's the function of two."""
        names = _CALLED.findall(self.attributes)
        if branches := _BRANCHES.search(self.attributes):
            names += _OPERAND.findall(branches[1]) or branches[1].replace(" ", "").split(",")
        return tuple(names)

    @cached_property
    def estimated_cycles(self) -> int | None:
        """XLA's estimate for the chip, which compilers for TPUs write."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @cached_property
    def target(self) -> str:
        """The function of a library that a `custom-call` calls; "" for others."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def collective(self) -> str:
        """Which of `COLLECTIVES` it is or starts; "" for none."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in COLLECTIVES else ""

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The devices that a collective takes together; () where the text does not list them."""
        if found := re.search(r"replica_groups=\{(\{.*?\})\}", self.attributes):
            groups = re.findall(r"\{([\d,]+)\}", found[1])
            return tuple(tuple(int(x) for x in group.split(",")) for group in groups)
        found = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[\d+\](?!T)", self.attributes)
        if found is None:
            return ()
        count, size = int(found[1]), int(found[2])
        return tuple(tuple(range(i * size, (i + 1) * size)) for i in range(count))


@dataclass
class Computation:
    """A list of instructions, in the order in which they run."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """Its instructions by their names."""
        return {each.name: each for each in self.instructions}

    @cached_property
    def users(self) -> Mapping[str, list[Instruction]]:
        """For each instruction those that take what it gives."""
        found: dict[str, list[Instruction]] = {each.name: [] for each in self.instructions}
        for each in self.instructions:
            for name in set(each.operands) & found.keys():
                found[name].append(each)
        return found

    @cached_property
    def root(self) -> Instruction:
        """What it gives."""
        return next(each for each in self.instructions if each.root)


class Program:
    """A compiled program, of one device."""

    def __init__(self, text: str) -> None:
        """Parses the text.

        Raises:
          ValueError: it has no entry computation.
        """
        self.computations: dict[str, Computation] = {}
        entry, current, lines = "", None, text.splitlines()
        for line in lines:
            if current is None:
                if found := _COMPUTATION.match(line):
                    current = self.computations[found[2]] = Computation(found[2])
                    entry = found[2] if found[1] else entry
            elif line.startswith("}"):
                current = None
            elif (instruction := _instruction(line)) is not None:
                current.instructions.append(instruction)
        if not entry:
            raise ValueError("expected the text of a compiled program, found no entry computation")
        self.entry = self.computations[entry]
        begin = next(i for i, line in enumerate(lines) if _COMPUTATION.match(line))
        tables = _tables(lines[:begin])
        self._files, self._functions = (
            {number: name.strip('"') for number, name in tables.get(key, {}).items()}
            for key in ("FileNames", "FunctionNames")
        )
        self._locations, self._frames = (
            {number: _numbers(text) for number, text in tables.get(key, {}).items()}
            for key in ("FileLocations", "StackFrames")
        )

    def frames(self, instruction: Instruction) -> tuple[Frame, ...]:
        """The lines of Python that it was traced from, the innermost first.

        Of a fusion that says nothing, those of the last of what it is made of that does.
        """
        found = self._stack(instruction.frame)
        if not found:
            within = [each for _, each in self.inner(instruction) if each.frame]
            found = self._stack(within[-1].frame) if within else ()
        return found

    def op_name(self, instruction: Instruction) -> str:
        """Its `op_name`, or that of the last of what it is made of that has one."""
        within = [each.op_name for _, each in self.inner(instruction) if each.op_name]
        return instruction.op_name or (within[-1] if within else "")

    def _stack(self, number: int) -> tuple[Frame, ...]:
        frames, seen = [], set()
        while number in self._frames and number not in seen:
            seen.add(number)
            location, parent = self._frames[number]
            file, function, line = self._locations[location][:3]
            frames.append(Frame(self._files[file], self._functions[function], line))
            number = parent - 1  # written as the number behind
        return tuple(dict.fromkeys(frames))  # what jax had traced before stands there again

    def inner(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """What a fusion or an asynchronous call is made of, at any depth; itself left out."""
        if instruction.opcode in ("fusion", "async-start"):
            for name in instruction.called:
                computation = self.computations[name]
                for each in computation.instructions:
                    yield computation, each
                    yield from self.inner(each)


def _tables(lines: Sequence[str]) -> dict[str, dict[int, str]]:
    """The numbered tables before the computations: files, functions, lines and stacks."""
    tables: dict[str, dict[int, str]] = {}
    current: dict[int, str] = {}
    for line in lines:
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            current = tables[line] = {}
        elif found := re.match(r"(\d+) (.+)$", line):
            current[int(found[1])] = found[2]
    return tables


def _numbers(text: str) -> list[int]:
    return [int(x) for x in re.findall(r"=(\d+)", text)]


def _instruction(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    if head is None:
        return None
    end = _type_end(line, head.end())
    opened = line.find("(", end)
    closed = _closing(line, opened)
    opcode, inside, rest = line[end:opened].strip(), line[opened + 1 : closed], line[closed + 1 :]
    shapes = _ARRAY.findall(re.sub(r"/\*.*?\*/", "", line[head.end() : end]))
    return Instruction(
        name=head[2],
        opcode=opcode,
        arrays=tuple(
            Array(dtype, tuple(int(side.lstrip("<=")) for side in sides.split(",") if side))
            for dtype, sides in shapes
        ),
        operands=tuple(_OPERAND.findall(inside)),
        # Their number stands where others have operands.
        attributes=f"{inside}){rest}" if opcode in ("parameter", "constant") else rest,
        root=bool(head[1]),
    )


def _type_end(line: str, start: int) -> int:
    """Where a type ends: at a space outside parentheses."""
    if line[start] == "(":
        return _closing(line, start) + 1
    end = line.find(" ", start)
    return len(line) if end < 0 else end


def _closing(line: str, opened: int) -> int:
    """Where the parenthesis that opens there closes."""
    depth = 0
    for place in range(opened, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if depth == 0:
            return place
    return len(line)
