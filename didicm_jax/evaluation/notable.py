"""Which examples to look at: a few dozen, chosen by the scores that an evaluation keeps anyway."""

from typing import NamedTuple

import numpy as np

from didicm_jax.evaluation import classes
from didicm_jax.evaluation.scores import Scores


class Confused(NamedTuple):
    """Two classes that are taken for one another."""

    classes: tuple[int, int]
    errors: int  # examples of one predicted as the other, both ways
    mass: float  # as in `classes.Confusions`
    examples: np.ndarray  # i64[n]: some of these errors, the most confident first


class Notable(NamedTuple):
    """Places of examples in their source, and why they are worth a look."""

    mistakes: np.ndarray  # i64[m]: predicted as another class, the most confident first
    uncertain: np.ndarray  # i64[u]: the posteriors of the highest entropy first
    confused: list[Confused]  # the pairs with the most errors first


def choose(
    scores: Scores, num_classes: int, *, examples: int = 12, pairs: int = 8, of_a_pair: int = 6
) -> Notable:
    """The examples that an evaluation's page shows; of equal ones the first in the source.

    Args:
      scores: of all examples.
      num_classes: K.
      examples: how many mistakes, and how many uncertain ones, at most.
      pairs: how many pairs of classes at most.
      of_a_pair: how many examples of each at most.
    """
    wrong = np.flatnonzero(scores.predicted != scores.labels)
    wrong = wrong[np.argsort(-scores.outcomes.confidence[wrong], kind="stable")]
    uncertain = np.argsort(-scores.outcomes.entropy, kind="stable")[:examples]
    ends = np.sort([scores.labels[wrong], scores.predicted[wrong]], axis=0)
    confused = []
    for pair, errors, mass in zip(*classes.confusions(scores, num_classes, top=pairs), strict=True):
        if errors:
            of_pair = wrong[(ends == pair[:, None]).all(axis=0)][:of_a_pair]
            confused.append(Confused((int(pair[0]), int(pair[1])), int(errors), mass, of_pair))
    return Notable(wrong[:examples], uncertain, confused)
