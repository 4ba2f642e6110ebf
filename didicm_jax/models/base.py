"""What the rest of the project may expect of a model, whatever its family.

Shape symbols: `B` images, `H`, `W` their size, `C` their channels, `K` classes.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx


class Classifier(nnx.Module):
    """Maps images to logits over the classes."""

    num_classes: int

    def __call__(self, images: chex.Array) -> chex.Array:
        """Float images `[B, H, W, C]` to logits float32 `[B, K]` (natural log)."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")


class ScoreModel(nnx.Module):
    """Maps images, noised labels and noise to the log concrete score (arXiv 2511.20263, sec. 3).

    A family defines `encode`, everything that does not see the label, and `raw_score`.
    """

    num_classes: int

    def encode(self, images: chex.Array) -> Any:
        """Float images `[B, H, W, C]` to features: a pytree of arrays that lead with B."""
        raise NotImplementedError(f"{type(self).__name__} must define encode")

    def raw_score(self, features: Any, labels: chex.Array, sigma: chex.Array) -> chex.Array:
        """The network's output float32 `[B, K]`, before the entry at the label is set to 0."""
        raise NotImplementedError(f"{type(self).__name__} must define raw_score")

    def score(self, features: Any, labels: chex.Array, sigma: chex.Array) -> chex.Array:
        """Log concrete score `log q_t(i | y) - log q_t(label | y)`.

        In eval mode it is a pure function of its arguments: `jax.vmap` over labels and sigma runs
        many chains on one encoding. In train mode it also updates the running statistics, which
        `flax.nnx` allows only at the level of the trace where the model was made: repeat the
        features along B instead of using `jax.vmap`.

        Args:
          features: what `encode` returned for these B images.
          labels: the (noised) label of each image, int `[B]` in [0, K). Nothing checks the values:
            one of K or more makes its row NaN, a negative one counts from the end.
          sigma: total noise at which each label is seen, float `[B]`.

        Returns:
          Float32 `[B, K]`, natural log, exactly 0 at the label.
        """
        raw = self.raw_score(features, labels, sigma)
        at_label = jax.lax.broadcasted_iota(labels.dtype, raw.shape, 1) == labels[:, None]
        return jnp.where(at_label, 0.0, raw)

    def __call__(self, images: chex.Array, labels: chex.Array, sigma: chex.Array) -> chex.Array:
        """`score` of `encode(images)`, float32 `[B, K]`."""
        return self.score(self.encode(images), labels, sigma)
