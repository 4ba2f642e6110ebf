"""The loops of the samplers: a fixed number of steps, or as many as the batch needs.

Shape symbols: `B` images, `K` classes, `S` steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion.integrators import CPState, CPStep, Level
from didicm_jax.diffusion.steps import bayes_cp_step


def scan(body: Callable, start: Any, levels: Any) -> tuple[Any, Any]:
    """`lax.scan` whose carry may start out replicated and come back sharded."""
    first = jax.tree.map(lambda x: x[0], levels)
    return jax.lax.scan(body, _varying(start, lambda x: body(x, first)[0]), levels)


class Decided(NamedTuple):
    """What `until_still` returns."""

    probs: chex.Array  # f32[B, K]
    path: chex.Array | None  # f32[S, B, K]
    steps_used: chex.Array  # i32[B]


class _Progress(NamedTuple):
    """The carry of `until_still`."""

    count: chex.Array  # i32[], steps made
    state: CPState
    posterior: chex.Array  # f32[B, K], the answer if the walk stopped here
    done: chex.Array  # bool[B], decided: the answer stays
    steps_used: chex.Array  # i32[B]
    path: chex.Array | None  # f32[S, B, K]


def until_still(
    step: CPStep, start: chex.Array, levels: Level, *, tolerance: float, keep_path: bool
) -> Decided:
    """Steps until the posterior of every image has stopped moving; see `sample_cp`.

    Args:
      step: one step of the walk.
      start: f32[B, K].
      levels: of at most S steps.
      tolerance: total variation still to come under which an image is decided.
      keep_path: also return p after every step.
    """
    batch_size, steps = start.shape[0], levels.sigma.shape[0]
    sigma_last = jnp.full((batch_size,), levels.sigma_end[-1])

    def body(now: _Progress) -> _Progress:
        level = jax.tree.map(lambda x: x[now.count], levels)
        state, clean = step(now.state, level)
        sigma_end = jnp.full((batch_size,), level.sigma_end)
        rest = bayes_cp_step(state.probs, clean, sigma_end, sigma_last)
        rest = rest / rest.sum(-1, keepdims=True)
        posterior = jnp.where(now.count == steps - 1, state.probs, rest)
        moved = jnp.abs(posterior - now.posterior).sum(-1) / 2
        to_come = moved * jnp.maximum(steps - 1 - now.count, 1).astype(moved.dtype)
        posterior = jnp.where(now.done[:, None], now.posterior, posterior)
        # The first posterior has nothing to be compared with: the start is no posterior.
        done = now.done | ((to_come < tolerance) & (now.count > 0))
        path = now.path
        if path is not None:
            path = path.at[now.count].set(jnp.where(done[:, None], posterior, state.probs))
        steps_used = jnp.where(now.done, now.steps_used, now.count + 1)
        return _Progress(now.count + 1, state, posterior, done, steps_used, path)

    def goes_on(now: _Progress) -> chex.Array:
        return (now.count < steps) & ~now.done.all()

    begin = _Progress(
        count=jnp.zeros((), jnp.int32),
        state=CPState(start, start),
        posterior=start,
        done=jnp.zeros((batch_size,), bool),
        steps_used=jnp.zeros((batch_size,), jnp.int32),
        path=jnp.zeros((steps, *start.shape), start.dtype) if keep_path else None,
    )
    end = jax.lax.while_loop(goes_on, body, _varying(begin, body))
    path = end.path
    if path is not None:
        made = jnp.arange(steps)[:, None, None] < end.count
        path = jnp.where(made, path, end.posterior[None])
    return Decided(end.posterior, path, end.steps_used)


def _varying(start: Any, body: Callable) -> Any:
    """The carry that `body` starts from, with the type that it will have.

    Under `jax.shard_map` the start is the same on all devices while the result of a step varies
    with the features of the score function, and a loop wants one type for both. The whole carry is
    cast: how many steps a device makes varies with its images too.
    """
    after = jax.tree.leaves(jax.eval_shape(body, start))
    axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in after))

    def cast(x: chex.Array) -> chex.Array:
        missing = axes - jax.typeof(x).manual_axis_type.varying
        return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x

    return jax.tree.map(cast, start)
