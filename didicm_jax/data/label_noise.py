"""Labels that are made wrong at random, to see what a training makes of them.

Shapes: N examples, K classes.
"""

import numpy as np

from didicm_jax.data.draws import row_draws, uniforms
from didicm_jax.errors import UserError

# Of the streams of `row_draws`; crops have the stream 0.
_STREAM = 1


def redraw(labels: np.ndarray, num_classes: int, *, share: float, seed: int) -> np.ndarray:
    """The labels i32[N], each drawn anew with probability `share`, uniformly over all K.

    A draw may hit the label that was there, so a share of `share (K - 1) / K` ends up wrong. What
    becomes of an example is a function of the seed and its place; with a larger share all those
    that a smaller one has redrawn are redrawn, to the same labels.

    Args:
      labels: i32[N] in [0, K).
      num_classes: K.
      share: in [0, 1).
      seed: of the run, 0 or more.

    Raises:
      UserError: `share` is outside [0, 1).
    """
    if not 0 <= share < 1:
        raise UserError(
            f"expected config.data.label_noise to be a share in [0, 1), found {share}: set it to"
            " one, such as 0.4"
        )
    chance, anything = uniforms(row_draws(seed, np.arange(len(labels)), _STREAM), 2).T
    drawn = (anything * num_classes).astype(labels.dtype)
    return np.where(chance < share, drawn, labels)
