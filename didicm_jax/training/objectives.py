"""What is minimised: the diffusion loss, or a plain classifier's.

An objective gets a model in training mode, whose running statistics it updates, and one
micro-batch. Everything random is handed to it per example. Shapes: `b` images, `K` classes.
"""

from typing import NamedTuple, Protocol

import chex
import jax
import ml_collections
import optax
from flax import nnx

from didicm_jax import build, diffusion


class Batch(NamedTuple):
    """What an objective sees of a micro-batch."""

    images: chex.Array  # f32[b, H, W, C], augmented and normalised
    targets: chex.Array  # f32[b, K], hard or soft labels
    keys: chex.PRNGKey  # key[b], a key per example
    time: chex.Array  # f32[b], a diffusion time per example, spread over the global batch


class Objective(Protocol):
    """`(model, batch) -> loss f32[b]`."""

    def __call__(self, model: nnx.Module, batch: Batch) -> chex.Array:
        """The loss of each example."""


def create(config: ml_collections.ConfigDict) -> Objective:
    """The objective of `config.method`."""
    if config.method == "cross_entropy":
        return cross_entropy
    if config.method == "binary_cross_entropy":
        return binary_cross_entropy
    return didicm(build.noise_schedule(config))


def didicm(schedule: diffusion.Schedule) -> Objective:
    """The diffusion loss: `diffusion.didicm_loss` with the draws made per example."""

    def loss(model: nnx.Module, batch: Batch) -> chex.Array:
        sigma = schedule.total(batch.time)
        labels = jax.vmap(diffusion.sample_marginal)(batch.keys, batch.targets, sigma)
        log_score = model(batch.images, labels, sigma)
        return diffusion.weighted_score_entropy(
            log_score, batch.targets, labels, batch.time, schedule
        )

    return loss


def cross_entropy(model: nnx.Module, batch: Batch) -> chex.Array:
    """Softmax cross-entropy in nats."""
    return optax.softmax_cross_entropy(model(batch.images), batch.targets)


def binary_cross_entropy(model: nnx.Module, batch: Batch) -> chex.Array:
    """One sigmoid per class, the mean over the classes (timm's A1 recipe, arXiv 2110.00476)."""
    return optax.sigmoid_binary_cross_entropy(model(batch.images), batch.targets).mean(-1)
