"""Samplers: from the uniform distribution to the posterior in a few steps.

Shape symbols: `B` images, `K` classes, `N` chains, `S` steps. A sampler knows nothing of networks:
it asks a `ScoreFn`, closed over image features, so the image is encoded once.

With a schedule of `shifted`, for labels that are wrong at random, scores are asked for at its
noises alone, and the posterior is that of the clean label: at `min_time` the noise that was there
before the schedule is taken off in one exact step.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion import grids, integrators, loops, numerics
from didicm_jax.diffusion.chain import is_label
from didicm_jax.diffusion.grids import Grid
from didicm_jax.diffusion.integrators import INTEGRATORS, Level
from didicm_jax.diffusion.schedules import Schedule
from didicm_jax.diffusion.steps import ScoreFn, denoise, euler_cl_transition

Query = Literal["min", "max", "random"]

# (p f32[B, K], key or None) -> the label that the network is asked about, int [B].
_QUERIES: dict[str, Callable[[chex.Array, Any], chex.Array]] = {
    "min": lambda probs, key: jnp.argmin(probs, axis=-1),
    "max": lambda probs, key: jnp.argmax(probs, axis=-1),
    "random": lambda probs, key: numerics.draw(key, jnp.log(probs)),
}


class CPSample(NamedTuple):
    """What `sample_cp` returns."""

    probs: chex.Array  # f32[B, K], the posterior
    trajectory: chex.Array | None  # f32[B, S + 1, K] from the uniform start on, if asked for
    steps_used: chex.Array  # i32[B], S, or fewer where a tolerance ended the walk


class CLSample(NamedTuple):
    """What `sample_cl` returns."""

    probs: chex.Array  # f32[B, K], the histogram of the labels
    labels: chex.Array  # i32[B, N], where each chain ended


def sample_cp(
    score_fn: ScoreFn,
    schedule: Schedule,
    *,
    batch_size: int,
    num_classes: int,
    steps: int,
    query: Query = "min",
    integrator: str = "euler",
    grid: Grid | None = None,
    min_time: float = 1e-5,
    tolerance: float = 0.0,
    views: int = 1,
    key: chex.PRNGKey | None = None,
    return_trajectory: bool = False,
) -> CPSample:
    """DiDiCM-CP: diffuses the class probabilities from uniform to the posterior.

    With a tolerance, an image is decided when its posterior has stopped moving: when the total
    variation between the posteriors after two successive steps, times the steps that are left (a
    posterior that goes on at this pace moves that far), is below it. That takes two steps at least.
    The posterior after a step is p carried the rest of the way to `min_time` by the exact step for
    the posterior that the last score implied: the answer, if no later score said otherwise. p
    itself is no measure: it is the marginal at its noise, which moves on as long as noise is left
    (by up to 1/S a step on `linear`) and is far from q_0 until none is. A decided image keeps its
    posterior, whatever the rest of the batch does, and the loop ends when all are decided; where no
    image is, the result is that without tolerance. Such a loop has no reverse-mode derivative.
    For a true score the early answer is closer to the truth than p, than `denoise` of p, and than
    the end of the walk on the grid `original`.

    With several views of each image (mirrored or moved, say) each step asks about another one, by
    turns: what they say is put together by the diffusion itself.

    Args:
      score_fn: called at most S times with `labels i32[B]` and `sigma f32[B]`; with several views
        also with `view i32[]`, from 0 on.
      schedule: total noise and rate.
      batch_size: B.
      num_classes: K.
      steps: S >= 1, the largest number of calls of `score_fn`.
      query: the label that the network is asked about: the least probable (`min`, best in the
        paper), the most probable (`max`) or a draw from p (`random`, needs `key`). Of equals, the
        first.
      integrator: how p is carried over a step, each with one call of the network: `euler` (the
        original), `exact` or `heun`; see `diffusion.integrators`.
      grid: the times, `original` (`euler` alone) or `linear`; see `diffusion.grids`, which also
        compares them. None: the integrator's own, `original` for `euler`, else `linear`.
      min_time: where the diffusion ends, in [0, 1).
      tolerance: how far, in total variation, a decided image may still have had to go; in [0, 1],
        0 makes all S steps.
      views: of each image, from 1 to S.
      key: read by `query='random'` alone.
      return_trajectory: also return every intermediate p; from the step that decided an image on,
        its posterior.

    Returns:
      `CPSample`.

    Raises:
      ValueError: an argument is outside the ranges above, or the integrator cannot walk the grid.

    Source: arXiv 2511.20263, class-probability sampling.
    """
    if query not in _QUERIES:
        raise ValueError(f"query: expected 'min', 'max' or 'random', found {query!r}")
    if integrator not in INTEGRATORS:
        raise ValueError(f"integrator: expected one of {[*INTEGRATORS]}, found {integrator!r}")
    walker = INTEGRATORS[integrator]
    times = grids.times(walker.grids[0] if grid is None else grid, steps, min_time)
    if grid is not None and grid not in walker.grids:
        raise ValueError(
            f"grid: expected one of {[*walker.grids]} with integrator={integrator!r}, found "
            f"{grid!r}; leave it out"
        )
    if not 0 <= tolerance <= 1:
        raise ValueError(f"tolerance: expected 0 <= tolerance <= 1, found {tolerance}")
    _check_views(views, steps)
    if query != "random":
        key = None
    elif key is None:
        raise ValueError("query='random' draws labels: expected a key, found None")

    def ask(probs: chex.Array, level: Level) -> chex.Array:
        labels = _QUERIES[query](probs, level.key).astype(jnp.int32)
        log_score = score_fn(labels, jnp.full((batch_size,), level.sigma), *level.asked)
        chex.assert_shape(log_score, (batch_size, num_classes))
        return log_score

    levels = integrators.levels(schedule, times, key, views)
    start = jnp.full((batch_size, num_classes), 1 / num_classes)
    if tolerance > 0:
        probs, path, steps_used = loops.until_still(
            walker, ask, start, levels, tolerance=tolerance, keep_path=return_trajectory
        )
    else:
        probs, path, steps_used = loops.every_step(
            walker, ask, start, levels, keep_path=return_trajectory
        )
    if path is not None:
        path = jnp.moveaxis(path, 0, 1)
        path = jnp.concatenate([jnp.full_like(path[:, :1], 1 / num_classes), path], axis=1)
    return CPSample(probs, path, steps_used)


def sample_cl(
    key: chex.PRNGKey,
    score_fn: ScoreFn,
    schedule: Schedule,
    *,
    batch_size: int,
    num_classes: int,
    steps: int,
    chains: int = 10,
    grid: Grid = "original",
    min_time: float = 1e-5,
    views: int = 1,
) -> CLSample:
    """DiDiCM-CL: diffuses N sampled labels per image; the posterior is their histogram.

    Euler steps at the times of `sample_cp` with `euler`. The chains are one batch: `score_fn` is
    mapped over them with `jax.vmap`, so what it is closed over (the image features) is shared, not
    copied.

    Args:
      key: one key.
      score_fn: called S times, mapped over N, with `labels i32[B]` and `sigma f32[B]`; with several
        views also with `view i32[]`, the same for all chains.
      schedule: total noise and rate.
      batch_size: B.
      num_classes: K.
      steps: S >= 1.
      chains: N >= 1.
      grid: the times, `original` or `linear`; see `diffusion.grids`.
      min_time: where the diffusion ends, in [0, 1).
      views: of each image, from 1 to S, that the steps ask about by turns.

    Returns:
      `CLSample`.

    Raises:
      ValueError: an argument is outside the ranges above.

    Source: arXiv 2511.20263, class-label sampling.
    """
    times = grids.times(grid, steps, min_time)
    if chains < 1:
        raise ValueError(f"chains: expected at least 1, found {chains}")
    _check_views(views, steps)

    def body(labels: chex.Array, level: Level) -> tuple[chex.Array, None]:
        sigma = jnp.full((chains, batch_size), level.sigma)
        log_score = jax.vmap(lambda *asked: score_fn(*asked, *level.asked))(labels, sigma)
        chex.assert_shape(log_score, (chains, batch_size, num_classes))
        row = euler_cl_transition(labels, log_score, level.step)
        # A step too coarse for the rates makes the label's own entry negative: it leaves surely.
        row = integrators.finish(jnp.maximum(row, 0.0), log_score, level)
        return numerics.draw(level.key, jnp.log(row)), None

    start_key, walk_key = jax.random.split(key)
    levels = integrators.levels(schedule, times, walk_key, views)
    start = jax.random.randint(start_key, (chains, batch_size), 0, num_classes, jnp.int32)
    labels, _ = loops.scan(body, start, levels)
    labels = labels.T
    return CLSample(is_label(labels, num_classes).mean(1, dtype=jnp.float32), labels)


def one_shot(
    score_fn: ScoreFn, schedule: Schedule, *, batch_size: int, num_classes: int, time: float
) -> chex.Array:
    """The posterior from a single call of the network at one noise level.

    `denoise` of the score at `schedule.total(time)`, asked about label 0: for a true score the
    answer does not depend on the label, and it is the one that `sample_cp` asks about first.

    Args:
      score_fn: called once with `labels i32[B]` and `sigma f32[B]`.
      schedule: total noise.
      batch_size: B.
      num_classes: K.
      time: t in (0, 1].

    Returns:
      Probabilities f32[B, K].

    Raises:
      ValueError: `time` is outside (0, 1].
    """
    if not 0 < time <= 1:
        raise ValueError(f"time: expected 0 < time <= 1, found {time}")
    sigma = jnp.full((batch_size,), schedule.total(time))
    log_score = score_fn(jnp.zeros((batch_size,), jnp.int32), sigma)
    chex.assert_shape(log_score, (batch_size, num_classes))
    return denoise(log_score, sigma)


def _check_views(views: int, steps: int) -> None:
    if not 1 <= views <= steps:
        raise ValueError(f"views: expected 1 to {steps}, as many as steps, found {views}")
