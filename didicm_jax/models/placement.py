"""Where results lie on a mesh of explicit axes, which JAX asks for where it cannot tell.

Elsewhere (one device, axes that are XLA's concern, `shard_map`) nothing is asked, and each of these
is None. On such a mesh a place is always named: under `jax.vmap` no axis is seen to be spread, and
JAX adds to the name the one that is mapped.
"""

from typing import Any

import chex
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def with_rows_of(x: chex.Array, rank: int) -> NamedSharding | None:
    """Of an array whose first axis is spread as that of x."""
    return _on_mesh_of(x, jax.typeof(x).sharding.spec[0], *[None] * (rank - 1))


def whole(x: chex.Array) -> NamedSharding | None:
    """Of what is summed over the rows of x, which every device then has."""
    return _on_mesh_of(x)


def _on_mesh_of(x: chex.Array, *axes: Any) -> NamedSharding | None:
    mesh = jax.typeof(x).sharding.mesh
    return (
        NamedSharding(mesh, PartitionSpec(*axes)) if AxisType.Explicit in mesh.axis_types else None
    )
