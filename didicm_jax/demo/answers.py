"""What is said of the images of one visitor, in the words and numbers of the page.

Shapes: N images u8[N, H, W, C], K classes, S steps of the sampler, M strengths of a corruption.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from didicm_jax import evaluation
from didicm_jax.demo import corrupting
from didicm_jax.demo.corrupting import Corruption
from didicm_jax.demo.model import BUCKETS, ONE_SHOT, Model, Sampler
from didicm_jax.inference.predictor import Prediction
from didicm_jax.plots import prediction as figures


class Growth(NamedTuple):
    """An image that is more and more corrupted."""

    strengths: np.ndarray  # f64[M], from 0 to 1
    images: np.ndarray  # u8[M, H, W, C]
    captions: Sequence[str]  # M
    entropy: np.ndarray  # f64[M], of the posterior of each, in nats
    probs: np.ndarray  # f32[M], of the class that the image has at strength 0


@dataclass(frozen=True, eq=False)
class Answers:
    """The images as the network is shown them, and its posteriors."""

    model: Model
    names: Sequence[str]
    pixels: np.ndarray
    sampler: Sampler | None
    answer: Prediction

    @classmethod
    def of(
        cls, model: Model, names: Sequence[str], pixels: np.ndarray, sampler: Sampler | None
    ) -> "Answers":
        """Asks the model.

        Args:
          model: the network.
          names: N, of the images.
          pixels: u8[N, H, W, C], from `model.load`.
          sampler: None for a classifier.

        Raises:
          UserError: the posteriors are not finite.
        """
        return cls(model, names, pixels, sampler, model.ask(pixels, sampler))

    def again(self, sampler: Sampler | None) -> "Answers":
        """The same images with another sampler."""
        return self.of(self.model, self.names, self.pixels, sampler)

    @property
    def captions(self) -> list[str]:
        """For each image its class and how sure that is."""
        return _captions(self.answer.classes, self.answer.probs)

    @property
    def steps(self) -> int | None:
        """S; None where no way to the posteriors is known."""
        return None if self.answer.trajectory is None else self.answer.trajectory.shape[1] - 1

    def posterior(self, row: int, step: int | None = None) -> np.ndarray:
        """The probabilities f32[K] of an image after a step, or in the end."""
        way = self.answer.trajectory
        return self.answer.probs[row] if way is None or step is None else way[row, step]

    def at_once(self, row: int) -> np.ndarray | None:
        """What one call of the network says of an image, f32[K]; None for a classifier."""
        if self.sampler is None:
            return None
        once = self.sampler._replace(name=ONE_SHOT)
        return self.model.ask(self.pixels[row : row + 1], once).probs[0]

    def named(self, probs: np.ndarray) -> Mapping[str, float]:
        """Probabilities f32[K] with the names of their classes."""
        return dict(zip(self.model.class_names, probs.astype(float).tolist(), strict=True))

    def story(self, row: int) -> figures.Story:
        """An image and how its posterior came about, to be drawn."""
        way = self.answer.trajectory
        return figures.Story(
            self.names[row],
            self.pixels[row],
            self.model.class_names,
            self.answer.probs[row],
            None if way is None else way[row],
        )

    def growth(self, row: int, corruption: Corruption) -> Growth:
        """An image at strengths from none of a corruption to all of it."""
        strengths = np.linspace(0, 1, BUCKETS[-1])
        images = corrupting.growing(self.pixels[row], corruption, strengths)
        # Without corruption the answer is there; a sampler that draws would give another.
        asked = self.model.ask(images[1:], self.sampler)
        probs = np.concatenate([self.answer.probs[row][None], asked.probs])
        classes = [self.answer.classes[row], *asked.classes]
        captions = _captions(classes, probs)
        first = probs[:, self.answer.labels[row]]
        return Growth(strengths, images, captions, evaluation.entropy(probs), first)


def verdict(probs: np.ndarray, at_once: np.ndarray | None) -> str:
    """How uncertain a posterior f32[K] is, and what one call of the network gave, if any."""
    classes, found = len(probs), float(evaluation.entropy(probs))
    words = (
        f"Entropy {found:.2f} of at most {np.log(classes):.2f} nats: as uncertain as a choice "
        f"among {np.exp(found):.1f} of {classes} classes."
    )
    if at_once is not None:
        words += f" With one call of the network {evaluation.entropy(at_once):.2f}."
    return words


def _captions(classes: Sequence[str], probs: np.ndarray) -> list[str]:
    """The number first: what a narrow thumbnail cuts off is the end of the name."""
    sure = probs.max(axis=-1)
    return [f"{100 * p:.0f} % {name}" for name, p in zip(classes, sure, strict=True)]
