"""Which part of a photo is shown: a random crop in training, the centre in evaluation."""

import math
from collections.abc import Sequence
from typing import NamedTuple

# timm and torchvision: ten tries for a crop that fits, then a fixed one.
_TRIES = 10
# Per try an area and an aspect ratio, and at the end a place.
NUM_UNIFORMS = 2 * _TRIES + 2


class Box(NamedTuple):
    """A part of an image, in its pixels."""

    left: int
    top: int
    width: int
    height: int


def random_box(
    width: int,
    height: int,
    uniforms: Sequence[float],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """The random resized crop of an image (Szegedy et al. 2015; as in timm and torchvision).

    Its area is uniform in `scale` times that of the image, its aspect ratio log-uniform in `ratio`.
    The first of ten tries that fits is placed uniformly; where none fits, it is the largest centred
    part whose aspect ratio is within `ratio`.

    Args:
      width: of the image, in pixels.
      height: of the image, in pixels.
      uniforms: `NUM_UNIFORMS` numbers in [0, 1), the randomness.
      scale: smallest and largest share of the area.
      ratio: smallest and largest width / height.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for n in range(_TRIES):
        area = width * height * (scale[0] + uniforms[2 * n] * (scale[1] - scale[0]))
        aspect = math.exp(low + uniforms[2 * n + 1] * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(uniforms[-2] * (width - w + 1))
            top = int(uniforms[-1] * (height - h + 1))
            return Box(left, top, w, h)
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    return Box((width - w) // 2, (height - h) // 2, w, h)


def center_box(width: int, height: int, *, resolution: int, crop: float) -> Box:
    """The centred square that evaluation shows.

    It is what remains when the shorter side is resized to floor(resolution / crop) pixels and the
    centre of `resolution` x `resolution` is cut out (timm), without the detour over the pixels that
    are then thrown away.
    """
    side = round(min(width, height) * resolution / math.floor(resolution / crop))
    side = max(1, min(side, width, height))
    return Box((width - side) // 2, (height - side) // 2, side, side)
