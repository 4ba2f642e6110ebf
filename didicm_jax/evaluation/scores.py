"""What an evaluation keeps of each posterior: a few numbers, whatever the number of classes.

Shapes: N examples, K classes, T = min(K, `LIKELY`) of them.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from didicm_jax.evaluation.metrics import Outcomes, outcomes

# How many of its most probable classes are kept of each posterior, to say which classes are taken
# for one another. What lies beyond them is less than 1/LIKELY a class.
LIKELY = 16


class Scores(NamedTuple):
    """What a network says of N examples, in the order of their source."""

    labels: np.ndarray
    """i32[N]: the true classes."""
    outcomes: Outcomes
    """What each posterior scores, [N] each."""
    predicted: np.ndarray
    """i32[N]: the most probable class, the lowest where several are equally probable."""
    mass: np.ndarray
    """f32[N]: the probability of the true class."""
    likely: np.ndarray
    """i32[N,T]: the T most probable classes, `predicted` among them, ascending."""
    likely_mass: np.ndarray
    """f32[N,T]: their probabilities."""
    steps_used: np.ndarray | None
    """i32[N]: the steps after which each was decided; None for samplers that never stop early."""


def of(probs: np.ndarray, labels: np.ndarray, steps_used: np.ndarray | None = None) -> Scores:
    """Reduces posteriors to scores, row by row.

    Args:
      probs: posteriors f32[N,K].
      labels: true classes i32[N].
      steps_used: i32[N], of samplers that may stop early.

    Raises:
      UserError: a NaN or an infinity in `probs`.
      ValueError: as `metrics.outcomes`.
    """
    results = outcomes(probs, labels)
    kept = min(probs.shape[1], LIKELY)
    predicted = np.argmax(probs, axis=1).astype(np.int32)
    likely = np.argpartition(probs, probs.shape[1] - kept, axis=1)[:, -kept:]
    # Of more classes than are kept that are equally probable, the first is the predicted one.
    left_out = (likely != predicted[:, None]).all(axis=1)
    likely[left_out, 0] = predicted[left_out]
    likely.sort(axis=1)
    return Scores(
        labels,
        results,
        predicted,
        np.take_along_axis(probs, labels[:, None], axis=1)[:, 0],
        likely.astype(np.int32),
        np.take_along_axis(probs, likely, axis=1),
        steps_used,
    )


def join(parts: Iterable[Any]) -> Any:
    """Trees of columns, `Scores` say, one after the other."""
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
