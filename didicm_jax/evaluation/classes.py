"""What posteriors say class by class, and which classes they take for one another, in NumPy.

Shapes: N examples, K classes.
"""

from typing import NamedTuple

import numpy as np


class PerClass(NamedTuple):
    """Of each of the K classes; NaN where a class has no example."""

    examples: np.ndarray
    """i64[K]: how many have this label."""
    accuracy: np.ndarray
    """f64[K]: the share of them whose most probable class is theirs (recall)."""
    confidence: np.ndarray
    """f64[K]: the mean probability of the most probable class, whatever it is, over them."""
    mass: np.ndarray
    """f64[K]: the mean probability that they give to their own class."""
    bias: np.ndarray
    """f64[K]: how much more often the class is predicted than it occurs, as a share of all N: above
    0 the model favours it. Over the classes it sums to 0."""


def per_class(probs: np.ndarray, labels: np.ndarray) -> PerClass:
    """Accuracy, confidence and bias of each class.

    Args:
      probs: posteriors f32[N,K].
      labels: true classes i32[N].
    """
    total, num_classes = probs.shape
    predicted = np.argmax(probs, axis=1)
    count = np.bincount(labels, minlength=num_classes)

    def mean(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.bincount(labels, values, minlength=num_classes) / count

    return PerClass(
        examples=count,
        accuracy=mean((predicted == labels).astype(np.float64)),
        confidence=mean(np.max(probs, axis=1).astype(np.float64)),
        mass=mean(probs[np.arange(total), labels].astype(np.float64)),
        bias=(np.bincount(predicted, minlength=num_classes) - count) / total,
    )


class Confusions(NamedTuple):
    """Pairs of classes that are taken for one another, the worst first."""

    pairs: np.ndarray
    """i64[P, 2]: the two classes a < b."""
    errors: np.ndarray
    """i64[P]: examples of one predicted as the other, both ways."""
    mass: np.ndarray
    """f64[P]: the posterior mass that they exchange, Σ p(b) over examples of a plus Σ p(a) over
    those of b, as a share of the examples of both: where it is large and the posteriors are
    calibrated, the classes overlap."""


def confusions(probs: np.ndarray, labels: np.ndarray, *, top: int) -> Confusions:
    """The pairs with the most errors, among equals those that exchange the most mass.

    Args:
      probs: posteriors f32[N,K].
      labels: true classes i32[N].
      top: how many pairs to give at most; only those that exchange anything.
    """
    num_classes = probs.shape[1]
    predicted = np.argmax(probs, axis=1)
    count = np.bincount(labels, minlength=num_classes)
    counted = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counted, (labels, predicted), 1)
    given = np.zeros((num_classes, num_classes))
    np.add.at(given, labels, probs.astype(np.float64))
    first, second = np.triu_indices(num_classes, 1)
    errors = (counted + counted.T)[first, second]
    both = np.maximum(count[first] + count[second], 1)
    mass = (given + given.T)[first, second] / both
    order = np.lexsort((-mass, -errors))[:top]
    order = order[(errors[order] > 0) | (mass[order] > 0)]
    return Confusions(np.stack([first, second], axis=1)[order], errors[order], mass[order])
