"""Accuracy and calibration of posteriors over classes, in NumPy.

In two parts, so that an evaluation over many hosts moves O(N) numbers and not O(N·K): `outcomes`
reduces each posterior to six numbers, `summarize` averages those.

Shapes: N examples, K classes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

from didicm_jax.errors import UserError

# Floor of the probability under the log. It protects the mean NLL from a single infinity: the Euler
# sampler clips to exactly 0, and N chains give 0 to every class that none of them ended in. The
# cost: a label with less than this probability counts 15.9 nats, however sure the model was.
NLL_FLOOR = float(np.finfo(np.float32).eps)
# How far from 1 a posterior may sum: rounding of float32 over 100,000 classes stays below it.
_SUM_TOLERANCE = 1e-3
# Bins of the calibration errors (Guo et al. 2017).
BINS = 15
# Numbers that are worked on at a time: temporaries in float64 are as many, whatever N·K is.
_CHUNK = 2**21


class Outcomes(NamedTuple):
    """What one example says about the model, for each of N."""

    correct1: np.ndarray
    """bool[N]: the label is the most probable class."""
    correct5: np.ndarray
    """bool[N]: the label is among the min(5, K) most probable classes."""
    nll: np.ndarray
    """f64[N]: -ln p(label), in nats."""
    brier: np.ndarray
    """f64[N]: Σ_k (p_k - [k = label])², from 0 to 2."""
    confidence: np.ndarray
    """f64[N]: the probability of the most probable class."""
    entropy: np.ndarray
    """f64[N]: -Σ_k p_k ln p_k, in nats, from 0 to ln K."""


def outcomes(probs: np.ndarray, labels: np.ndarray) -> Outcomes:
    """Scores each posterior against its label.

    Between classes of equal probability the one with the lower number ranks first, as `np.argmax`
    does: the scored class is the one that a prediction names, and a uniform posterior is right once
    in K over balanced classes, as chance is.

    Args:
      probs: posteriors f32[N,K], rows on the simplex. Leave padding out.
      labels: true classes i32[N], each in 0..K-1.

    Raises:
      UserError: a NaN or an infinity in `probs`.
      ValueError: other shapes, rows off the simplex (logits, say), labels outside the classes.
    """
    if probs.ndim != 2 or labels.shape != probs.shape[:1]:
        raise ValueError(
            f"expected probs [N,K] and labels [N], found {probs.shape}, {labels.shape}"
        )
    _check_values(probs, labels)
    parts = [_outcomes(probs[rows], labels[rows]) for rows in chunks(probs)]
    return Outcomes(*map(np.concatenate, zip(*parts, strict=True)))


def chunks(probs: np.ndarray) -> Iterator[slice]:
    """Neighbouring rows of [N,K], few enough that working on them costs little memory.

    At least one slice, of no rows where there are none.
    """
    rows = max(1, _CHUNK // max(1, probs.shape[1]))
    for start in range(0, max(1, len(probs)), rows):
        yield slice(start, start + rows)


def _outcomes(probs: np.ndarray, labels: np.ndarray) -> Outcomes:
    probs = np.asarray(probs, np.float64)
    num_classes = probs.shape[1]
    of_label = np.take_along_axis(probs, labels[:, None], axis=1)
    tied_before = (probs == of_label) & (np.arange(num_classes) < labels[:, None])
    rank = np.sum((probs > of_label) | tied_before, axis=1)
    of_label = of_label[:, 0]
    return Outcomes(
        correct1=rank == 0,
        correct5=rank < 5,
        nll=-np.log(np.maximum(of_label, NLL_FLOOR)),
        brier=np.sum(probs**2, axis=1) - of_label**2 + (1.0 - of_label) ** 2,
        confidence=np.max(probs, axis=1),
        entropy=entropy(probs),
    )


def entropy(probs: np.ndarray) -> np.ndarray:
    """Entropy in nats of posteriors f[..., K], as f64[...]."""
    return np.sum(special.entr(np.maximum(np.asarray(probs, np.float64), 0)), axis=-1)


def summarize(results: Outcomes, *, bins: int = BINS) -> dict[str, float]:
    """Averages over the examples.

    Args:
      results: of all examples, each once.
      bins: number of bins of the calibration errors.

    Returns:
      `top1`, `top5`: accuracies as fractions in [0, 1] (with K ≤ 5, `top5` is 1 by definition).
      `nll`: mean -ln p(label) in nats, probabilities floored at `NLL_FLOOR`.
      `ece`: expected calibration error of the top-1 confidence in [0, 1] (Guo et al. 2017,
      arXiv 1706.04599, eq. 3): Σ_b n_b/N · |accuracy_b - confidence_b| over bins (lo, hi] of equal
      width.
      `ece_equal_mass`: the same over bins of equally many examples, by confidence (Nixon et al.
      2019, arXiv 1904.01685); examples of one confidence share a bin.
      `entropy`: mean entropy of the posteriors, in nats.
      `brier`: mean Σ_k (p_k - [k = label])², from 0 to 2 (Brier 1950).
      `num_examples`: N.

    Raises:
      ValueError: no examples.
    """
    total = len(results.correct1)
    if total == 0:
        raise ValueError("expected at least one example to summarize, found none")
    return {
        "top1": float(np.mean(results.correct1)),
        "top5": float(np.mean(results.correct5)),
        "nll": float(np.mean(results.nll, dtype=np.float64)),
        "ece": _calibration_error(results, _equal_width(bins)),
        "ece_equal_mass": _calibration_error(results, _equal_mass(results.confidence, bins)),
        "brier": float(np.mean(results.brier, dtype=np.float64)),
        "entropy": float(np.mean(results.entropy, dtype=np.float64)),
        "num_examples": total,
    }


class Reliability(NamedTuple):
    """What a reliability diagram shows, for each of the bins (edge_b, edge_{b+1}]."""

    edges: np.ndarray  # f64[bins + 1] of the confidence, from 0 to 1
    examples: np.ndarray  # i64[bins], how many
    accuracy: np.ndarray  # f64[bins], top-1; NaN in an empty bin
    confidence: np.ndarray  # f64[bins], mean; NaN in an empty bin


def reliability(results: Outcomes, *, bins: int = BINS) -> Reliability:
    """Accuracy against confidence in bins of equal width, the parts that `ece` sums up."""
    inner = _equal_width(bins)
    bin_of = _bin_of(results.confidence, inner)
    count = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(bin_of, results.correct1, minlength=bins) / count
        confidence = np.bincount(bin_of, results.confidence, minlength=bins) / count
    return Reliability(np.concatenate([[0.0], inner, [1.0]]), count, accuracy, confidence)


class Selective(NamedTuple):
    """Accuracy on the most confident share of the examples."""

    coverage: np.ndarray  # f64[N], 1/N to 1
    accuracy: np.ndarray  # f64[N], top-1 on that share


def selective(results: Outcomes) -> Selective:
    """Accuracy against coverage (El-Yaniv and Wiener 2010): answer only where confidence is high.

    Examples of one confidence are taken or left together in expectation: within a tie each counts
    with the mean of the tie, so the curve does not depend on the order of the data.
    """
    _, group = np.unique(-results.confidence, return_inverse=True)
    right = np.bincount(group, results.correct1) / np.bincount(group)
    expected = right[np.sort(group)]
    total = len(expected)
    kept = np.arange(1, total + 1)
    return Selective(kept / total, np.cumsum(expected) / kept)


def summarize_rows(results: Outcomes, rows: np.ndarray) -> dict[str, float]:
    """`summarize` of the examples at `rows` i64[M], without their number."""
    found = summarize(Outcomes(*(column[rows] for column in results)))
    del found["num_examples"]
    return found


def _equal_width(bins: int) -> np.ndarray:
    """The edges between `bins` bins of [0, 1]."""
    return np.linspace(0.0, 1.0, bins + 1)[1:-1]


def _equal_mass(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The edges between bins of equally many examples."""
    return np.quantile(confidence, _equal_width(bins), method="inverted_cdf")


