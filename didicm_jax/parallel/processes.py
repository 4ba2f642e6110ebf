"""Several processes as one program: how they find, tell and outlive one another.

Every process runs the same code on its own devices and its own share of the data. Process 0 alone
writes reports. With one process everything here is free.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from didicm_jax.errors import UserError


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 600,
) -> None:
    """Joins the other processes of the run, where there are any; call it before any other of jax.

    Cloud TPU, SLURM, Open MPI and Kubernetes (an indexed Job or a JobSet, with the extra `k8s`)
    say themselves who takes part; elsewhere the three arguments do, and without them the run is of
    one process. `num_processes=1` asks nobody.

    Args:
      coordinator_address: host and port of process 0, reachable from all.
      num_processes: P.
      process_id: this one, 0..P-1.
      timeout: seconds after which a process that does not come, or is silent, is given up.

    Raises:
      UserError: the three are incomplete or impossible, or the others cannot be reached.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if num_processes == 1:
        return
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UserError(
            f"expected all of {', '.join(given)} or none, found it missing; add it",
            about=missing[0],
        )
    if coordinator_address is not None and num_processes is not None and process_id is not None:
        _check(coordinator_address, num_processes, process_id)
    elif not _may_detect():
        return
    if jax.distributed.is_initialized():
        return
    # Its handler of SIGTERM would replace the run's own, which tells the others through the step.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            # Else SLURM's idea of one device per process would hold for the rest.
            cluster_detection_method=None if missing else "deactivate",
            initialization_timeout=int(timeout),
            # Later than the run's own watch, so that its message comes first.
            heartbeat_timeout_seconds=int(timeout) + 30,
            shutdown_timeout_seconds=int(timeout),
        )
    except ValueError as error:
        if "coordinator_address should be defined" not in str(error):
            raise
    except (RuntimeError, KeyError) as error:
        if missing and "must be called before" in str(error):
            return  # called from a program that uses jax already, on its own
        raise UserError(
            f"expected {num_processes or 'all'} processes to meet at "
            f"{coordinator_address or 'the address that the cluster names'} within {timeout:g} s, "
            f"found {str(error)[:200]}; check the address and start all of them",
            about="coordinator_address",
        ) from error


def is_main() -> bool:
    """Whether this process is the one that reports."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether `flag` holds on any process; all must call it, and all learn the same."""
    return bool(gather(np.array([flag])).any())


def barrier() -> None:
    """Waits until all processes have come this far; all must call it."""
    gather(np.zeros(1, np.uint8))


@contextlib.contextmanager
def together(
    otherwise: UserError | None = None, *, fault: type[Exception] = Exception
) -> Iterator[None]:
    """What every process does for itself, and what ends it on one of them ends it on all.

    All must enter it. Nothing within may wait for another process, which may have refused by then
    what comes before.

    Args:
      otherwise: what is raised where another process has the fault; by default, that it refuses
        what it is given.
      fault: the kind of exception that the others are told of.

    Raises:
      fault: this process has it.
      UserError: another one has.
    """
    own: Exception | None = None
    try:
        yield
    except fault as error:
        own = error
    if any_process(own is not None):
        raise (
            own
            or otherwise
            or UserError(
                f"process {jax.process_index()}: expected all processes to accept what they are "
                "given, found that another one refuses it; see what it says"
            )
        )


def agree(facts: Mapping[str, Any]) -> None:
    """Refuses facts that are not the same on all processes: they would wait for other things.

    All must call it, with the same names in the same order.

    Raises:
      UserError: some differ, on all processes.
    """
    digests = [
        hashlib.blake2b(repr(value).encode(), digest_size=8).digest() for value in facts.values()
    ]
    rows = gather(np.frombuffer(b"".join(digests), np.uint64)[None])
    differs = (rows != rows[0]).any(0)
    if differs.any():
        others = [name for name, other in zip(facts, differs, strict=True) if other]
        raise UserError(
            "expected the same settings and data on all processes, found that they differ in "
            f"{', '.join(others)}; start all of them by the same command"
        )


@contextlib.contextmanager
def alone() -> Iterator[bool]:
    """What process 0 does alone, such as drawing, while the others wait, as long as it takes.

        with parallel.alone() as mine:
            if mine:
                ...

    All must enter it. A process 0 that dies meanwhile is noticed by its missing heartbeats.

    Yields:
      Whether this is process 0.

    Raises:
      UserError: on the others, where process 0 has failed.
    """
    failed = UserError(
        f"process {jax.process_index()}: expected process 0 to do its part, found that it failed; "
        "see its message"
    )
    with together(failed):
        yield is_main()


def gather(values: np.ndarray) -> np.ndarray:
    """The same-shaped `values` [n, ...] of all processes, [P·n, ...] in their order, bit for bit.

    For numbers that a step does not carry: it waits for everything that was dispatched before.
    """
    if jax.process_count() == 1:
        return values
    values = np.ascontiguousarray(values)
    # As bytes: jax would round a float64.
    raw = multihost_utils.process_allgather(values.view(np.uint8).reshape(-1))
    return np.asarray(raw).reshape(-1).view(values.dtype).reshape(-1, *values.shape[1:])


def _check(coordinator_address: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(
            f"expected host:port of process 0, found {coordinator_address!r}; write it like "
            "10.0.0.1:1234",
            about="coordinator_address",
        )
    if num_processes < 1:
        raise UserError(
            f"expected 1 or more, found {num_processes}; give their number", about="num_processes"
        )
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"expected 0 to {num_processes - 1}, found {process_id}; number the processes from 0",
            about="process_id",
        )


def _may_detect() -> bool:
    """Whether to ask the surroundings.

    A Kubernetes pod that is not one of an indexed Job (a notebook, say) is alone.

    Raises:
      UserError: it is one of several, but there is no client to ask who the others are.
    """
    if os.environ.get("SLURM_NTASKS") == "1":
        return False  # JAX would leave it one device of the node
    if "KUBERNETES_SERVICE_HOST" not in os.environ or "JAX_COORDINATOR_ADDRESS" in os.environ:
        return True
    if "JOB_COMPLETION_INDEX" not in os.environ:
        return False
    try:
        import kubernetes  # noqa: F401
    except ImportError as error:
        raise UserError(
            "expected the package kubernetes in a pod of an indexed Job, to find the other "
            "processes, found none; pip install '.[k8s]', or give coordinator_address, "
            "num_processes and process_id"
        ) from error
    return True
