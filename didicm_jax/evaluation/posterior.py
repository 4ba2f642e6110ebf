"""From a network and images to a posterior over the classes, whatever the method.

Shapes: `B` images of `[H, W, C]`, `K` classes, `S` steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import ml_collections

from didicm_jax import build, diffusion

# (model in evaluation mode, images f32[B,H,W,C], keys key[B]) -> probabilities f32[B,K]; the keys
# are for samplers that draw. The model is a `models.ScoreModel` or a `models.Classifier`.
Posterior = Callable[[Any, chex.Array, chex.PRNGKey], chex.Array]


class Traced(NamedTuple):
    """A posterior and the way there."""

    probs: chex.Array  # f32[B, K]
    # f32[B, S + 1, K], from the uniform start to `probs`; None for a sampler that diffuses no
    # probabilities, and where it was not asked for.
    trajectory: chex.Array | None = None
    steps_used: chex.Array | None = None  # i32[B], of samplers that may stop before S


# As `Posterior`, with the way there.
TracedPosterior = Callable[[Any, chex.Array, chex.PRNGKey], Traced]

# Which settings of `config.sampler` each sampler reads.
READS = {
    "cp": ("steps", "query", "integrator", "grid", "min_time", "tolerance"),
    "cl": ("steps", "chains", "grid", "min_time"),
    "one_shot": ("time",),
}

# (score function, key or None, B) -> posteriors
Sampler = Callable[[diffusion.ScoreFn, chex.PRNGKey | None, int], Traced]


def create(config: ml_collections.ConfigDict, num_classes: int) -> Posterior:
    """The posterior of `config.method`, by `config.sampler` where it is a diffusion."""
    traced = create_traced(config, num_classes, return_trajectory=False)
    return lambda model, images, keys: traced(model, images, keys).probs


def create_traced(
    config: ml_collections.ConfigDict, num_classes: int, *, return_trajectory: bool = True
) -> TracedPosterior:
    """As `create`, together with the steps that led to the posterior where there are any."""
    if config.method == "cross_entropy":
        return lambda model, images, keys: Traced(softmax(model, images, keys))
    if config.method == "binary_cross_entropy":
        return lambda model, images, keys: Traced(normalized_sigmoid(model, images, keys))
    settings = config.sampler
    schedule = build.noise_schedule(config)
    if settings.name == "one_shot":
        return _together(
            lambda score_fn, key, size: Traced(
                diffusion.one_shot(
                    score_fn, schedule, batch_size=size, num_classes=num_classes, time=settings.time
                )
            )
        )
    if settings.name == "cl":
        return _one_by_one(
            lambda score_fn, key, size: Traced(
                diffusion.sample_cl(
                    key,
                    score_fn,
                    schedule,
                    batch_size=size,
                    num_classes=num_classes,
                    steps=settings.steps,
                    chains=settings.chains,
                    grid=grid_of(settings),
                    min_time=settings.min_time,
                ).probs
            )
        )

    def diffuse(score_fn: diffusion.ScoreFn, key: chex.PRNGKey | None, size: int) -> Traced:
        sample = diffusion.sample_cp(
            score_fn,
            schedule,
            batch_size=size,
            num_classes=num_classes,
            steps=settings.steps,
            query=settings.query,
            integrator=settings.integrator,
            grid=grid_of(settings),
            min_time=settings.min_time,
            tolerance=settings.tolerance,
            key=key,
            return_trajectory=return_trajectory,
        )
        return Traced(sample.probs, sample.trajectory, sample.steps_used)

    return _one_by_one(diffuse) if settings.query == "random" else _together(diffuse)


def describe(config: ml_collections.ConfigDict) -> dict[str, object]:
    """What `create` will do, for reports: the sampler and the settings that it reads."""
    if config.method != "didicm":
        return {"sampler": "softmax" if config.method == "cross_entropy" else "sigmoid", "steps": 1}
    settings = {key: config.sampler[key] for key in READS[config.sampler.name]}
    if "grid" in settings:
        settings["grid"] = grid_of(config.sampler)
    return {"sampler": config.sampler.name, "steps": 1} | settings


def grid_of(settings: ml_collections.ConfigDict) -> diffusion.Grid:
    """The grid of a sampler, by name where the settings leave the choice to the integrator."""
    return own_grid(settings) if settings.grid == "auto" else settings.grid


def own_grid(settings: ml_collections.ConfigDict) -> diffusion.Grid:
    """The grid of a sampler that is told none."""
    integrator = settings.integrator if settings.name == "cp" else "euler"
    return diffusion.INTEGRATORS[integrator].grids[0]


def softmax(model: Any, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
    """The posterior of a classifier trained with softmax cross-entropy, f32[B,K]."""
    return jax.nn.softmax(model(images))


def normalized_sigmoid(model: Any, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
    """One sigmoid per class, normalised (binary cross-entropy gives no joint), f32[B,K]."""
    # In log space: with thousands of classes every sigmoid of a blank image can underflow.
    return jax.nn.softmax(jax.nn.log_sigmoid(model(images)))


def _together(sampler: Sampler) -> TracedPosterior:
    """A sampler that draws nothing: the whole batch at once."""

    def posterior(model: Any, images: chex.Array, keys: chex.PRNGKey) -> Traced:
        return sampler(partial(model.score, model.encode(images)), None, images.shape[0])

    return posterior


def _one_by_one(sampler: Sampler) -> TracedPosterior:
    """A sampler that draws: mapped over images, each with a key of its own.

    So a posterior does not depend on the batch, or the device, that its image fell into.
    """

    def posterior(model: Any, images: chex.Array, keys: chex.PRNGKey) -> Traced:
        def one(key: chex.PRNGKey, features: chex.ArrayTree) -> Traced:
            features = jax.tree.map(lambda x: x[None], features)
            return jax.tree.map(lambda x: x[0], sampler(partial(model.score, features), key, 1))

        return jax.vmap(one)(keys, model.encode(images))

    return posterior
