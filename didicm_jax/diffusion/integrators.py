"""One step of DiDiCM-CP, with the network call in it: which label is asked, what is done with p.

Shape symbols: `B` images, `K` classes, `S` steps. Every integrator calls the network once a step.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion.grids import Times
from didicm_jax.diffusion.schedules import Schedule
from didicm_jax.diffusion.steps import ScoreFn, bayes_cp_step, denoise, euler_cp_step

Query = Literal["min", "max", "random"]
Integrator = Literal["euler", "exact", "heun"]


class Level(NamedTuple):
    """What a step knows of its time; stacked, `[S]` of each."""

    sigma: chex.Array  # total noise at which the score is asked for
    sigma_end: chex.Array  # total noise at the step's end
    step: chex.Array  # length of the step times the rate where the score is asked for
    correction: chex.Array  # length of the step before times that rate; 0 in the first
    key: Any  # of the draws; None where nothing is drawn


class CPState(NamedTuple):
    """What a step hands to the next."""

    probs: chex.Array  # f32[B, K], p at the step's end
    base: chex.Array  # f32[B, K], p at the step's start, from where `heun` corrects; else `probs`


# One step: the next state, and the clean posterior f32[B, K] that the score implied.
CPStep = Callable[[CPState, Level], tuple[CPState, chex.Array]]


def levels(
    schedule: Schedule, times: Times, *, at_edges: bool, key: chex.PRNGKey | None = None
) -> Level:
    """The levels of all steps; `at_edges` asks for the score where the steps start."""
    query = times.edges[:-1] if at_edges else times.query
    rate = schedule.rate(query)
    before = jnp.concatenate([jnp.zeros_like(times.width[:1]), times.width[:-1]])
    return Level(
        sigma=schedule.total(query),
        sigma_end=schedule.total(times.edges[1:]),
        step=times.width * rate,
        correction=before * rate,
        key=None if key is None else jax.random.split(key, len(query)),
    )


def cp_step(integrator: Integrator, query: Query, score_fn: ScoreFn) -> CPStep:
    """The step of `sample_cp`, where its options are explained."""

    def step(state: CPState, level: Level) -> tuple[CPState, chex.Array]:
        probs = state.probs
        batch_size = probs.shape[0]
        sigma = jnp.full((batch_size,), level.sigma)
        log_score = score_fn(_label(query, probs, level.key), sigma)
        chex.assert_shape(log_score, probs.shape)
        clean = denoise(log_score.astype(probs.dtype), sigma)
        if integrator == "exact":
            sigma_end = jnp.full((batch_size,), level.sigma_end)
            probs = bayes_cp_step(probs, clean, sigma, sigma_end)
            # Rounding alone: the step keeps the sum.
            probs = probs / probs.sum(-1, keepdims=True)
            return CPState(probs, probs), clean
        if integrator == "heun":
            # The score just asked for is the one at the end of the step before: first correct
            # that step, then predict with the same score from where it really ended.
            probs = (state.base + _clipped_euler(probs, log_score, level.correction)) / 2
            return CPState(_clipped_euler(probs, log_score, level.step), probs), clean
        probs = _clipped_euler(probs, log_score, level.step)
        return CPState(probs, probs), clean

    return step


def _label(query: Query, probs: chex.Array, key: Any) -> chex.Array:
    """The label to ask the network about, i32[B]."""
    if query == "random":
        return jax.random.categorical(key, jnp.log(probs)).astype(jnp.int32)
    extreme = jnp.argmin if query == "min" else jnp.argmax
    return extreme(probs, axis=-1).astype(jnp.int32)


def _clipped_euler(probs: chex.Array, log_score: chex.Array, step: chex.Array) -> chex.Array:
    """An Euler step, clipped to [0, 1] and normalised, as the original does after each.

    It protects against steps too coarse for the rates; it costs the Euler step its exact mean and
    makes posteriors with entries that are exactly 0. The sum before is 1, so some entry is > 0.
    """
    probs = jnp.clip(euler_cp_step(probs, log_score, step), 0.0, 1.0)
    return probs / probs.sum(-1, keepdims=True)
