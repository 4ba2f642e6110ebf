"""What a compiled step costs on its devices, in numbers: from its text and the makers' peaks."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax

from didicm_jax.augment.groups import MOST_GROUPS
from didicm_jax.parallel import chips
from didicm_jax.preflight import execution, hlo, origin, traffic
from didicm_jax.preflight.execution import Execution
from didicm_jax.preflight.program import Compiled
from didicm_jax.preflight.topologies import Topology, Tpu
from didicm_jax.training.plan import Plan, batch_fault

_LARGEST = 10
_SMALL = 1024  # elements: what a TPU's vector unit takes at once
ASSUMED = {
    "tpu": (
        "XLA's own estimates at the chip's clock, nothing measured; of loops of unknown length one "
        "round; of branches all; the host, and gathers of single elements, at no cost",
    ),
    "cuda": (
        "no time is estimated: what is given are floors, and the rates that follow are ceilings",
        "every kernel's operands and results cross the memory once, nothing stays in a cache",
        "of loops of unknown length one round; of branches all",
        "no autotuning and no Triton products; cuBLAS and cuDNN as chosen without a device",
    ),
}


def report(
    run: Plan, topology: Topology, step: Compiled, evaluation: Compiled, operations: float
) -> dict[str, Any]:
    """What `preflight.json` holds.

    Args:
      run: from `program.draft`.
      topology: that it was drafted for.
      step: its compiled training step.
      evaluation: its compiled evaluation.
      operations: floating-point operations of a device in a step.
    """
    allowed = min(step.allowed_bytes, evaluation.allowed_bytes)
    available = int(min(memory_available(topology), allowed))
    chip, config = topology.makers, run.config
    found: dict[str, Any] = {
        "topology": topology.name,
        "device_kind": topology.chip.kind,
        "chip": chip.name,
        "devices": topology.count,
        "hosts": topology.hosts,
        "batch_size": config.train.batch_size,
        "images_per_device": _images_per_device(run),
        "accumulate": config.train.accumulate,
        "parameters": sum(x.size for x in jax.tree.leaves(run.abstract.params)),
        "memory_bytes": step.total_bytes,
        "memory_available_bytes": available,
        "fits": step.total_bytes <= available,
        "evaluation": {
            "batch_size": config.evaluation.batch_size,
            "memory_bytes": evaluation.total_bytes,
            "fits": evaluation.total_bytes <= available,
            "compile_seconds": evaluation.seconds,
        },
        "flops_per_device": operations,
        "compute_floor_milliseconds": 1e3 * operations / chip.peak(config.model.dtype),
        "steps": run.durations.total,
        "compile_seconds": step.seconds,
        "assumed": list(ASSUMED[topology.platform]),
        "source": chip.source,
    }
    if not found["fits"]:
        found["would_fit"] = would_fit(run, step, available)
    if step.text:
        found |= _of_text(run, topology, step.text)
        found |= _rates(run, topology, found)
    return found


def _images_per_device(run: Plan) -> int:
    """Of a step, all micro-batches together."""
    return int(run.config.train.batch_size // run.mesh.size)


def memory_available(topology: Topology) -> int:
    """Bytes of a device that a program may take: of a GPU's, JAX leaves some to others.

    Raises:
      UserError: the environment says of a GPU what is no share of its memory.
    """
    whole = topology.makers.hbm_bytes
    return int(whole * chips.memory_fraction()) if topology.platform == "cuda" else whole


def would_fit(run: Plan, step: Compiled, available: int) -> dict[str, int | str | None]:
    """Images per device and micro-batch that fit, and the `train.accumulate` that gives them.

    In proportion: what is neither state nor batch grows with the images of a micro-batch. And a
    `train.remat` that needs less, None where it is already so, or the state alone is too large; how
    much less it needs is not known here.
    """
    config, share = run.config, _images_per_device(run)
    images = share // config.train.accumulate
    room = available - (step.total_bytes - step.temporary_bytes)
    most = math.floor(images * room / step.temporary_bytes) if step.temporary_bytes else 0
    parts = [
        parts
        for parts in range(1, share + 1)
        if share // parts <= most and not batch_fault(config, run.mesh.size, parts)
    ]
    return {
        "images_per_device": max(most, 0),
        "accumulate": parts[0] if parts else None,
        "remat": "blocks" if room > 0 and config.train.remat == "none" else None,
    }


@dataclass
class _Cost:
    """Of one instruction, all its rounds together."""

    execution: Execution
    part: str
    where: str
    amount: float  # milliseconds, or bytes

    def row(self, unit: str) -> dict[str, Any]:
        each = self.execution.instruction
        target = each.target or each.opcode
        shapes = " ".join(f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in each.arrays[:_SHOWN])
        return {
            "name": each.name,
            "operation": target,
            "result": shapes + (" ..." if len(each.arrays) > _SHOWN else ""),
            "part": self.part,
            "module": self.where,
            "times": self.execution.times,
            unit: self.amount,
        }


_SHOWN = 2


def _of_text(run: Plan, topology: Topology, text: str) -> dict[str, Any]:
    """What the text of the step tells."""
    program = hlo.Program(text)
    executed = list(execution.executions(program))
    exchanged = [each for each in executed if each.instruction.collective]
    # What is not more than a number for each image and draw is no pixel. Of the loops whose rounds
    # are not known RandAugment's alone gather pixels.
    numbers = _images_per_device(run) * run.config.diffusion.draws_per_image
    gathers = sum(
        elements * each.times * (1 if each.known else MOST_GROUPS)
        for each in executed
        if (elements := traffic.single_elements(program, each)) > numbers
    )
    found: dict[str, Any] = {
        "all_reduces": sum(each.times for each in exchanged),
        "all_reduce_bytes": sum(traffic.read(each) * each.times for each in exchanged),
        "all_reduce_groups": sorted({len(g) for x in exchanged for g in x.instruction.groups}),
        "pixel_gathers": gathers,
        "loops_of_unknown_length": sum(
            each.opcode == "while" and execution.rounds(program, each, computation) is None
            for computation in program.computations.values()
            for each in computation.instructions
        ),
    }
    found |= cost(program, executed, topology)
    if topology.platform == "cuda" and run.config.model.dtype == "bfloat16":
        found["float32_activations"] = _wide(program, executed, run)
    return found


def cost(program: hlo.Program, executed: Iterable[Execution], topology: Topology) -> dict[str, Any]:
    """What it takes: `estimated_milliseconds` of a TPU, `traffic_bytes` and `kernels` of a GPU.

    In sum, by part, and of the largest.

    Args:
      program: compiled for these devices.
      executed: all of `execution.executions`.
      topology: the devices.
    """
    if isinstance(topology.chip, Tpu):
        return _estimated(program, executed, topology.chip.clock)
    return _traffic(program, executed, topology)


def _estimated(program: hlo.Program, executed: Iterable[Execution], clock: float) -> dict[str, Any]:
    """By XLA's estimates."""
    costs, without = [], Counter[str]()
    for each in executed:
        cycles = each.instruction.estimated_cycles
        if cycles is not None:
            costs.append(_cost(program, each, 1e3 * cycles * each.times / clock))
        elif _counts(each.instruction):
            without[each.instruction.opcode] += each.times
    return {
        "estimated_milliseconds": sum(cost.amount for cost in costs),
        "branches_milliseconds": sum(cost.amount for cost in costs if cost.execution.chosen),
        "without_estimate": dict(without.most_common()),
        "estimates_by_part": _by_part(costs),
        "largest": [cost.row("milliseconds") for cost in _largest(costs)],
    }


