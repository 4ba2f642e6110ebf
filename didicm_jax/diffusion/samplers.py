"""Samplers: from the uniform distribution to the posterior in a few steps.

Shape symbols: `B` images, `K` classes, `N` chains, `S` steps. A sampler knows nothing of networks:
it asks a `ScoreFn`, closed over image features, so the image is encoded once.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion.schedules import Schedule
from didicm_jax.diffusion.steps import denoise, euler_cl_transition, euler_cp_step, exact_cp_step

# (labels i32[B], sigma f32[B]) -> log concrete score [B, K] seen from those labels.
ScoreFn = Callable[[chex.Array, chex.Array], chex.Array]

Query = Literal["min", "max", "random"]
Integrator = Literal["euler", "exact"]


class CPSample(NamedTuple):
    """What `sample_cp` returns."""

    probs: chex.Array  # f32[B, K], the posterior
    trajectory: chex.Array | None  # f32[B, S + 1, K] from the uniform start on, if asked for


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
    integrator: Integrator = "euler",
    min_time: float = 1e-5,
    key: chex.PRNGKey | None = None,
    return_trajectory: bool = False,
) -> CPSample:
    """DiDiCM-CP: diffuses the class probabilities from uniform to the posterior.

    `euler` is the original: times `linspace(1, min_time, S)`, steps of `(1 - min_time) / S`, after
    each the probabilities are clipped to [0, 1] and normalised. `exact` walks the S intervals of
    `linspace(1, min_time, S + 1)` by `exact_cp_step`, so no query is spent on the last, all but
    clean, noise level.

    Args:
      score_fn: called S times with `labels i32[B]` and `sigma f32[B]`.
      schedule: total noise and rate.
      batch_size: B.
      num_classes: K.
      steps: S >= 1, the number of calls of `score_fn`.
      query: the label that the network is asked about: the least probable (`min`, best in the
        paper), the most probable (`max`) or a draw from p (`random`, needs `key`). Of equals, the
        first.
      integrator: `euler` or `exact`.
      min_time: where the diffusion ends, in [0, 1).
      key: read by `query='random'` alone.
      return_trajectory: also return every intermediate p.

    Returns:
      `CPSample`.

    Raises:
      ValueError: an argument is outside the ranges above.

    Source: arXiv 2511.20263, class-probability sampling.
    """
    _check_steps(steps, min_time)
    if query not in ("min", "max", "random"):
        raise ValueError(f"query: expected 'min', 'max' or 'random', found {query!r}")
    if integrator not in ("euler", "exact"):
        raise ValueError(f"integrator: expected 'euler' or 'exact', found {integrator!r}")
    if query == "random" and key is None:
        raise ValueError("query='random' draws labels: expected a key, found None")

    def body(probs: chex.Array, level: dict[str, Any]) -> tuple[chex.Array, chex.Array | None]:
        labels = _query(query, probs, level)
        sigma = jnp.full((batch_size,), level["sigma"])
        log_score = score_fn(labels, sigma)
        chex.assert_shape(log_score, (batch_size, num_classes))
        if integrator == "euler":
            probs = _onto_simplex(euler_cp_step(probs, log_score, level["step"]))
        else:
            sigma_next = jnp.full((batch_size,), level["sigma_next"])
            probs = exact_cp_step(probs, log_score, sigma, sigma_next)
            # Rounding alone: the step keeps the sum.
            probs = probs / probs.sum(-1, keepdims=True)
        return probs, probs if return_trajectory else None

    if integrator == "euler":
        levels = _euler_levels(schedule, steps, min_time)
    else:
        sigma = schedule.total(jnp.linspace(1.0, min_time, steps + 1))
        levels = {"sigma": sigma[:-1], "sigma_next": sigma[1:]}
    if query == "random":
        assert key is not None
        levels["key"] = jax.random.split(key, steps)
    start = jnp.full((batch_size, num_classes), 1 / num_classes)
    probs, path = _scan(body, start, levels)
    if path is None:
        return CPSample(probs, None)
    return CPSample(probs, jnp.concatenate([start[:, None], jnp.moveaxis(path, 0, 1)], axis=1))


def sample_cl(
    key: chex.PRNGKey,
    score_fn: ScoreFn,
    schedule: Schedule,
    *,
    batch_size: int,
    num_classes: int,
    steps: int,
    chains: int = 10,
    min_time: float = 1e-5,
) -> CLSample:
    """DiDiCM-CL: diffuses N sampled labels per image; the posterior is their histogram.

    Euler steps at the times of `sample_cp`. The chains are one batch: `score_fn` is mapped over
    them with `jax.vmap`, so what it is closed over (the image features) is shared, not copied.

    Args:
      key: one key.
      score_fn: called S times, mapped over N, with `labels i32[B]` and `sigma f32[B]`.
      schedule: total noise and rate.
      batch_size: B.
      num_classes: K.
      steps: S >= 1.
      chains: N >= 1.
      min_time: where the diffusion ends, in [0, 1).

    Returns:
      `CLSample`.

    Raises:
      ValueError: an argument is outside the ranges above.

    Source: arXiv 2511.20263, class-label sampling.
    """
    _check_steps(steps, min_time)
    if chains < 1:
        raise ValueError(f"chains: expected at least 1, found {chains}")

    def body(labels: chex.Array, level: dict[str, Any]) -> tuple[chex.Array, None]:
        sigma = jnp.full((chains, batch_size), level["sigma"])
        log_score = jax.vmap(score_fn)(labels, sigma)
        chex.assert_shape(log_score, (chains, batch_size, num_classes))
        row = euler_cl_transition(labels, log_score, level["step"])
        # A step too coarse for the rates makes the label's own entry negative: it leaves surely.
        logits = jnp.log(jnp.maximum(row, 0.0))
        return jax.random.categorical(level["key"], logits).astype(jnp.int32), None

    start_key, walk_key = jax.random.split(key)
    levels = _euler_levels(schedule, steps, min_time)
    levels["key"] = jax.random.split(walk_key, steps)
    start = jax.random.randint(start_key, (chains, batch_size), 0, num_classes, jnp.int32)
    labels, _ = _scan(body, start, levels)
    labels = labels.T
    counts = jnp.zeros((batch_size, num_classes)).at[jnp.arange(batch_size)[:, None], labels].add(1)
    return CLSample(counts / chains, labels)


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


def _check_steps(steps: int, min_time: float) -> None:
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, found {steps}")
    if not 0 <= min_time < 1:
        raise ValueError(f"min_time: expected 0 <= min_time < 1, found {min_time}")


def _euler_levels(schedule: Schedule, steps: int, min_time: float) -> dict[str, chex.Array]:
    """Noise level and step (dt times rate) of each Euler step, [S] each."""
    times = jnp.linspace(1.0, min_time, steps)
    # As the original: the step is the interval over S, not the spacing of the S times.
    step = (1 - min_time) / steps * schedule.rate(times)
    return {"sigma": schedule.total(times), "step": step}


def _query(query: Query, probs: chex.Array, level: dict[str, Any]) -> chex.Array:
    """The label to ask the network about, i32[B]."""
    if query == "random":
        return jax.random.categorical(level["key"], jnp.log(probs)).astype(jnp.int32)
    extreme = jnp.argmin if query == "min" else jnp.argmax
    return extreme(probs, axis=-1).astype(jnp.int32)


def _onto_simplex(probs: chex.Array) -> chex.Array:
    """Clips to [0, 1] and normalises, as the original after each Euler step.

    It protects against steps too coarse for the rates; it costs the Euler step its exact mean and
    makes posteriors with entries that are exactly 0. The sum before is 1, so some entry is > 0.
    """
    probs = jnp.clip(probs, 0.0, 1.0)
    return probs / probs.sum(-1, keepdims=True)


def _scan(body: Callable, start: chex.Array, levels: dict[str, chex.Array]) -> tuple[Any, Any]:
    """`lax.scan` whose carry may start out replicated and come back sharded.

    Under `jax.shard_map` the start is the same on all devices while the result of a step varies
    with the features of the score function, and scan wants one type for both.
    """
    first = jax.tree.map(lambda x: x[0], levels)
    after, before = jax.typeof(jax.eval_shape(body, start, first)[0]), jax.typeof(start)
    varying = after.manual_axis_type.varying - before.manual_axis_type.varying
    if varying:
        start = jax.lax.pcast(start, tuple(varying), to="varying")
    return jax.lax.scan(body, start, levels)
