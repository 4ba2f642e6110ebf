"""Where results lie on a mesh of explicit axes, which JAX asks for where it cannot tell.

Elsewhere (one device, axes that are XLA's concern, `shard_map`) nothing is asked, and each of these
is None.
"""

import chex
import jax
from jax.sharding import NamedSharding, PartitionSpec


def with_rows_of(x: chex.Array, rank: int) -> NamedSharding | None:
    """Of an array whose first axis is spread as that of x."""
    placed = jax.typeof(x).sharding
    if placed.spec[0] is None:
        return None
    return NamedSharding(placed.mesh, PartitionSpec(placed.spec[0], *[None] * (rank - 1)))


def whole(x: chex.Array) -> NamedSharding | None:
    """Of what is summed over the rows of x, which every device then has."""
    placed = jax.typeof(x).sharding
    return None if placed.spec[0] is None else NamedSharding(placed.mesh, PartitionSpec())
