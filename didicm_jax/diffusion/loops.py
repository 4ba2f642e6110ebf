"""The loops of the samplers: a fixed number of steps, or as many as the batch needs.

Shape symbols: `B` images, `K` classes, `S` steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion import numerics
from didicm_jax.diffusion.integrators import Integrator, Level
from didicm_jax.diffusion.steps import bayes_step, denoise

# (p f32[B, K], level) -> log score f32[B, K]: chooses a label and asks the network about it.
Ask = Callable[[chex.Array, Level], chex.Array]


def scan(body: Callable, start: Any, levels: Any) -> tuple[Any, Any]:
    """`lax.scan` whose carry may start out replicated and come back sharded."""
    cast = _typed_after(start, lambda carry: body(carry, _first(levels))[0])

    def typed(carry: Any, level: Any) -> tuple[Any, Any]:
        carry, result = body(carry, level)
        return cast(carry), result

    return jax.lax.scan(typed, cast(start), levels)


class Walk(NamedTuple):
    """What the walks over class probabilities return."""

    probs: chex.Array  # f32[B, K]
    path: chex.Array | None  # f32[S, B, K], p after every step
    steps_used: chex.Array  # i32[B]


def every_step(
    integrator: Integrator, ask: Ask, start: chex.Array, levels: Level, *, keep_path: bool
) -> Walk:
    """All S steps from p = `start`, f32[B, K]; has a reverse-mode derivative."""

    def body(carry: tuple[chex.Array, Any], level: Level) -> tuple[Any, chex.Array | None]:
        probs, memory = carry
        probs, memory = integrator.step(probs, memory, ask(probs, level), level)
        return (probs, memory), probs if keep_path else None

    (probs, _), path = scan(body, (start, integrator.init(start)), levels)
    return Walk(probs, path, jnp.full_like(probs[:, 0], len(levels.sigma), jnp.int32))


class _Progress(NamedTuple):
    """The carry of `until_still`."""

    count: chex.Array  # i32[], steps made
    probs: chex.Array  # f32[B, K], p
    memory: Any  # of the integrator
    posterior: chex.Array  # f32[B, K], the answer if the walk stopped here
    done: chex.Array  # bool[B], decided: the answer stays
    steps_used: chex.Array  # i32[B]
    path: chex.Array | None  # f32[S, B, K]


def until_still(
    integrator: Integrator,
    ask: Ask,
    start: chex.Array,
    levels: Level,
    *,
    tolerance: float,
    keep_path: bool,
) -> Walk:
    """Steps until the posterior of every image has stopped moving; see `sample_cp`.

    Args:
      integrator: takes the steps.
      ask: calls the network.
      start: f32[B, K].
      levels: of at most S steps.
      tolerance: total variation still to come under which an image is decided.
      keep_path: also return p after every step.
    """
    batch_size, steps = start.shape[0], levels.sigma.shape[0]
    start = _typed_after(start, lambda probs: ask(probs, _first(levels)))(start)
    sigma_last = jnp.full((batch_size,), levels.sigma_end[-1])

    def body(now: _Progress) -> _Progress:
        level = jax.tree.map(lambda x: x[now.count], levels)
        log_score = ask(now.probs, level)
        probs, memory = integrator.step(now.probs, now.memory, log_score, level)
        sigma, sigma_end = (jnp.full((batch_size,), s) for s in (level.sigma, level.sigma_end))
        clean = denoise(log_score.astype(probs.dtype), sigma)
        rest = numerics.normalize(bayes_step(probs, clean, sigma_end, sigma_last))
        posterior = jnp.where(now.count == steps - 1, probs, rest)
        moved = jnp.abs(posterior - now.posterior).sum(-1) / 2
        to_come = moved * jnp.maximum(steps - 1 - now.count, 1).astype(moved.dtype)
        posterior = jnp.where(now.done[:, None], now.posterior, posterior)
        # The first posterior has nothing to be compared with: the start is no posterior.
        done = now.done | ((to_come < tolerance) & (now.count > 0))
        path = now.path
        if path is not None:
            path = path.at[now.count].set(jnp.where(done[:, None], posterior, probs))
        steps_used = jnp.where(now.done, now.steps_used, now.count + 1)
        return _Progress(now.count + 1, probs, memory, posterior, done, steps_used, path)

    def goes_on(now: _Progress) -> chex.Array:
        return (now.count < steps) & ~now.done.all()

    begin = _Progress(
        count=jnp.zeros((), jnp.int32),
        probs=start,
        memory=integrator.init(start),
        posterior=start,
        done=jnp.zeros_like(start[:, 0], bool),
        steps_used=jnp.zeros_like(start[:, 0], jnp.int32),
        path=jnp.broadcast_to(jnp.zeros_like(start), (steps, *start.shape)) if keep_path else None,
    )
    cast = _typed_after(begin, body)
    end = jax.lax.while_loop(goes_on, lambda now: cast(body(now)), cast(begin))
    path = end.path
    if path is not None:
        made = jnp.arange(steps, dtype=jnp.int32)[:, None, None] < end.count
        path = jnp.where(made, path, end.posterior[None])
    return Walk(end.posterior, path, end.steps_used)


def _typed_after(start: Any, body: Callable) -> Callable[[Any], Any]:
    """A cast of the loop's carry to the one type that it has before and after `body`.

    A loop wants one type for both, and the type says where an array is. Under `jax.shard_map` the
    start is the same on all devices while the result of a step varies with the features of the
    score function. The whole carry is cast: how many steps a device makes varies with its images
    too. On a mesh of explicit axes the start is whole on each device, and the result is spread as
    the features are.
    """
    after = jax.eval_shape(body, start)
    axes = frozenset().union(
        *(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(after))
    )

    def cast(x: chex.Array, result: Any) -> chex.Array:
        missing = axes - jax.typeof(x).manual_axis_type.varying
        x = jax.lax.pcast(x, tuple(missing), to="varying") if missing else x
        place = jax.typeof(result).sharding
        spread = any(place.spec) and place != jax.typeof(x).sharding
        return jax.sharding.reshard(x, place) if spread else x

    return lambda carry: jax.tree.map(cast, carry, after)


def _first(levels: Any) -> Any:
    return jax.tree.map(lambda x: x[0], levels)
