"""Two models on the same examples: paired differences and where they disagree, in NumPy.

Shapes: N examples, K classes.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from didicm_jax.evaluation.metrics import Outcomes, chunks, summarize_rows
from didicm_jax.evaluation.resampling import bootstrap


class Difference(NamedTuple):
    """How much a metric of the first model is above that of the second."""

    value: float
    low: float
    high: float


def differences(
    ours: Outcomes, theirs: Outcomes, *, resamples: int = 1000
) -> dict[str, Difference]:
    """Ours minus theirs for each metric, with paired bootstrap intervals.

    Paired: a resample draws examples, and both models are scored on the same ones, so what makes an
    example hard for both cancels.

    Args:
      ours: of the first model, f64[N] each.
      theirs: of the second on the same examples in the same order.
      resamples: how often N examples are drawn with replacement.
    """

    def gap(rows: np.ndarray) -> dict[str, float]:
        a, b = summarize_rows(ours, rows), summarize_rows(theirs, rows)
        return {name: a[name] - b[name] for name in a}

    total = len(ours.correct1)
    value = gap(np.arange(total))
    ends = bootstrap(gap, total, resamples=resamples)
    return {name: Difference(value[name], *ends[name]) for name in value}


class McNemar(NamedTuple):
    """McNemar's test that two models err equally often (1947), in its exact form."""

    only_ours: int  # examples that the first alone has right
    only_theirs: int
    p_value: float  # two-sided binomial; 1 where they never differ


def mcnemar(ours: Outcomes, theirs: Outcomes) -> McNemar:
    """Whether the difference in top-1 could be chance: only examples that one alone has right tell.

    Args:
      ours: of the first model.
      theirs: of the second on the same examples in the same order.
    """
    only_ours = int(np.sum(ours.correct1 & ~theirs.correct1))
    only_theirs = int(np.sum(theirs.correct1 & ~ours.correct1))
    differing = only_ours + only_theirs
    p_value = stats.binomtest(only_ours, differing).pvalue if differing else 1.0
    return McNemar(only_ours, only_theirs, float(p_value))


def discrepancy(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Total variation between the posteriors of two models, f64[N], from 0 to 1.

    The images where it is largest are those to look at: at most one of the two can be right about
    them (maximum discrepancy, Wang et al. 2020, arXiv 2002.09598).

    Args:
      ours: posteriors f32[N,K] of the first model.
      theirs: of the second.
    """
    return np.concatenate(
        [
            0.5
            * np.abs(ours[rows].astype(np.float64) - theirs[rows].astype(np.float64)).sum(axis=1)
            for rows in chunks(ours)
        ]
    )
