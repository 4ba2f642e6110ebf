"""From a network and images to a posterior over the classes, whatever the method.

Shapes: `B` images of `[H, W, C]`, `V` views of each, `K` classes, `S` steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections

from didicm_jax import diffusion
from didicm_jax.config import build
from didicm_jax.inference import sweep


class Posterior(NamedTuple):
    """What a network and its sampler say of a batch."""

    probs: chex.Array  # f32[B, K]
    # f32[B, S + 1, K], from the uniform start to `probs`; None for a sampler that diffuses no
    # probabilities, and where it was not asked for.
    trajectory: chex.Array | None = None
    steps_used: chex.Array | None = None  # i32[B], of samplers that may stop before S


# (model in evaluation mode, images f32[V,B,H,W,C], keys key[B]) -> posteriors; the keys are for
# samplers that draw. The model is a `models.ScoreModel` or a `models.Classifier`.
Answer = Callable[[Any, chex.Array, chex.PRNGKey], Posterior]

# (score function, key or None, B) -> posteriors
Sampler = Callable[[diffusion.ScoreFn, chex.PRNGKey | None, int], Posterior]


def create(
    config: ml_collections.ConfigDict, num_classes: int, *, trajectory: bool = False
) -> Answer:
    """The posterior of `config.method`, by `config.sampler` where it is a diffusion.

    A diffusion asks about the views by turns; where a network is asked once about each of them, its
    posteriors are averaged. What comes out is scaled by the temperature of `config.sampler`.

    Args:
      config: of the run.
      num_classes: K.
      trajectory: also give the way to each posterior, where the sampler has one.
    """
    answer = _unscaled(config, num_classes, trajectory=trajectory)
    temperature = config.sampler.temperature
    if temperature == 1:
        return answer

    def posterior(model: Any, images: chex.Array, keys: chex.PRNGKey) -> Posterior:
        found = answer(model, images, keys)
        way = found.trajectory
        return found._replace(
            probs=at_temperature(found.probs, temperature),
            trajectory=None if way is None else at_temperature(way, temperature),
        )

    return posterior


def at_temperature(probs: chex.Array, temperature: float) -> chex.Array:
    """Posteriors `p^(1/temperature)`, normalised, `[..., K]`; no class overtakes another.

    Classes may come level where float32 cannot tell their powers apart, or both are below it.

    Source: temperature scaling (Guo et al. 2017, arXiv 1706.04599).
    """
    logs = jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny))  # of 0 too
    return jax.nn.softmax(logs / temperature)


def _unscaled(config: ml_collections.ConfigDict, num_classes: int, *, trajectory: bool) -> Answer:
    if config.method == "cross_entropy":
        return softmax
    if config.method == "binary_cross_entropy":
        return normalized_sigmoid
    settings = config.sampler
    schedule, views = build.noise_schedule(config), sweep.views(config)

    def one_shot(score_fn: diffusion.ScoreFn, key: chex.PRNGKey | None, size: int) -> Posterior:
        def of_view(view: chex.Numeric) -> chex.Array:
            return diffusion.one_shot(
                lambda labels, sigma: score_fn(labels, sigma, view),
                schedule,
                batch_size=size,
                num_classes=num_classes,
                time=settings.time,
            )

        return Posterior(_each(of_view, jnp.arange(views)).mean(0))

    def labels(score_fn: diffusion.ScoreFn, key: chex.PRNGKey | None, size: int) -> Posterior:
        sample = diffusion.sample_cl(
            key,
            score_fn,
            schedule,
            batch_size=size,
            num_classes=num_classes,
            steps=settings.steps,
            chains=settings.chains,
            grid=sweep.grid(config),
            min_time=settings.min_time,
            views=views,
        )
        return Posterior(sample.probs)

    def probabilities(
        score_fn: diffusion.ScoreFn, key: chex.PRNGKey | None, size: int
    ) -> Posterior:
        sample = diffusion.sample_cp(
            score_fn,
            schedule,
            batch_size=size,
            num_classes=num_classes,
            steps=settings.steps,
            query=settings.query,
            integrator=settings.integrator,
            grid=sweep.grid(config),
            min_time=settings.min_time,
            tolerance=settings.tolerance,
            views=views,
            key=key,
            return_trajectory=trajectory,
        )
        return Posterior(sample.probs, sample.trajectory, sample.steps_used)

    if settings.name == "one_shot":
        return _together(one_shot)
    if settings.name == "cl":
        return _one_by_one(labels)
    return _one_by_one(probabilities) if settings.query == "random" else _together(probabilities)


def softmax(model: Any, images: chex.Array, keys: chex.PRNGKey) -> Posterior:
    """The posterior of a classifier trained with softmax cross-entropy."""
    return Posterior(_each(lambda view: jax.nn.softmax(model(view)), images).mean(0))


def normalized_sigmoid(model: Any, images: chex.Array, keys: chex.PRNGKey) -> Posterior:
    """One sigmoid per class, normalised: binary cross-entropy gives no joint distribution."""

    def probs(view: chex.Array) -> chex.Array:
        # In log space: with thousands of classes every sigmoid of a blank image can underflow.
        return jax.nn.softmax(jax.nn.log_sigmoid(model(view)))

    return Posterior(_each(probs, images).mean(0))


def _together(sampler: Sampler) -> Answer:
    """A sampler that draws nothing: the whole batch at once."""

    def posterior(model: Any, images: chex.Array, keys: chex.PRNGKey) -> Posterior:
        features = _each(model.encode, images)
        return sampler(_about(model, features), None, images.shape[1])

    return posterior


def _one_by_one(sampler: Sampler) -> Answer:
    """A sampler that draws: mapped over images, each with a key of its own.

    So a posterior does not depend on the batch, or the device, that its image fell into.
    """

    def posterior(model: Any, images: chex.Array, keys: chex.PRNGKey) -> Posterior:
        def one(key: chex.PRNGKey, features: chex.ArrayTree) -> Posterior:
            features = jax.tree.map(lambda x: x[:, None], features)
            return jax.tree.map(lambda x: x[0], sampler(_about(model, features), key, 1))

        return jax.vmap(one, in_axes=(0, 1))(keys, _each(model.encode, images))

    return posterior


def _each(function: Callable, views: chex.Array) -> Any:
    """`[V, ...]`, what a function says of each view, one after the other."""
    if views.shape[0] == 1:  # no loop, whose body compilers optimise apart
        return jax.tree.map(lambda x: x[None], function(views[0]))
    return jax.lax.map(function, views)


def _about(model: Any, features: chex.ArrayTree) -> diffusion.ScoreFn:
    """The score function of images that are encoded, features `[V, B, ...]`."""

    def score(labels: chex.Array, sigma: chex.Array, view: chex.Numeric = 0) -> chex.Array:
        return model.score(jax.tree.map(lambda x: x[view], features), labels, sigma)

    return score
