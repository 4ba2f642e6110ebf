"""Paired comparisons against enumeration and cases worked out on paper."""

import math

import numpy as np
import pytest
from scipy import special

from didicm_jax import evaluation
from didicm_jax.evaluation import comparison


def results(seed=0, count=300, sharpness=2.0):
    random = np.random.RandomState(seed)
    labels = random.randint(0, 5, count)
    logits = random.randn(count, 5) + sharpness * np.eye(5)[labels]
    return evaluation.outcomes(special.softmax(logits, axis=1), labels)


def test_differences_are_those_of_the_summaries():
    ours, theirs = results(sharpness=2.0), results(sharpness=1.0)
    found = comparison.differences(ours, theirs, resamples=300)
    a, b = evaluation.summarize(ours), evaluation.summarize(theirs)
    assert found.keys() == a.keys() - {"num_examples"}
    for name, difference in found.items():
        assert difference.value == pytest.approx(a[name] - b[name])
        assert difference.low <= difference.high
    assert found["top1"].low > 0 > found["nll"].high


def test_a_paired_interval_is_narrower_than_the_models_scatter():
    """Two models that err alike: what is hard for both cancels."""
    ours = results(count=500)
    theirs = ours._replace(nll=ours.nll + 0.01)
    found = comparison.differences(ours, theirs, resamples=200)["nll"]
    np.testing.assert_allclose(found, [-0.01, -0.01, -0.01], rtol=1e-6)
    low, high = evaluation.intervals(ours, resamples=200)["nll"]
    assert high - low > 0.05


def right(*values):
    column = np.array(values, bool)
    rest = np.zeros(len(column))
    return evaluation.Outcomes(column, column, rest, rest, rest, rest)


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(0, 0), (1, 0), (5, 1), (3, 3), (2, 9)])
def test_mcnemar_against_enumeration(only_ours, only_theirs):
    both = 4
    ours = right(*[1] * both, *[1] * only_ours, *[0] * only_theirs, 0)
    theirs = right(*[1] * both, *[0] * only_ours, *[1] * only_theirs, 0)
    found = comparison.mcnemar(ours, theirs)
    assert found[:2] == (only_ours, only_theirs)
    differing = only_ours + only_theirs
    weights = [math.comb(differing, k) / 2**differing for k in range(differing + 1)]
    # All outcomes that are no likelier than the one that was seen.
    expected = sum(w for w in weights if w <= weights[only_ours] * (1 + 1e-9))
    assert found.p_value == pytest.approx(expected)


def test_discrepancy_is_total_variation():
    ours = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]], np.float32)
    theirs = np.array([[0, 0, 1], [0.5, 0.5, 0], [0.3, 0.3, 0.4]], np.float32)
    np.testing.assert_allclose(comparison.discrepancy(ours, theirs), [1, 0, 0.1], atol=1e-7)
