"""What posteriors say class by class, and which classes they take for one another, in NumPy.

Nothing here is of K² numbers: pairs of classes are held only where an example links them.

Shapes: N examples, K classes, P pairs of them.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from didicm_jax.evaluation.scores import Scores


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


def per_class(scores: Scores, num_classes: int) -> PerClass:
    """Accuracy, confidence and bias of each class."""
    labels = scores.labels
    count = np.bincount(labels, minlength=num_classes)

    def mean(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.bincount(labels, values, minlength=num_classes) / count

    return PerClass(
        examples=count,
        accuracy=mean(scores.outcomes.correct1.astype(np.float64)),
        confidence=mean(scores.outcomes.confidence),
        mass=mean(scores.mass.astype(np.float64)),
        bias=(np.bincount(scores.predicted, minlength=num_classes) - count) / len(labels),
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
    calibrated, the classes overlap. Of each posterior the `scores.LIKELY` most probable classes
    count."""


def confusions(scores: Scores, num_classes: int, *, top: int) -> Confusions:
    """The pairs with the most errors, among equals those that exchange the most mass.

    Args:
      scores: of all examples.
      num_classes: K.
      top: how many pairs to give at most; only those that exchange anything.
    """
    count = np.bincount(scores.labels, minlength=num_classes)
    kept = scores.likely.shape[1]
    mass = _exchanged(
        np.repeat(scores.labels, kept),
        scores.likely.ravel(),
        scores.likely_mass.ravel().astype(np.float64),
        num_classes,
    )
    errors = _exchanged(scores.labels, scores.predicted, np.ones(len(scores.labels)), num_classes)
    # A class that is predicted is among the likely ones, or its posterior is a tie of more than
    # those: then the sum has the pair all the same.
    linked = (mass + errors).tocoo()
    first, second = linked.row.astype(np.int64), linked.col.astype(np.int64)
    wrong = _at(errors, first, second).astype(np.int64)
    share = _at(mass, first, second) / np.maximum(count[first] + count[second], 1)
    order = np.lexsort((second, first, -share, -wrong))[:top]
    order = order[(wrong[order] > 0) | (share[order] > 0)]
    return Confusions(np.stack([first, second], axis=1)[order], wrong[order], share[order])


def _exchanged(
    labels: np.ndarray, others: np.ndarray, weights: np.ndarray, num_classes: int
) -> sparse.csr_matrix:
    """Sums of the weights [M] for each pair of different classes, whichever is the label's."""
    different = labels != others
    labels, others = labels[different], others[different]
    pairs = np.minimum(labels, others), np.maximum(labels, others)
    return sparse.csr_matrix((weights[different], pairs), shape=(num_classes, num_classes))


def _at(matrix: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Its entries [M]."""
    return np.asarray(matrix[rows, columns]).reshape(-1) if len(rows) else np.zeros(0)


def summary(scores: Scores, names: tuple[str, ...], *, top: int) -> dict[str, Any]:
    """Best, worst and most confused classes, for a report.

    Args:
      scores: of all examples.
      names: of the K classes.
      top: how many of the worst, and of the most confused pairs.
    """
    found = per_class(scores, len(names))
    order = [int(k) for k in np.argsort(found.accuracy, kind="stable") if found.examples[k]]
    confused = confusions(scores, len(names), top=top)
    return {
        "accuracy_of_best": float(found.accuracy[order[-1]]),
        "accuracy_of_worst": float(found.accuracy[order[0]]),
        "worst": [
            {
                "class": names[k],
                "count": int(found.examples[k]),
                "accuracy": float(found.accuracy[k]),
                "confidence": float(found.confidence[k]),
                "bias": float(found.bias[k]),
            }
            for k in order[:top]
        ],
        "most_confused": [
            {"classes": [names[a], names[b]], "errors": int(errors), "mass": float(mass)}
            for (a, b), errors, mass in zip(*confused, strict=True)
        ],
    }


def tables(scores: Scores, names: tuple[str, ...], *, pairs: int) -> dict[str, list[list[Any]]]:
    """`classes.csv` and `confusions.csv`: their rows, the names of the columns first."""
    found = per_class(scores, len(names))
    confused = confusions(scores, len(names), top=pairs)
    of_classes: list[list[Any]] = [["class", *found._fields]]
    of_classes += [
        [name, *values] for name, values in zip(names, zip(*found, strict=True), strict=True)
    ]
    of_pairs: list[list[Any]] = [["class", "other", "errors", "mass"]]
    of_pairs += [
        [names[a], names[b], errors, mass] for (a, b), errors, mass in zip(*confused, strict=True)
    ]
    return {"classes.csv": of_classes, "confusions.csv": of_pairs}
