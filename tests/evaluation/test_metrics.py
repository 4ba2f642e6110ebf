"""Metrics against scikit-learn, hand-written loops and cases worked out on paper."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics as sklearn_metrics

from didicm_jax import evaluation
from didicm_jax.errors import UserError


def example(seed=0, count=500, classes=12, sharpness=2.0):
    random = np.random.RandomState(seed)
    probs = special.softmax(sharpness * random.randn(count, classes), axis=1)
    return probs.astype(np.float32), random.randint(0, classes, count).astype(np.int32)


def summary(probs, labels):
    return evaluation.summarize(evaluation.outcomes(np.asarray(probs), np.asarray(labels)))


def ece_by_hand(probs, labels, bins=15):
    total = 0.0
    for b in range(bins):
        members = [i for i, p in enumerate(probs) if b / bins < max(p) <= (b + 1) / bins]
        if members:
            accuracy = np.mean([np.argmax(probs[i]) == labels[i] for i in members])
            confidence = np.mean([max(probs[i]) for i in members], dtype=np.float64)
            total += len(members) / len(probs) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("sharpness", [0.1, 2.0, 8.0])
def test_against_independent_references(sharpness):
    probs, labels = example(sharpness=sharpness)
    result = summary(probs, labels)
    wide, classes = probs.astype(np.float64), np.arange(12)
    assert result["top1"] == sklearn_metrics.accuracy_score(labels, np.argmax(probs, axis=1))
    top5 = sklearn_metrics.top_k_accuracy_score(labels, probs, k=5, labels=classes)
    assert result["top5"] == pytest.approx(top5)
    floored = np.maximum(wide[np.arange(500), labels], np.finfo(np.float32).eps)
    assert result["nll"] == pytest.approx(-np.mean(np.log(floored)))
    onehot = np.eye(12)[labels]
    assert result["brier"] == pytest.approx(np.mean(np.sum((wide - onehot) ** 2, axis=1)))
    assert result["ece"] == pytest.approx(ece_by_hand(probs, labels), abs=1e-9)
    assert result["entropy"] == pytest.approx(np.mean(stats.entropy(wide, axis=1)), rel=1e-5)
    assert result["num_examples"] == 500


def test_nll_is_scikit_learns_log_loss():
    probs, labels = example(sharpness=0.5)
    wide = probs.astype(np.float64) / probs.sum(axis=1, keepdims=True, dtype=np.float64)
    assert summary(wide, labels)["nll"] == pytest.approx(
        sklearn_metrics.log_loss(labels, wide, labels=np.arange(12))
    )


def test_by_hand():
    probs = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.6, 0.4, 0.0]])
    labels = np.array([0, 2, 2, 1])
    result = summary(probs, labels)
    assert result["top1"] == 0.5
    assert result["top5"] == 1.0
    assert result["nll"] == pytest.approx(-math.log(0.7 * 0.3 * 1.0 * 0.4) / 4)
    assert result["brier"] == pytest.approx((0.14 + 0.78 + 0.0 + 0.72) / 4)
    # Bins of 1/15: 0.7, 0.5, 1.0 and 0.6 fall in four, with gaps 0.3, 0.5, 0 and 0.6.
    assert result["ece"] == pytest.approx(1.4 / 4)


def test_ece_bins_are_open_below_and_closed_above():
    # 0.5 and 1.0 are edges of two bins that floats hold exactly; 0.75 is inside the upper one.
    probs = np.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75], [1.0, 0.0]])
    labels = np.array([0, 0, 0, 1])
    results = evaluation.outcomes(probs, labels)
    # (0, 1/2]: right with 0.5. (1/2, 1]: one of three right, confidences 0.75, 0.75, 1.
    expected = (abs(1 - 0.5) + abs(1 - 2.5)) / 4
    assert evaluation.summarize(results, bins=2)["ece"] == pytest.approx(expected)


def test_ece_of_a_confidence_that_rounding_left_above_one():
    probs = np.array([[np.float32(1.0000001), 0.0]], np.float32)
    assert probs[0, 0] > 1
    assert summary(probs, np.array([0]))["ece"] == pytest.approx(0, abs=1e-6)


def test_calibrated_predictions_have_a_small_ece_and_confident_ones_a_large_one():
    probs, _ = example(count=20_000, classes=4)
    random = np.random.RandomState(1)
    labels = (random.rand(20_000, 1) > np.cumsum(probs, axis=1)[:, :-1]).sum(axis=1)
    assert summary(probs, labels)["ece"] < 0.02
    sure = np.eye(4)[np.argmax(probs, axis=1)]
    assert summary(sure, labels)["ece"] == pytest.approx(1 - summary(probs, labels)["top1"])


def test_a_zero_for_the_label_is_floored_and_the_rest_is_not():
    probs = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    nll = evaluation.outcomes(probs, np.array([1, 0])).nll
    # -ln(2^-23) = 23 ln 2, the largest value there is.
    np.testing.assert_allclose(nll, [23 * math.log(2), 0.0])


@pytest.mark.parametrize("classes", [2, 5, 6, 10, 1000])
def test_a_uniform_posterior_scores_chance(classes):
    labels = np.arange(classes)
    result = summary(np.full((classes, classes), 1 / classes), labels)
    assert result["top1"] == pytest.approx(1 / classes)
    assert result["top5"] == pytest.approx(min(5, classes) / classes)
    assert result["nll"] == pytest.approx(math.log(classes))
    assert result["ece"] == pytest.approx(0, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=2, max_size=9).filter(any), draw=st.data())
def test_ties_go_to_the_lower_class_as_in_a_stable_sort(counts, draw):
    probs = np.array(counts) / sum(counts)
    label = draw.draw(st.integers(0, len(counts) - 1))
    results = evaluation.outcomes(probs[None], np.array([label]))
    best = np.argsort(-probs, kind="stable")
    assert results.correct1[0] == (best[0] == label)
    assert results.correct1[0] == (np.argmax(probs) == label)
    assert results.correct5[0] == (label in best[:5])


def test_outcomes_of_parts_make_up_the_whole():
    probs, labels = example()
    parts = [evaluation.outcomes(probs[i : i + 7], labels[i : i + 7]) for i in range(0, 500, 7)]
    joined = evaluation.Outcomes(*map(np.concatenate, zip(*parts, strict=True)))
    assert evaluation.summarize(joined) == summary(probs, labels)
    assert joined.correct1.dtype == joined.correct5.dtype == np.bool_
    assert joined.nll.dtype == joined.brier.dtype == np.float64


def test_sums_are_in_float64():
    """Values that went through a device as float32 are still averaged without its rounding."""
    tenth = np.full(100_001, 0.1, np.float32)
    right = np.zeros(len(tenth), bool)
    result = evaluation.summarize(evaluation.Outcomes(right, right, tenth, tenth, tenth, tenth))
    for name in ("nll", "brier", "ece"):
        # In float32 the error of these means is about 1e-9.
        assert result[name] == pytest.approx(float(np.float32(0.1)), abs=1e-12)


def test_values_that_are_no_posteriors_are_rejected():
    probs, labels = example(count=6)
    for bad in (np.nan, np.inf):
        broken = probs.copy()
        broken[3, 2] = bad
        with pytest.raises(UserError, match=r"^expected finite .* in 1 of 6 .* row 3.*diverged"):
            evaluation.outcomes(broken, labels)
    with pytest.raises(ValueError, match="sum to 1"):
        evaluation.outcomes(np.log(probs), labels)
    with pytest.raises(ValueError, match="sum to 1"):
        evaluation.outcomes(probs * 0.99, labels)
    with pytest.raises(ValueError, match=r"labels in 0\.\.11"):
        evaluation.outcomes(probs, labels + 12)
    with pytest.raises(ValueError, match=r"labels in 0\.\.11"):
        evaluation.outcomes(probs, labels - 12)
    with pytest.raises(ValueError, match=r"probs \[N,K\]"):
        evaluation.outcomes(probs[0], labels)
    with pytest.raises(ValueError, match="at least one example"):
        evaluation.summarize(evaluation.outcomes(probs[:0], labels[:0]))


def test_ece_of_equal_mass_by_hand():
    probs, labels = example(count=300)
    results = evaluation.outcomes(probs, labels)
    order = np.argsort(results.confidence)
    gaps = [
        abs(np.sum(results.correct1[part]) - np.sum(results.confidence[part]))
        for part in np.split(order, 15)  # 20 each: no two confidences are equal
    ]
    expected = sum(gaps) / 300
    assert evaluation.summarize(results)["ece_equal_mass"] == pytest.approx(expected)
    # Refining the bins can only raise it: with one bin it is the gap of the means.
    one = evaluation.summarize(results, bins=1)
    gap = abs(np.mean(results.correct1) - np.mean(results.confidence))
    assert one["ece_equal_mass"] == one["ece"] == pytest.approx(gap)


def test_equal_confidences_share_a_bin():
    probs = np.full((100, 2), 0.5)
    result = summary(probs, np.arange(100) % 2)
    assert result["ece_equal_mass"] == pytest.approx(0)


def test_reliability_makes_up_the_ece():
    probs, labels = example()
    results = evaluation.outcomes(probs, labels)
    found = evaluation.reliability(results)
    assert found.examples.sum() == 500
    full = found.examples > 0
    gap = np.abs(found.accuracy - found.confidence)[full]
    expected = evaluation.summarize(results)["ece"]
    assert np.sum(found.examples[full] * gap) / 500 == pytest.approx(expected)
    inside = (found.confidence > found.edges[:-1]) & (found.confidence <= found.edges[1:])
    assert inside[full].all()
    assert np.isnan(found.accuracy[~full]).all()


def test_selective_accuracy_by_hand():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    # By confidence: 0 right, 2 wrong, 3 right, 1 wrong.
    curve = evaluation.selective(evaluation.outcomes(probs, np.array([0, 1, 0, 0])))
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.accuracy, [1, 1 / 2, 2 / 3, 1 / 2])


def test_selective_accuracy_does_not_depend_on_the_order_of_ties():
    probs, labels = example(count=200, classes=3)
    probs = np.floor(10 * probs) + 1  # few different values
    probs /= probs.sum(axis=1, keepdims=True)
    order = np.random.RandomState(3).permutation(200)
    first, second = (
        evaluation.selective(evaluation.outcomes(probs[rows], labels[rows])).accuracy
        for rows in (np.arange(200), order)
    )
    np.testing.assert_allclose(first, second)
    assert first[-1] == pytest.approx(summary(probs, labels)["top1"])


def test_intervals_agree_with_scipys_bootstrap():
    probs, labels = example(count=400)
    results = evaluation.outcomes(probs, labels)
    found = evaluation.intervals(results, resamples=2000)
    for key, column in (("top1", results.correct1), ("nll", results.nll), ("brier", results.brier)):
        reference = stats.bootstrap(
            (column.astype(float),), np.mean, n_resamples=2000, method="percentile", rng=1
        ).confidence_interval
        spread = reference.high - reference.low
        np.testing.assert_allclose(found[key], reference, atol=0.1 * spread)
    assert found.keys() == evaluation.summarize(results).keys() - {"num_examples"}
    assert found == evaluation.intervals(results, resamples=2000)


@pytest.mark.parametrize("num_classes", [10, 100, 7])
def test_what_classes_differ_in_is_no_error_of_a_set_that_has_its_share_of_each(num_classes):
    """Whether the classes take turns, as in what is prepared, or stand in random order."""
    random = np.random.default_rng(0)
    labels = np.arange(20_000 // num_classes * num_classes, dtype=np.int32) % num_classes
    easy = labels < num_classes / 2
    right = random.random(len(labels)) < np.where(easy, 0.9, 0.3)
    probs = np.full((len(labels), num_classes), 0.1 / (num_classes - 1), np.float32)
    probs[np.arange(len(labels)), np.where(right, labels, (labels + 1) % num_classes)] = 0.9
    within = np.sqrt((0.9 * 0.1 + 0.3 * 0.7) / 2 / len(labels))
    both = np.sqrt(np.var(right) / len(labels))
    for order, exact in ((slice(None), within), (random.permutation(len(labels)), both)):
        scored = evaluation.outcomes(probs[order], labels[order])
        parts = np.array(evaluation.left_out(scored, num_classes)["top1"])
        error = evaluation.jackknife(parts)
        assert error.freedom >= 20
        assert abs(error.value**0.5 / exact - 1) < 0.4  # so few tell it to a seventh
    assert parts.shape[0] == np.gcd(parts.size, num_classes)


@pytest.mark.parametrize(("sharpness", "most"), [(1.0, 4.0), (3.0, 1.6)])
def test_the_scatter_of_a_calibration_error_is_not_told_too_small(sharpness, most):
    """As its docstring says; against sets that are drawn again and again."""
    random, told, values = np.random.default_rng(0), [], []
    for _ in range(100):
        logits = 1.5 * random.standard_normal((300, 4))
        honest = special.softmax(logits, axis=1)
        labels = (random.random((300, 1)) > honest.cumsum(1)).sum(1).clip(0, 3)
        probs = special.softmax(sharpness * logits, axis=1).astype(np.float32)
        results = evaluation.outcomes(probs, labels)
        values.append(evaluation.summarize(results)["ece"])
        told.append(evaluation.jackknife(np.array(evaluation.left_out(results, 4)["ece"])).value)
    ratio = np.mean(told) / np.var(values)
    assert (1.8 if sharpness == 1 else 0.7) < ratio < most
