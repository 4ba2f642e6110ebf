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

# They move no memory: names for what is there, and the ends of what started elsewhere.
_BOOKKEEPING = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
        *("partition-id", "replica-id", "opt-barrier", "add-dependency", "async-update"),
        "domain",
    )
)
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


@dataclass(frozen=True)
class Run:
    """An instruction that the device carries out by itself, and how often."""

    instruction: Instruction
    computation: Computation  # that it stands in
    times: int
    known: bool  # False: within a loop whose rounds are not known, counted as one


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

    def runs(self) -> Iterator[Run]:
        """What the device carries out one by one: of loops the bodies, times their rounds.

        Of branches all are given, for which one is taken is not known.
        """
        yield from self._runs(self.entry, 1, True)

    def _runs(self, computation: Computation, times: int, known: bool) -> Iterator[Run]:
        for each in computation.instructions:
            if each.opcode in _BOOKKEEPING:
                continue
            if each.opcode == "while":
                rounds = self.rounds(each, computation)
                inner, sure = times * (rounds or 1), known and rounds is not None
            elif each.opcode in ("call", "conditional"):
                inner, sure = times, known
            else:
                yield Run(each, computation, times, known)
                continue
            for name in each.called:
                yield from self._runs(self.computations[name], inner, sure)

    def rounds(self, loop: Instruction, computation: Computation) -> int | None:
        """How often the body of a `while` runs; None where the text does not tell.

        XLA writes it down, but not for TPUs: there it follows from the condition, `i < constant`,
        and from what `i` starts at and grows by.
        """
        if found := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(found[1])
        condition, body = (self._named(loop, key) for key in ("condition", "body"))
        start = computation.by_name[loop.operands[0]]
        if condition is None or body is None or start.opcode != "tuple":
            return None
        test = condition.root
        if test.opcode != "compare" or "direction=LT" not in test.attributes:
            return None
        counter, limit = (condition.by_name[name] for name in test.operands)
        place = _element(counter)
        if place is None or body.root.opcode != "tuple":
            return None

        def first(place: int | None) -> int | None:
            """What an element of the loop's tuple is before the first round."""
            return None if place is None else _integer(computation, start.operands[place])

        grown = body.by_name[body.root.operands[place]]
        steps = [
            _integer(body, name)
            if _element(body.by_name[name]) is None
            else first(_element(body.by_name[name]))
            for name in grown.operands
            if _element(body.by_name[name]) != place
        ]
        stop = first(_element(limit)) if limit.opcode == _GET else _integer(condition, limit.name)
        begin = first(place)
        if grown.opcode != "add" or steps != [1] or stop is None or begin is None:
            return None
        return max(stop - begin, 0)

    def _named(self, instruction: Instruction, key: str) -> "Computation | None":
        found = re.search(rf"\b{key}=%?([\w.\-]+)", instruction.attributes)
        return self.computations[found[1]] if found else None

    def frames(self, instruction: Instruction) -> tuple[Frame, ...]:
        """The lines of Python that it was traced from, the innermost first.

        Of a fusion that says nothing, those of the last of its parts that does.
        """
        found = self._stack(instruction.frame)
        if not found:
            inner = [each for _, each in self.parts(instruction) if each.frame]
            found = self._stack(inner[-1].frame) if inner else ()
        return found

    def op_name(self, instruction: Instruction) -> str:
        """Its `op_name`, or that of the last of its parts that has one."""
        inner = [each.op_name for _, each in self.parts(instruction) if each.op_name]
        return instruction.op_name or (inner[-1] if inner else "")

    def _stack(self, number: int) -> tuple[Frame, ...]:
        frames, seen = [], set()
        while number in self._frames and number not in seen:
            seen.add(number)
            location, parent = self._frames[number]
            file, function, line = self._locations[location][:3]
            frames.append(Frame(self._files[file], self._functions[function], line))
            number = parent - 1  # written as the number behind
        return tuple(dict.fromkeys(frames))  # what jax had traced before stands there again

    def parts(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """What a fusion or an asynchronous call is made of, at any depth; itself left out."""
        if instruction.opcode in ("fusion", "async-start"):
            for name in instruction.called:
                computation = self.computations[name]
                for each in computation.instructions:
                    yield computation, each
                    yield from self.parts(each)

    def traffic(self, run: Run) -> int:
        """Bytes that it reads and writes when it runs once: its operands and its result.

        Of an operand that a fusion looks at through slices or gathers alone, those; of an array
        that it updates in place, the update. What ends an asynchronous operation moves nothing.
        """
        each, table = run.instruction, run.computation.by_name
        if each.opcode.endswith("-done"):
            return 0
        names = list(dict.fromkeys(each.operands))
        if each.opcode in _LOOKS:
            return 2 * each.bytes + sum(table[name].bytes for name in names[1:])
        if each.opcode in ("dynamic-update-slice", "scatter"):
            return 2 * sum(table[name].bytes for name in names[1:])
        if each.opcode == "fusion" and each.called:
            return self._fusion_traffic(each, table)
        read = self.read(run)
        if each.opcode.endswith("-start"):
            return 2 * read  # what it gives may name its operands again
        return read + each.bytes - _workspace(each)

    def read(self, run: Run) -> int:
        """Bytes of its operands, each counted once."""
        table = run.computation.by_name
        return sum(table[name].bytes for name in dict.fromkeys(run.instruction.operands))

    def _fusion_traffic(self, fusion: Instruction, table: Mapping[str, Instruction]) -> int:
        inner = self.computations[fusion.called[0]]
        parameters = {
            int(each.attributes.partition(")")[0]): each
            for each in inner.instructions
            if each.opcode == "parameter"
        }
        total, untouched = 0, 0
        whole: set[str] = set()
        for place, name in enumerate(fusion.operands):
            own, users = parameters[place], inner.users[parameters[place].name]
            looks = [x for x in users if x.opcode in _LOOKS and x.operands[0] == own.name]
            updates = [
                x for x in users if x.opcode == "dynamic-update-slice" and x.operands[0] == own.name
            ]
            if users and len(looks) + len(updates) == len(users):
                total += min(sum(x.bytes for x in looks), own.bytes)
                untouched += sum(x.bytes - inner.by_name[x.operands[1]].bytes for x in updates)
            elif name not in whole:
                whole.add(name)
                total += table[name].bytes
        return total + max(fusion.bytes - untouched, 0)

    def single_elements(self, run: Run) -> int:
        """Elements that it gathers or scatters one at a time, or in runs of less than eight."""
        inner = [(run.computation, run.instruction), *self.parts(run.instruction)]
        return sum(_single_elements(*each) for each in inner)


def _workspace(each: Instruction) -> int:
    """Bytes that a call of cuBLAS or cuDNN scribbles on: they stand last in what it gives."""
    last = each.arrays[-1] if each.target.startswith(("__cublas", "__cudnn")) else None
    if last is None or len(each.arrays) < 2 or len(last.shape) != 1:
        return 0
    return last.bytes if last.dtype in ("s8", "u8") else 0


_GET = "get-tuple-element"


def _element(each: Instruction) -> int | None:
    """Which element of a tuple it takes; None for what does something else."""
    found = re.search(r"\bindex=(\d+)", each.attributes) if each.opcode == _GET else None
    return int(found[1]) if found else None


def _integer(computation: Computation, name: str) -> int | None:
    """The number that a constant, or a copy of one, stands for."""
    each = computation.by_name[name]
    while each.opcode in ("copy", "bitcast"):
        each = computation.by_name[each.operands[0]]
    found = re.match(r"(-?\d+)\)", each.attributes) if each.opcode == "constant" else None
    return int(found[1]) if found else None


# They read a part of their first operand.
_LOOKS = ("gather", "dynamic-slice", "slice")
_FEW = 8  # elements side by side that are still single ones


def _single_elements(computation: Computation, each: Instruction) -> int:
    if each.opcode == "gather":
        sizes = re.search(r"slice_sizes=\{([\d,]*)\}", each.attributes)
        side_by_side = math.prod(int(x) for x in sizes[1].split(",") if x) if sizes else 1
        return sum(x.size for x in each.arrays) if side_by_side < _FEW else 0
    if each.opcode == "scatter":
        updates = computation.by_name[each.operands[-1]].arrays[0]
        window = re.search(r"update_window_dims=\{([\d,]*)\}", each.attributes)
        dimensions = [int(x) for x in window[1].split(",") if x] if window else []
        return updates.size if math.prod(updates.shape[x] for x in dimensions) < _FEW else 0
    return 0


# Rooms and libraries whose functions say where in a step one is, and wrappers that do not.
_WHERE = ("didicm_jax/models/", "didicm_jax/augment/", "didicm_jax/diffusion/", "flax/nnx/nn/")
_WRAPPERS = ("didicm_jax/models/convolution.py", "ScoreModel.score")


def module_of(frames: Sequence[Frame]) -> str:
    """Where in the networks, the augmentation or the loss something is, outermost first.

    `DiDiRN.output/Block.branches/Conv (resnet_layers.py:131)`: the functions on the way, and the
    innermost line of this package's own. Of what is in none of them the innermost function.
    """
    named = [
        frame
        for frame in frames
        if any(room in frame.file for room in _WHERE)
        and not any(each in f"{frame.file} {frame.function}" for each in _WRAPPERS)
    ] or list(frames[:1])
    if not named:
        return ""
    words = [frame.function.split(".<locals>")[0].removesuffix(".__call__") for frame in named]
    own = next((frame for frame in named if "didicm_jax/" in frame.file), named[0])
    path = "/".join(dict.fromkeys(reversed(words)))
    return f"{path} ({own.file.rpartition('/')[2]}:{own.line})"


def part_of(instruction: Instruction, op_name: str, frames: Sequence[Frame]) -> str:
    """The part of a training step (`training/step.py`): one of `PARTS`.

    The exchange has what is done for it too: the means, and the arrays laid side by side.
    """
    functions = [frame.function for frame in frames]
    within = any("per_device" in function for function in functions) or "shard_map" in op_name
    if instruction.collective or "/psum" in op_name:
        return "exchange"
    if any("didicm_jax/augment/" in frame.file for frame in frames):
        return "augmentation"
    if "transpose(" in op_name:
        return "backward"
    if "jvp(" in op_name:
        return "forward"
    if functions and "per_device" in functions[0]:
        return "exchange"
    if not within and any("train_step" in function for function in functions):
        return "optimizer"
    return "other"


PARTS = ("augmentation", "forward", "backward", "exchange", "optimizer", "other")


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
