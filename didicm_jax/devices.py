"""The mesh of all devices, and how a batch gets onto it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from didicm_jax.errors import UserError

# The one axis of the mesh: every device holds the same network and its share of the batch.
AXIS = "data"


def make_mesh() -> Mesh:
    """All devices of all processes along one axis."""
    return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shard(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's share of a batch on its devices, split along the first axis.

    Args:
      batch: host arrays, each with the process's rows of the global batch first.
      mesh: from `make_mesh`.

    Returns:
      Global arrays; the transfer is asynchronous.
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def check_divides(key: str, batch_size: int, parts: int, what: str) -> None:
    """Refuses a batch that cannot be split evenly.

    Raises:
      UserError: naming `config.{key}`, the batch and the parts.
    """
    if batch_size % parts:
        near = max(1, round(batch_size / parts)) * parts
        raise UserError(
            f"config.{key}: expected a multiple of {parts} ({what}), found {batch_size}; try {near}"
        )
