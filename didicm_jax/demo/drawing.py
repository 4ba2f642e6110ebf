"""Drawings on a canvas to images, and images of few pixels to ones that can be seen.

Shapes: hxw pixels of the canvas, HxW pixels of C channels of an image.
"""

import numpy as np

_WHITE = 255
_DRAWN = 32  # levels below white; the soft edge of a brush is left out
_MARGIN = 0.1  # around what is drawn, as a share of its longer side


def from_canvas(canvas: np.ndarray, *, as_digit: bool) -> np.ndarray | None:
    """What is drawn on white paper.

    Args:
      canvas: u8[h, w, 3].
      as_digit: as the digits of data sets are: white on black, in the middle and as large as the
        image. Else the whole canvas as it is.

    Returns:
      u8[h, w, 3], with `as_digit` u8[s, s, 3]; None where nothing is drawn.
    """
    drawn = canvas.min(axis=-1) <= _WHITE - _DRAWN
    if not drawn.any():
        return None
    return _WHITE - _middle(canvas, drawn) if as_digit else canvas


def _middle(canvas: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The square around what is drawn."""
    (top, bottom), (left, right) = (
        np.flatnonzero(drawn.any(axis=axis))[[0, -1]] for axis in (1, 0)
    )
    part = canvas[top : bottom + 1, left : right + 1]
    height, width, _ = part.shape
    side = round((1 + 2 * _MARGIN) * max(height, width))
    square = np.full((side, side, 3), _WHITE, np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = part
    return square


def enlarged(image: np.ndarray, least: int = 128) -> np.ndarray:
    """The image u8[H, W, C] in colour, its pixels repeated until its sides are `least` or more."""
    times = -(-least // min(image.shape[:2]))
    large = image.repeat(times, axis=0).repeat(times, axis=1)
    return large if large.shape[-1] == 3 else large.repeat(3, axis=-1)
