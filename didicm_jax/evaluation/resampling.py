"""How far metrics scatter over the choice of the examples.

Shapes: N examples, K classes, P parts of the examples.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np

from didicm_jax.evaluation.metrics import Outcomes, summarize_rows

# Of the examples, for a jackknife: few numbers to keep, and an error that is known to a seventh.
PARTS = 25
# Of the resamples, what lies below the ends of a confidence interval of 95 %. These very
# floats: then intervals are those of earlier reports, to the last bit.
_TAILS = ((1 - 0.95) / 2, (1 + 0.95) / 2)


def intervals(results: Outcomes, *, resamples: int = 1000) -> dict[str, tuple[float, float]]:
    """Bootstrap confidence intervals of what `summarize` averages.

    The calibration errors are biased upwards on every resample as on the data itself, so their
    intervals say how far the estimate scatters, not where the error of endless data lies.
    """
    return bootstrap(partial(summarize_rows, results), len(results.correct1), resamples=resamples)


def bootstrap(
    statistics: Callable[[np.ndarray], dict[str, float]], total: int, *, resamples: int
) -> dict[str, tuple[float, float]]:
    """Confidence intervals of 95 % (Efron's percentile interval).

    Args:
      statistics: of the examples at rows i64[N], each as often as it is there.
      total: N.
      resamples: how often N examples are drawn with replacement.

    Returns:
      Low and high end for each of the statistics.
    """
    random = np.random.default_rng(0)
    draws = [statistics(random.integers(total, size=total)) for _ in range(resamples)]
    ends = {name: np.quantile([draw[name] for draw in draws], _TAILS) for name in draws[0]}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def left_out(results: Outcomes, num_classes: int) -> dict[str, list[list[float]]]:
    """`summarize` without each part of the examples in turn, for `jackknife`.

    Example i is in part i mod P, so that parts are alike where the examples are sorted. Where the
    classes take turns instead (`data.stratified_order`), a part has some of the K classes alone,
    and only those whose numbers agree modulo G = gcd(P, K) have the same. They stand in one row. P
    is the first number from `PARTS` on with several in each.

    Args:
      results: of all examples, each once and in their order.
      num_classes: K.

    Returns:
      For each metric `[G, P / G]`. Two models that are compared on the same examples subtract these
      numbers first.
    """
    parts = next(n for n in count(PARTS) if math.gcd(n, num_classes) <= math.isqrt(PARTS))
    part = np.arange(len(results.correct1)) % parts
    found = [summarize_rows(results, np.flatnonzero(part != number)) for number in range(parts)]
    alike = math.gcd(parts, num_classes)
    in_rows = [found[row::alike] for row in range(alike)]
    return {name: [[each[name] for each in row] for row in in_rows] for name in found[0]}


class Variance(NamedTuple):
    """Of a statistic, as a few numbers tell it."""

    value: float
    freedom: int  # degrees of it, for Student's interval


def jackknife(left_out: np.ndarray) -> Variance:
    """How far a statistic scatters over the choice of the examples (grouped jackknife, Tukey 1958).

    Right for means. A calibration error is a sum of absolute values, which has a kink where a bin
    is calibrated: of calibrated posteriors the variance comes out up to three times too large, and
    so their intervals too wide; of others hardly.

    Args:
      left_out: the statistic without each part of the examples, f64[G, P / G], of which those in a
        row are alike: what one row differs from another by is no matter of chance.
    """
    rows, in_row = left_out.shape
    deviations = (left_out.size - 1) / left_out.size * (left_out - left_out.mean(1, keepdims=True))
    value = in_row / (in_row - 1) * np.sum(deviations**2)
    return Variance(float(value), rows * (in_row - 1))