def _counts(each: hlo.Instruction) -> bool:
    """Whether something without an estimate may take time: no counter, no end of another."""
    size = max((x.size for x in each.arrays), default=0)
    works = each.collective or each.opcode == "custom-call" or size >= _SMALL
    return bool(works) and not each.opcode.endswith("-done")


def _traffic(
    program: hlo.Program, executed: Iterable[Execution], topology: Topology
) -> dict[str, Any]:
    """By the bytes that the kernels read and write."""
    kernels = _kernels(executed)
    costs = [_cost(program, each, traffic.moved(program, each) * each.times) for each in kernels]
    total = sum(cost.amount for cost in costs)
    per_millisecond = topology.makers.hbm_bandwidth / 1e3
    return {
        "estimated_milliseconds": None,
        "traffic_bytes": total,
        "traffic_floor_milliseconds": total / per_millisecond,
        "kernels": sum(each.times for each in kernels),
        "estimates_by_part": {
            part: amount / per_millisecond for part, amount in _by_part(costs).items()
        },
        "largest": [cost.row("traffic_bytes") for cost in _largest(costs)],
    }


def _kernels(executed: Iterable[Execution]) -> list[Execution]:
    return [each for each in executed if not each.instruction.opcode.endswith("-done")]


def _wide(program: hlo.Program, executed: Iterable[Execution], run: Plan) -> dict[str, Any]:
    """Arrays of float32 that kernels of the network write in a run in bfloat16.

    Counted are those of an image's size or more for each image of a micro-batch.
    """
    images = _images_per_device(run) // run.config.train.accumulate
    least = images * math.prod(run.dataset.image_shape)
    wide = []
    for each in _kernels(executed):
        arrays = [x for x in each.instruction.arrays if x.dtype == "f32" and x.size >= least]
        if arrays:
            found = _cost(program, each, sum(x.bytes for x in arrays) * each.times)
            if found.part in ("forward", "backward"):
                wide.append(found)
    return {
        "kernels": sum(cost.execution.times for cost in wide),
        "bytes": sum(cost.amount for cost in wide),
        "largest": [cost.row("bytes") for cost in _largest(wide)[:3]],
    }


def _cost(program: hlo.Program, executed: Execution, amount: float) -> _Cost:
    instruction = executed.instruction
    frames = program.frames(instruction)
    part = origin.part_of(instruction, program.op_name(instruction), frames)
    return _Cost(executed, part, origin.module_of(frames), amount)


def _by_part(costs: Iterable[_Cost]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for cost in costs:
        sums[cost.part] += cost.amount
    return {part: sums[part] for part in origin.PARTS}


def _largest(costs: Iterable[_Cost]) -> list[_Cost]:
    return sorted(costs, key=lambda cost: -cost.amount)[:_LARGEST]


def _rates(run: Plan, topology: Topology, found: dict[str, Any]) -> dict[str, Any]:
    """What follows of the time of a step: of XLA's estimate, or of the higher of the floors."""
    floor = found["compute_floor_milliseconds"]
    estimated = found["estimated_milliseconds"]
    basis = "estimate" if estimated is not None else "floor"
    step = max(floor, found["traffic_floor_milliseconds"]) if estimated is None else estimated
    rate = 1e3 * run.config.train.batch_size / step
    return {
        "step_milliseconds": step,
        "step_milliseconds_is": basis,
        "peak_share": floor / step,
        "images_per_second": rate,
        "images_per_second_per_chip": rate / topology.count,
        "images_per_second_per_host": rate / topology.hosts,
        "hours": run.durations.total * step / 3.6e6,
    }
