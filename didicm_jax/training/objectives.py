"""What is minimised: the diffusion loss, or a plain classifier's.

An objective gets a model in training mode, whose running statistics it updates, and one
micro-batch. Everything random is handed to it per example. Shapes: `b` images,
`K` classes, `M` draws per image.
"""

from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx

from didicm_jax import diffusion
from didicm_jax.config import build


class Batch(NamedTuple):
    """What an objective sees of a micro-batch."""

    images: chex.Array  # f32[b, H, W, C], augmented and normalised
    targets: chex.Array  # f32[b, K], hard or soft labels
    keys: chex.PRNGKey  # key[b], a key per example
    time: chex.Array  # f32[b, M], M diffusion times per example, spread over the global batch


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
    return didicm(build.noise_schedule(config), config.diffusion.loss)


def didicm(schedule: diffusion.Schedule, kind: str = "score_entropy") -> Objective:
    """The diffusion loss: `diffusion.didicm_loss` with the draws made per example.

    Or, as `kind` says, `cross_entropy`: `diffusion.denoising_cross_entropy` at the same draws, of a
    network whose output is log q_0 (`parameterization` posterior).

    The M times of an image, each with a noised label of its own, share one encoding; the loss is
    their mean, and its gradient the mean of theirs. (A BatchNorm behind the encoder normalises over
    all `b M` of them.)
    """

    def loss(model: Any, batch: Batch) -> chex.Array:
        draws = batch.time.shape[1]
        sigma = schedule.total(batch.time)
        keys = jax.vmap(lambda key: jax.random.split(key, draws))(batch.keys)
        sample = jax.vmap(diffusion.sample_marginal, in_axes=(0, None, 0))
        labels = jax.vmap(sample)(keys, batch.targets, sigma)
        features = model.encode(batch.images)
        if draws > 1:
            features = jax.tree.map(lambda x: jnp.repeat(x, draws, axis=0), features)
        targets = jnp.repeat(batch.targets[:, None], draws, axis=1)
        asked = (features, labels.reshape(-1), sigma.reshape(-1))
        if kind == "cross_entropy":
            log_clean = model.raw_score(*asked).reshape(targets.shape)
            return diffusion.denoising_cross_entropy(log_clean, targets, labels, sigma).mean(1)
        log_score = model.score(*asked)
        return diffusion.weighted_score_entropy(
            log_score.reshape(targets.shape), targets, labels, batch.time, schedule
        ).mean(1)

    return loss


def cross_entropy(model: nnx.Module, batch: Batch) -> chex.Array:
    """Softmax cross-entropy in nats."""
    return optax.softmax_cross_entropy(model(batch.images), batch.targets)


def binary_cross_entropy(model: nnx.Module, batch: Batch) -> chex.Array:
    """One sigmoid per class, the mean over the classes (timm's A1 recipe, arXiv 2110.00476)."""
    return optax.sigmoid_binary_cross_entropy(model(batch.images), batch.targets).mean(-1)
