"""From a network and images to a posterior over the classes, whatever the method.

Shapes: `B` images of `[H, W, C]`, `K` classes.
"""

from functools import partial
from typing import Protocol

import chex
import jax
import ml_collections
from flax import nnx

from didicm_jax import build, diffusion


class Posterior(Protocol):
    """`(model in evaluation mode, images f32[B,H,W,C], keys key[B]) -> probabilities f32[B,K]`."""

    def __call__(self, model: nnx.Module, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
        """The posterior of each image; `keys` are for samplers that draw."""


def create(config: ml_collections.ConfigDict, num_classes: int) -> Posterior:
    """The posterior of `config.method`, by `config.sampler` where it is a diffusion."""
    if config.method == "cross_entropy":
        return softmax
    if config.method == "binary_cross_entropy":
        return normalized_sigmoid
    schedule, sampler = build.noise_schedule(config), config.sampler
    if sampler.name == "one_shot":
        return _together(
            partial(diffusion.one_shot, schedule=schedule, time=sampler.time), num_classes
        )
    common = {"schedule": schedule, "steps": sampler.steps, "min_time": sampler.min_time}
    if sampler.name == "cl":

        def chains(score_fn: diffusion.ScoreFn, key: chex.PRNGKey, **sizes: int) -> chex.Array:
            return diffusion.sample_cl(
                key, score_fn, chains=sampler.chains, **common, **sizes
            ).probs

        return _one_by_one(chains, num_classes)

    def class_probs(
        score_fn: diffusion.ScoreFn, key: chex.PRNGKey | None = None, **sizes: int
    ) -> chex.Array:
        return diffusion.sample_cp(
            score_fn,
            query=sampler.query,
            integrator=sampler.integrator,
            key=key,
            **common,
            **sizes,
        ).probs

    draws = sampler.query == "random"
    return (_one_by_one if draws else _together)(class_probs, num_classes)


def describe(config: ml_collections.ConfigDict) -> dict[str, object]:
    """What `create` will do, for reports: the sampler and the settings that it reads."""
    if config.method != "didicm":
        return {"sampler": "softmax" if config.method == "cross_entropy" else "sigmoid", "steps": 1}
    reads = {
        "cp": ("steps", "query", "integrator", "min_time"),
        "cl": ("steps", "chains", "min_time"),
        "one_shot": ("time",),
    }[config.sampler.name]
    settings = {key: config.sampler[key] for key in reads}
    return {"sampler": config.sampler.name, "steps": 1} | settings


def softmax(model: nnx.Module, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
    """The posterior of a classifier trained with softmax cross-entropy."""
    return jax.nn.softmax(model(images))


def normalized_sigmoid(model: nnx.Module, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
    """One sigmoid per class, normalised to sum to 1 (binary cross-entropy gives no joint)."""
    # In log space: with thousands of classes every sigmoid of a blank image can underflow.
    return jax.nn.softmax(jax.nn.log_sigmoid(model(images)))


def _together(sampler: diffusion.ScoreFn, num_classes: int) -> Posterior:
    """A sampler that draws nothing: the whole batch at once."""

    def posterior(model: nnx.Module, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
        features = model.encode(images)
        return sampler(
            partial(model.score, features), batch_size=len(images), num_classes=num_classes
        )

    return posterior


def _one_by_one(sampler: diffusion.ScoreFn, num_classes: int) -> Posterior:
    """A sampler that draws: mapped over images, each with a key of its own.

    So a posterior does not depend on the batch, or the device, that its image fell into.
    """

    def posterior(model: nnx.Module, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
        def one(key: chex.PRNGKey, features: chex.ArrayTree) -> chex.Array:
            features = jax.tree.map(lambda x: x[None], features)
            score_fn = partial(model.score, features)
            return sampler(score_fn, key=key, batch_size=1, num_classes=num_classes)[0]

        return jax.vmap(one)(keys, model.encode(images))

    return posterior
