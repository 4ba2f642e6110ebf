"""What an instruction reads and writes: bytes, and elements one at a time."""

import math
import re
from collections.abc import Mapping

from didicm_jax.preflight.execution import Execution
from didicm_jax.preflight.hlo import Computation, Instruction, Program

# They read a part of their first operand.
_LOOKS = ("gather", "dynamic-slice", "slice")
_FEW = 8  # elements side by side that are still single ones


def moved(program: Program, execution: Execution) -> int:
    """Bytes that it reads and writes when it runs once: its operands and its result.

    Of an operand that a fusion looks at through slices or gathers alone, those; of an array
    that it updates in place, the update. What ends an asynchronous operation moves nothing.
    """
    each, table = execution.instruction, execution.computation.by_name
    if each.opcode.endswith("-done"):
        return 0
    names = list(dict.fromkeys(each.operands))
    if each.opcode in _LOOKS:
        return 2 * each.bytes + sum(table[name].bytes for name in names[1:])
    if each.opcode in ("dynamic-update-slice", "scatter"):
        return 2 * sum(table[name].bytes for name in names[1:])
    if each.opcode == "fusion" and each.called:
        return _fusion_traffic(program, each, table)
    operands = read(execution)
    if each.opcode.endswith("-start"):
        return 2 * operands  # what it gives may name its operands again
    return operands + each.bytes - _workspace(each)


def read(execution: Execution) -> int:
    """Bytes of its operands, each counted once."""
    table = execution.computation.by_name
    return sum(table[name].bytes for name in dict.fromkeys(execution.instruction.operands))


def _fusion_traffic(program: Program, fusion: Instruction, table: Mapping[str, Instruction]) -> int:
    inner = program.computations[fusion.called[0]]
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


def single_elements(program: Program, execution: Execution) -> int:
    """Elements that it gathers or scatters one at a time, or in runs of less than eight."""
    inner = [(execution.computation, execution.instruction), *program.inner(execution.instruction)]
    return sum(_single_elements(*each) for each in inner)


def _workspace(each: Instruction) -> int:
    """Bytes that a call of cuBLAS or cuDNN scribbles on: they stand last in what it gives."""
    last = each.arrays[-1] if each.target.startswith(("__cublas", "__cudnn")) else None
    if last is None or len(each.arrays) < 2 or len(last.shape) != 1:
        return 0
    return last.bytes if last.dtype in ("s8", "u8") else 0


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
