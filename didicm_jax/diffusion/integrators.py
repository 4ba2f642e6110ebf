"""Integrators of DiDiCM-CP: how p is carried over one interval by the score asked for in it.

Shape symbols: `B` images, `K` classes, `S` steps.

An integrator is an object with `init` and `step`, as a solver of diffrax is; the samplers call
these and know no names. A new one is one class here and one entry of `INTEGRATORS`.
"""

from typing import Any, ClassVar, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion import numerics
from didicm_jax.diffusion.grids import Grid, Times
from didicm_jax.diffusion.schedules import Schedule, parts
from didicm_jax.diffusion.steps import bayes_step, denoise, euler_cp_step, exact_cp_step


class Level(NamedTuple):
    """What a step knows of its interval; stacked, `[S]` of each."""

    sigma: chex.Array  # total noise at which the score is asked for
    sigma_end: chex.Array  # total noise at the interval's end
    # Total noise where a walk of the length `step` ends, if that can be before the interval's end
    # (`finish`), else None.
    sigma_walked: Any
    step: chex.Array  # length of the interval in t, times the rate where the score is asked for
    correction: chex.Array  # length of the interval before, times that rate; 0 in the first
    key: Any  # of what the step draws; None where nothing is drawn
    view: Any = None  # which view of the images is asked about; None where there is but one

    @property
    def asked(self) -> tuple[chex.Array, ...]:
        """What a score function is given behind labels and sigma."""
        return () if self.view is None else (self.view,)


def levels(
    schedule: Schedule, times: Times, key: chex.PRNGKey | None = None, views: int = 1
) -> Level:
    """The levels of all steps, with a key each if one is given, and several views by turns.

    They end where the schedule does without the noise that `shifted` has put before it: the last
    interval goes on beyond the schedule, to where no score was trained.
    """
    rate = schedule.rate(times.query)
    walked = end = schedule.total(times.edges[1:])
    sigma_0, added = parts(schedule)
    if sigma_0 > 0:
        end = end.at[-1].set(added.total(times.edges[-1]))
    before = jnp.concatenate([jnp.zeros_like(times.width[:1]), times.width[:-1]])
    return Level(
        sigma=schedule.total(times.query),
        sigma_end=end,
        sigma_walked=walked if sigma_0 > 0 else None,
        step=times.width * rate,
        correction=before * rate,
        key=None if key is None else jax.random.split(key, len(times.query)),
        view=None if views == 1 else jnp.arange(len(times.query), dtype=jnp.int32) % views,
    )


def finish(probs: chex.Array, log_score: chex.Array, level: Level) -> chex.Array:
    """Takes p from where steps of the schedule have led to the interval's end.

    By the exact step for the posterior that the score implies, and so without asking for a score
    below the noise at which labels are observed. `exact` needs none of this: its steps are of
    noise and not of time.

    Args:
      probs: p at `level.sigma_walked`, `[..., K]`.
      log_score: at `level.sigma`, `[..., K]`, seen from any one label.
      level: of this step.

    Returns:
      p at `level.sigma_end`, `[..., K]`.
    """
    if level.sigma_walked is None:
        return probs
    sigma, walked, end = (
        jnp.full(probs.shape[:-1], each)
        for each in (level.sigma, level.sigma_walked, level.sigma_end)
    )
    clean = denoise(log_score.astype(probs.dtype), sigma)
    return numerics.normalize(bayes_step(probs, clean, walked, end))


class Integrator(Protocol):
    """One way to take the steps of `sample_cp`, with one call of the network each."""

    # The grids that it can walk, which say where it asks for the score; the first is its own.
    grids: ClassVar[tuple[Grid, ...]]

    def init(self, probs: chex.Array) -> Any:
        """What it remembers from step to step, a pytree, before the first from p f32[B, K]."""

    def step(
        self, probs: chex.Array, memory: Any, log_score: chex.Array, level: Level
    ) -> tuple[chex.Array, Any]:
        """One step.

        Args:
          probs: p at the interval's start, f32[B, K].
          memory: from `init` or the step before.
          log_score: at `level.sigma`, f32[B, K], seen from any one label.
          level: of this step.

        Returns:
          p at the interval's end, f32[B, K] on the simplex, and the memory.
        """


class Euler:
    """`p + step dp/dsigma`, then clipped and normalised: on `original` it is the original.

    Source: arXiv 2511.20263, class-probability sampling.
    """

    grids: ClassVar[tuple[Grid, ...]] = ("original", "linear")

    def init(self, probs: chex.Array) -> None:
        """Nothing."""

    def step(
        self, probs: chex.Array, memory: None, log_score: chex.Array, level: Level
    ) -> tuple[chex.Array, None]:
        """One Euler step."""
        return finish(_euler(probs, log_score, level.step), log_score, level), None


class Heun:
    """Second order in the form that preserves strong stability, `p <- (p + E'(E(p))) / 2`.

    E is the clipped Euler step and E' that of the interval's end. One call a step is enough: the
    score at the interval's end, of the label that E(p) chooses, also serves E of the next interval.
    The last step stays Euler's (as in EDM, arXiv 2206.00364): near t = 0 the equation is stiff, and
    a correction there does harm.
    """

    # The corrected step ends where the next score is asked for: only `linear` asks at the starts.
    grids: ClassVar[tuple[Grid, ...]] = ("linear",)

    def init(self, probs: chex.Array) -> chex.Array:
        """p where the step before started, from where it is corrected."""
        return probs

    def step(
        self, probs: chex.Array, memory: chex.Array, log_score: chex.Array, level: Level
    ) -> tuple[chex.Array, chex.Array]:
        """Corrects the step before, then predicts from where that really ended."""
        start = (memory + _euler(probs, log_score, level.correction)) / 2
        return finish(_euler(start, log_score, level.step), log_score, level), start


class Exact:
    """The Bayes-exact step for the posterior that the score implies (`exact_cp_step`).

    Asked at the interval's start, so that no query is spent on the last, all but clean, noise.
    """

    grids: ClassVar[tuple[Grid, ...]] = ("linear",)

    def init(self, probs: chex.Array) -> None:
        """Nothing."""

    def step(
        self, probs: chex.Array, memory: None, log_score: chex.Array, level: Level
    ) -> tuple[chex.Array, None]:
        """One exact step."""
        sigma, sigma_end = (jnp.full(probs.shape[0], s) for s in (level.sigma, level.sigma_end))
        # Against rounding alone: the step keeps the sum.
        return numerics.normalize(exact_cp_step(probs, log_score, sigma, sigma_end)), None


# By the name that `sample_cp` takes.
INTEGRATORS: dict[str, Integrator] = {"euler": Euler(), "exact": Exact(), "heun": Heun()}


def _euler(probs: chex.Array, log_score: chex.Array, step: chex.Array) -> chex.Array:
    return numerics.onto_simplex(euler_cp_step(probs, log_score, step))
