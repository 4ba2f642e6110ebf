"""The mesh of all devices, and how a batch gets onto it."""

from collections.abc import Sequence

import chex
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The one axis of the mesh: every device holds the same network and its share of the batch.
AXIS = "data"


def make_mesh(chosen: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, or the chosen ones, along one axis, those of a process side by
    side.

    So the rows that a process loads are the rows of its devices, on any topology
    (`jax.make_mesh` would order TPUs by their links, which an all-reduce over all of them does not
    need).
    """
    devices = sorted(
        jax.devices() if chosen is None else chosen,
        key=lambda device: (device.process_index, device.id),
    )
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def one_device() -> Mesh:
    """The first device of this process alone: for what each process does by itself."""
    return make_mesh(jax.local_devices()[:1])


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def spread(tree: chex.ArrayTree, mesh: Mesh) -> chex.ArrayTree:
    """A sharding for each array: split over the devices along its longest axis that they divide.

    Arrays with no such axis are on every device. For state that only an update reads.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct`s.
      mesh: from `make_mesh`.
    """

    def one(x: chex.Array) -> NamedSharding:
        axes = [axis for axis, size in enumerate(x.shape) if size and size % mesh.size == 0]
        if not axes:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, AXIS))

    return jax.tree.map(one, tree)


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


def to_host(batch: jax.Array) -> np.ndarray:
    """This process's rows of an array split along the first axis; the inverse of `shard`."""
    parts = sorted(batch.addressable_shards, key=lambda part: part.index[0].start or 0)
    return np.concatenate([np.asarray(part.data) for part in parts])


def from_hosts(number: float, mesh: Mesh) -> jax.Array:
    """One number of each process, as an array f32[D] over the devices that sums to their sum."""
    local = np.zeros(len(mesh.local_devices), np.float32)
    local[0] = number
    return shard({"": local}, mesh)[""]


def round_up(batch_size: int, parts: int) -> int:
    """The smallest multiple of `parts` that is at least `batch_size`."""
    return -(-batch_size // parts) * parts
