"""What a device carries out of a compiled program, one by one, and how often."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from didicm_jax.preflight.hlo import Computation, Instruction, Program

# They move no memory: names for what is there, and the ends of what started elsewhere.
_BOOKKEEPING = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
        *("partition-id", "replica-id", "opt-barrier", "add-dependency", "async-update"),
        "domain",
    )
)
_GET = "get-tuple-element"


@dataclass(frozen=True)
class Execution:
    """An instruction that the device carries out by itself, and how often."""

    instruction: Instruction
    computation: Computation  # that it stands in
    times: int
    known: bool  # False: within a loop whose rounds are not known, counted as one
    chosen: bool  # whether it stands in a branch, of which all are given


def executions(program: Program) -> Iterator[Execution]:
    """What the device carries out one by one: of loops the bodies, times their rounds.

    Of branches all are given, for which one is taken is not known.
    """
    yield from _executions(program, program.entry, 1, True, False)


def _executions(
    program: Program, computation: Computation, times: int, known: bool, chosen: bool
) -> Iterator[Execution]:
    for each in computation.instructions:
        if each.opcode in _BOOKKEEPING:
            continue
        if each.opcode == "while":
            count = rounds(program, each, computation)
            inner, sure = times * (count or 1), known and count is not None
        elif each.opcode in ("call", "conditional"):
            inner, sure = times, known
        else:
            yield Execution(each, computation, times, known, chosen)
            continue
        branch = chosen or each.opcode == "conditional"
        for name in each.called:
            yield from _executions(program, program.computations[name], inner, sure, branch)


def rounds(program: Program, loop: Instruction, computation: Computation) -> int | None:
    """How often the body of a `while` runs; None where the text does not tell.

    XLA writes it down, but not for TPUs: there it follows from the condition, `i < constant`,
    and from what `i` starts at and grows by.
    """
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(found[1])
    condition, body = (_named(program, loop, key) for key in ("condition", "body"))
    start = computation.by_name[loop.operands[0]]
    if condition is None or body is None or start.opcode != "tuple":
        return None
    test = condition.root
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, limit = (_uncopied(condition, name) for name in test.operands)
    place = _element(counter)
    if place is None or body.root.opcode != "tuple":
        return None

    def first(each: Instruction) -> int | None:
        """The number that it is in the first round, of the loop's tuple or of a constant."""
        element = _element(each)
        if element is None:
            return _integer(each)
        return _integer(_uncopied(computation, start.operands[element]))

    grown = _uncopied(body, body.root.operands[place])
    added = [_uncopied(body, name) for name in grown.operands]
    steps = [first(each) for each in added if _element(each) != place]
    begin, stop = first(counter), first(limit)
    if grown.opcode != "add" or steps != [1] or stop is None or begin is None:
        return None
    return max(stop - begin, 0)


def _uncopied(computation: Computation, name: str) -> Instruction:
    """What this is a copy of, or itself: XLA copies the counters of loops that are crowded."""
    each = computation.by_name[name]
    while each.opcode in ("copy", "bitcast"):
        each = computation.by_name[each.operands[0]]
    return each


def _named(program: Program, instruction: Instruction, key: str) -> Computation | None:
    found = re.search(rf"\b{key}=%?([\w.\-]+)", instruction.attributes)
    return program.computations[found[1]] if found else None


def _element(each: Instruction) -> int | None:
    """Which element of a tuple it takes; None for what does something else."""
    found = re.search(r"\bindex=(\d+)", each.attributes) if each.opcode == _GET else None
    return int(found[1]) if found else None


def _integer(each: Instruction) -> int | None:
    """The number of a constant."""
    found = re.match(r"(-?\d+)\)", each.attributes) if each.opcode == "constant" else None
    return int(found[1]) if found else None
