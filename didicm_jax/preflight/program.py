"""The programs of a run, compiled for devices that are not there."""

import math
import re
import time
from dataclasses import dataclass, replace
from typing import Any

import jax
import ml_collections

from didicm_jax import data, parallel
from didicm_jax.inference import program as inference
from didicm_jax.preflight import topologies
from didicm_jax.preflight.topologies import Topology
from didicm_jax.training import operations, plan, programs
from didicm_jax.training.plan import Plan


@dataclass(frozen=True)
class Compiled:
    """What a compiler says of a program of one device."""

    text: str  # "" where it does not fit
    temporary_bytes: int
    total_bytes: int  # with the results that do not take the memory of an argument
    seconds: float  # that compiling took
    # Of a device, for a program: XLA refuses to compile for more, and tells how much that is.
    allowed_bytes: float = math.inf


def draft(config: ml_collections.ConfigDict, dataset: data.Dataset, topology: Topology) -> Plan:
    """The plan of a run on these devices.

    Raises:
      UserError: the config has a mistake or does not fit the devices.
    """
    mesh = parallel.make_mesh(topologies.devices(topology))
    plan.check(config, mesh.size)
    return plan.draft(config, dataset, mesh)


def step(run: Plan, topology: Topology) -> Compiled:
    """The training step."""
    made: Any = programs.make_step(run)
    lowered = made.lower(run.abstract_state(), programs.abstract_batch(run))
    return _compile(lowered, topology, run)


def evaluation(run: Plan, topology: Topology) -> Compiled:
    """The program of the evaluations, on a batch of `config.evaluation.batch_size`.

    In its memory is the rest of the state too, which waits on the devices for the next step.
    """
    made = inference.create(run.config, run.graphdef, run.dataset.num_classes, run.mesh)
    size = parallel.round_up(run.config.evaluation.batch_size, run.mesh.size)
    state = run.abstract_state()
    found = _compile(made.lower(state.averaged, run.dataset.image_shape, size), topology, run)
    waiting = _bytes(state) - _bytes(state.averaged)
    return replace(found, total_bytes=found.total_bytes + waiting)


def operations_per_device(run: Plan) -> float:
    """Floating-point operations of a device in a training step, all micro-batches together."""
    return operations.of_step(run) / run.mesh.size


def _compile(lowered: jax.stages.Lowered, topology: Topology, run: Plan) -> Compiled:
    start = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=topologies.compiler_options(topology))
    except jax.errors.JaxRuntimeError as error:
        if (asked := _memory_asked(str(error))) is None:
            raise
        (used, allowed), took = asked, time.monotonic() - start
        temporary = max(used - _bytes(run.abstract_state()), 0)
        return Compiled("", temporary, used, took, allowed)
    memory: Any = compiled.memory_analysis()
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return Compiled(
        text=compiled.as_text() or "",
        temporary_bytes=memory.temp_size_in_bytes,
        total_bytes=total,
        seconds=time.monotonic() - start,
    )


def _bytes(tree: Any) -> int:
    """Of what a device holds of arrays that may be spread over several."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def _memory_asked(message: str) -> tuple[int, int] | None:
    """Bytes that a program would take, and the fewer that it may, of the error that says so; None
    of others.

    "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm."
    """
    found = re.search(r"Used ([\d.]+)([KMG]?) of ([\d.]+)([KMG]?) hbm", message)
    if found is None:
        return None
    used, allowed = (int(float(found[at]) * _UNITS[found[at + 1]]) for at in (1, 3))
    return max(used, allowed + 1), allowed  # they are rounded
