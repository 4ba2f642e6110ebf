"""A posterior on a page: its likeliest classes and, step by step, the way to it.

Shapes: S steps, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from didicm_jax.plots import prediction, style

# Width and height of the box that the lines are drawn in, in units of the SVG; the template leaves
# room for axes.
_BOX = (200, 80)
# With the colours, for who cannot tell those: lengths of dashes and gaps.
_DASHES = ("", "7 2", "2 2", "7 2 2 2", "4 4")


class Line(NamedTuple):
    """One of the classes that matter."""

    name: str
    probability: float  # in the end
    color: str
    dashes: str  # "": none
    points: str  # of the line, "x,y x,y ..."; "" where there is no way to draw


class Refinement(NamedTuple):
    """The classes that matter, the likeliest first."""

    lines: Sequence[Line]
    steps: int | None  # S; None without the way
    box: tuple[int, int] = _BOX


def refinement(
    class_names: Sequence[str], probs: np.ndarray, trajectory: np.ndarray | None = None
) -> Refinement:
    """What to show of a posterior.

    Args:
      class_names: K names.
      probs: f32[K]; of the likeliest classes alone will do.
      trajectory: f32[S + 1, K], from the uniform start; None without one.
    """
    lines = []
    shown = prediction.matter(probs, trajectory)
    for k, dashes, (color, _) in zip(shown, _DASHES, style.colors(), strict=False):
        points = ""
        if trajectory is not None:
            x = np.linspace(0, _BOX[0], len(trajectory))
            y = _BOX[1] * (1 - trajectory[:, k].astype(float))
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        lines.append(Line(class_names[k], float(probs[k]), color, dashes, points))
    return Refinement(lines, None if trajectory is None else len(trajectory) - 1)
