"""Changes of some images of a batch, which are visited in groups."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

# A pass visits the batch in at most so many groups. Fewer would waste more on the last, partly
# empty group; more would leave an accelerator waiting between small kernels.
MOST_GROUPS = 16
# Products have intermediate results of a hundred times an image: not of more images than this.
_MAX_GROUP = 8


def for_chosen(
    chosen: chex.Array,
    change: Callable[..., chex.Array],
    inputs: tuple[Any, ...],
    result: chex.Array,
    gathers: bool,
) -> chex.Array:
    """Fills the chosen rows of `result` with `change(*inputs)`.

    Rows are visited in groups, the chosen ones first, and groups without any are skipped; what
    becomes of an image does not depend on its group. On several devices call it within `shard_map`:
    each then moves its own images only.

    Args:
      chosen: bool[B].
      change: a function of some rows of every input, to the same rows of the result.
      inputs: arrays [B,...].
      result: array [B,...], kept in the other rows.
      gathers: stop after the last group with a chosen row; else visit all groups, a number that
        the compiler knows and can count with.
    """
    batch = result.shape[0]
    size = -(-batch // MOST_GROUPS)
    size = size if gathers else min(size, _MAX_GROUP)
    order = jnp.argsort(~chosen, stable=True).astype(jnp.int32)
    count = jnp.sum(chosen, dtype=jnp.int32)

    def change_rows(rows: chex.Array) -> chex.Array:
        after = change(*jax.tree.map(lambda array: array[rows], inputs))
        kept = chosen[rows].reshape(size, *[1] * (result.ndim - 1))
        return jnp.where(kept, after, result[rows])

    def group(state: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
        done, filled = state
        # The last group starts early enough to be full. It may hold rows that were filled before,
        # or are not chosen: it reads the inputs, so nothing is changed twice.
        rows = jax.lax.dynamic_slice_in_dim(order, jnp.minimum(done, batch - size), size)
        if gathers:
            after = change_rows(rows)
        else:
            after = jax.lax.cond(done < count, change_rows, lambda rows: result[rows], rows)
        filled = filled.at[rows].set(after, mode="promise_in_bounds", unique_indices=True)
        return done + size, filled

    start = (jnp.zeros_like(count), result)
    if gathers:
        return jax.lax.while_loop(lambda state: state[0] < count, group, start)[1]
    return jax.lax.fori_loop(0, -(-batch // size), lambda _, state: group(state), start)[1]
