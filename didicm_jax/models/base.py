"""What the rest of the project may expect of a model, whatever its family.

Shape symbols: `B` images, `H`, `W` their size, `C` their channels, `K` classes.
"""

from abc import abstractmethod
from typing import Any

import chex
from flax import nnx

from didicm_jax.diffusion.parameterization import PARAMETERIZATIONS


# `nnx.Module` has the metaclass of abstract classes: one that lacks a method cannot be made.
class Classifier(nnx.Module):
    """Maps images to logits over the classes."""

    num_classes: int

    @abstractmethod
    def __call__(self, images: chex.Array) -> chex.Array:
        """Float images `[B, H, W, C]` to logits float32 `[B, K]` (natural log)."""


class ScoreModel(nnx.Module):
    """Maps images, noised labels and noise to the log concrete score (arXiv 2511.20263, sec. 3).

    A family defines `encode`, everything that does not see the label, and `output`.
    """

    num_classes: int
    # What the output stands for, a key of `PARAMETERIZATIONS`.
    parameterization: str = "ratio"

    @abstractmethod
    def encode(self, images: chex.Array) -> Any:
        """Float images `[B, H, W, C]` to features: a pytree of arrays that lead with B."""

    @abstractmethod
    def output(self, features: Any, labels: chex.Array, sigma: chex.Array) -> chex.Array:
        """The network's output float32 `[B, K]`, which `parameterization` turns into a score."""

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
        log_score_of = PARAMETERIZATIONS[self.parameterization]
        return log_score_of(self.output(features, labels, sigma), labels, sigma)

    def __call__(self, images: chex.Array, labels: chex.Array, sigma: chex.Array) -> chex.Array:
        """`score` of `encode(images)`, float32 `[B, K]`."""
        return self.score(self.encode(images), labels, sigma)