def _bin_of(confidence: np.ndarray, inner_edges: np.ndarray) -> np.ndarray:
    # The number of edges strictly below is the bin (lo, hi]; a confidence that rounding left just
    # above 1 falls in the last.
    return np.searchsorted(inner_edges, confidence, side="left")


def _calibration_error(results: Outcomes, inner_edges: np.ndarray) -> float:
    """Σ_b |Σ_{i in b} (correct_i - confidence_i)| / N: eq. 3 with the bin sizes cancelled."""
    bin_of = _bin_of(results.confidence, inner_edges)
    gaps = np.bincount(bin_of, results.correct1.astype(np.float64) - results.confidence)
    return float(np.sum(np.abs(gaps)) / len(bin_of))


def _check_values(probs: np.ndarray, labels: np.ndarray) -> None:
    finite = np.concatenate([np.isfinite(probs[rows]).all(axis=1) for rows in chunks(probs)])
    if not np.all(finite):
        raise UserError(
            f"expected finite probabilities, found NaN or infinity in {np.sum(~finite)} of"
            f" {len(probs)} posteriors (the first at row {np.argmin(finite)}): the model has"
            " diverged; evaluate an earlier checkpoint or train with a lower learning rate"
        )
    if not len(probs):
        return
    total = np.concatenate([probs[rows].sum(axis=1, dtype=np.float64) for rows in chunks(probs)])
    if np.min(probs) < 0 or np.max(np.abs(total - 1)) > _SUM_TOLERANCE:
        raise ValueError(
            f"expected rows of probabilities ≥ 0 that sum to 1, found a smallest entry of"
            f" {np.min(probs):.3g} and sums from {np.min(total):.6g} to {np.max(total):.6g}"
        )
    if np.min(labels) < 0 or np.max(labels) >= probs.shape[1]:
        raise ValueError(
            f"expected labels in 0..{probs.shape[1] - 1}, found {np.min(labels)} to"
            f" {np.max(labels)}"
        )
