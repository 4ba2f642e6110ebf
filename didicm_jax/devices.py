"""The mesh of all devices, and how a batch gets onto it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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


def round_up(batch_size: int, parts: int) -> int:
    """The smallest multiple of `parts` that is at least `batch_size`."""
    return -(-batch_size // parts) * parts
