"""What every function of this package asks of its arguments.

Shapes: B images of HxW pixels and C channels.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp

from didicm_jax.errors import UserError

T = TypeVar("T")


def check(keys: chex.PRNGKey, images: chex.Array) -> None:
    """Asserts typed keys [B] for u8[B,H,W,C]: an old u32[2] key would be taken for two of them.

    Raises:
      ValueError: the keys are not typed.
      AssertionError: a rank, type or shape is wrong.
    """
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(f"expected typed keys [B] (jax.random.key), found {keys.dtype}")
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
    chex.assert_shape(keys, images.shape[:1])


def by_device(function: Callable[..., T], images: chex.Array, *rows: Any) -> T:
    """`function(images, *rows)`; on a mesh of explicit axes each device does it for its own rows.

    JAX refuses there what may move rows between devices, which reads by an index and sorts may.

    Args:
      function: of arrays [B,...] to arrays [B,...].
      images: [B,...], which say where the rows are.
      rows: what belongs to the images, [B,...], or None.
    """
    placed = jax.typeof(images).sharding
    rows_axis = placed.spec[0]
    if rows_axis is None:
        return function(images, *rows)
    spec = jax.P(rows_axis)
    ours = jax.sharding.NamedSharding(placed.mesh, spec)
    given = jax.tree.map(lambda x: jax.sharding.reshard(x, ours), (images, *rows))
    result: T = jax.shard_map(function, mesh=placed.mesh, in_specs=spec, out_specs=spec)(*given)
    return result


def check_channels(images: chex.Array) -> None:
    """Refuses images that are neither grey nor red, green, blue.

    Raises:
      UserError: C is not 1 or 3.
    """
    if images.shape[-1] not in (1, 3):
        raise UserError(
            "config.augment: expected images of 1 or 3 channels for color_jitter and rand_augment, "
            f"found {images.shape[-1]}: turn both off"
        )
