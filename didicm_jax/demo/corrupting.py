"""Corruptions by sliders: blurred, of fewer pixels, noisy, each as strong as one likes.

Strengths are relative to the image, so that they mean the same at every size. Those of ImageNet-C,
at five severities, are in `data.corruptions`.

Shapes: HxW pixels of C channels, M strengths.
"""

from typing import NamedTuple

import cv2
import numpy as np


class Corruption(NamedTuple):
    """How much of what happens to an image, in this order; nothing by default."""

    blur: float = 0.0  # standard deviation of a Gaussian, as a share of the shorter side
    lost: float = 0.0  # share of the pixels of a side that are lost, from 0 to 1
    noise: float = 0.0  # standard deviation of Gaussian noise, as a share of white

    def weaker(self, strength: float) -> "Corruption":
        """So much of it, from 0, which is nothing, to 1, which is all."""
        return Corruption(*(strength * each for each in self))


def corrupt(image: np.ndarray, corruption: Corruption) -> np.ndarray:
    """A corrupted copy.

    The noise is the same draw at every strength: what a slider changes is its strength alone.

    Args:
      image: u8[H, W, C].
      corruption: what to do.

    Returns:
      u8[H, W, C].
    """
    height, width, _ = shape = image.shape
    pixels: np.ndarray = image.astype(np.float32)
    if corruption.blur > 0:
        pixels = cv2.GaussianBlur(pixels, (0, 0), corruption.blur * min(height, width))
    if corruption.lost > 0:
        few = [max(1, round((1 - corruption.lost) * side)) for side in (width, height)]
        pixels = cv2.resize(pixels, few, interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    # OpenCV drops an axis of one channel.
    pixels = pixels.reshape(shape)
    if corruption.noise > 0:
        drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
        pixels = pixels + 255 * np.float32(corruption.noise) * drawn
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def growing(image: np.ndarray, corruption: Corruption, strengths: np.ndarray) -> np.ndarray:
    """The image at each of `strengths` f32[M], from 0 to 1, as u8[M, H, W, C]."""
    return np.stack([corrupt(image, corruption.weaker(float(each))) for each in strengths])
