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


def executions(program: Program) -> Iterator[Execution]:
    """What the device carries out one by one: of loops the bodies, times their rounds.

    Of branches all are given, for which one is taken is not known.
    """
    yield from _executions(program, program.entry, 1, True)


def _executions(
    program: Program, computation: Computation, times: int, known: bool
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
            yield Execution(each, computation, times, known)
            continue
        for name in each.called:
            yield from _executions(program, program.computations[name], inner, sure)


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


def _named(program: Program, instruction: Instruction, key: str) -> Computation | None:
    found = re.search(rf"\b{key}=%?([\w.\-]+)", instruction.attributes)
    return program.computations[found[1]] if found else None


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
