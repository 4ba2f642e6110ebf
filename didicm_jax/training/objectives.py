"""What is minimised: the diffusion loss, or a plain classifier's.

An objective draws what it needs for the examples that a device holds, before they are cut into
micro-batches, and gets its draws back with each micro-batch. What it draws for an example is a
function of the keys and the example's place in the global batch. Shapes: `B` global batch, `n`
examples of a device, `b` of a micro-batch, `K` classes, `M` draws per image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx

from didicm_jax import diffusion
from didicm_jax.config import build


class Rows(NamedTuple):
    """Which examples of the global batch a device holds."""

    start: chex.Array | int
    size: int  # n
    total: int  # B

    def keys(self, key: chex.PRNGKey) -> chex.PRNGKey:
        """A key for each, key `[n]`."""
        position = self.start + jnp.arange(self.size)
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, position)


class Batch(NamedTuple):
    """What an objective sees of a micro-batch."""

    images: chex.Array  # f32[b, H, W, C], augmented and normalised
    targets: chex.Array  # f32[b, K], hard or soft labels
    draws: Any  # what `Objective.draw` gave for these examples


class Objective(Protocol):
    """The loss of an example, and the randomness that it needs."""

    def draw(self, keys: chex.PRNGKey, rows: Rows) -> Any:
        """What the loss of these examples needs of two keys: arrays `[n, ...]`, or nothing."""

    def __call__(self, model: Any, batch: Batch) -> chex.Array:
        """The loss of each example, f32[b]; updates the statistics of a model in training mode."""


def create(config: ml_collections.ConfigDict) -> Objective:
    """The objective of `config.method`."""
    if config.method == "cross_entropy":
        return forward_corrected(config.diffusion.label_noise)
    if config.method == "binary_cross_entropy":
        return binary_cross_entropy
    settings = config.diffusion
    return DiDiCM(
        build.noise_schedule(config),
        settings.loss,
        min_time=settings.min_time,
        stratified=settings.stratified,
        draws_per_image=settings.draws_per_image,
    )


class Noise(NamedTuple):
    """What the diffusion loss draws."""

    keys: chex.PRNGKey  # key[n], of the noised labels
    time: chex.Array  # f32[n, M], spread over the global batch


@dataclasses.dataclass(frozen=True)
class DiDiCM:
    """`diffusion.didicm_loss`, with times spread over the global batch and a key per example.

    The M times of an image, each with a noised label of its own, share one encoding; the loss is
    their mean, and its gradient the mean of theirs. (A BatchNorm behind the encoder normalises over
    all `b M` of them.) With `loss` cross_entropy the model's output has to be log q_0
    (`parameterization` posterior).
    """

    schedule: diffusion.Schedule
    loss: diffusion.Loss = "score_entropy"
    _: dataclasses.KW_ONLY
    min_time: float = 1e-3
    stratified: bool = True
    draws_per_image: int = 1

    def draw(self, keys: chex.PRNGKey, rows: Rows) -> Noise:
        """Keys of the labels, and times."""
        # The whole batch's times on every device: B M numbers; the strata are dealt over all of it.
        time = diffusion.sample_times(
            keys[1],
            (rows.total, self.draws_per_image),
            min_time=self.min_time,
            stratified=self.stratified,
        )
        time = jax.lax.dynamic_slice_in_dim(time, rows.start, rows.size)
        return Noise(rows.keys(keys[0]), time)

    def __call__(self, model: Any, batch: Batch) -> chex.Array:
        """The mean over the draws of each image, in nats."""
        draws = batch.draws.time.shape[1]
        features = model.encode(batch.images)
        if draws > 1:
            features = jax.tree.map(lambda x: jnp.repeat(x, draws, axis=0), features)
        output_fn = model.output if self.loss == "cross_entropy" else model.score
        return diffusion.loss_at_times(
            batch.draws.keys,
            lambda labels, sigma: output_fn(features, labels, sigma),
            batch.targets,
            batch.draws.time,
            self.schedule,
            self.loss,
        )


@dataclasses.dataclass(frozen=True)
class Classification:
    """A loss of logits and targets `[b, K]`; draws nothing."""

    loss: Callable[[chex.Array, chex.Array], chex.Array]

    def draw(self, keys: chex.PRNGKey, rows: Rows) -> None:
        """Nothing."""

    def __call__(self, model: nnx.Module, batch: Batch) -> chex.Array:
        """In nats."""
        return self.loss(model(batch.images), batch.targets)


# Softmax cross-entropy.
cross_entropy = Classification(optax.softmax_cross_entropy)


def forward_corrected(label_noise: float) -> Classification:
    """Softmax cross-entropy of a label that was drawn anew with this probability, in [0, 1).

    `-log((1 - eta) p_y + eta / K)`, and for soft labels its mean: the softmax itself, which is the
    answer, is of the clean label.

    Source: the forward correction of Patrini et al. (2017, arXiv 1609.03683).
    """
    if not label_noise:
        return cross_entropy
    sigma_0 = diffusion.total_noise(label_noise)

    def loss(logits: chex.Array, targets: chex.Array) -> chex.Array:
        observed = diffusion.log_marginal(logits, jnp.full(logits.shape[:-1], sigma_0))
        return -(targets * observed).sum(-1)

    return Classification(loss)


# One sigmoid per class, the mean over the classes (timm's A1 recipe, arXiv 2110.00476).
binary_cross_entropy = Classification(
    lambda logits, targets: optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)
)
