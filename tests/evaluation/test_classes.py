"""Per-class figures against scikit-learn and by hand."""

import tracemalloc

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from didicm_jax.evaluation import classes, scores


def example(count=400, num_classes=6):
    random = np.random.RandomState(0)
    probs = special.softmax(2 * random.randn(count, num_classes), axis=1).astype(np.float32)
    return probs, random.randint(0, num_classes, count).astype(np.int32)


def test_per_class_against_scikit_learn():
    probs, labels = example()
    found = classes.per_class(scores.of(probs, labels), 6)
    matrix = sklearn_metrics.confusion_matrix(labels, np.argmax(probs, axis=1))
    np.testing.assert_array_equal(found.examples, matrix.sum(axis=1))
    np.testing.assert_allclose(found.accuracy, np.diag(matrix) / matrix.sum(axis=1))
    np.testing.assert_allclose(found.bias, (matrix.sum(axis=0) - matrix.sum(axis=1)) / 400)
    assert found.bias.sum() == pytest.approx(0)
    for k in range(6):
        own = probs[labels == k]
        assert found.confidence[k] == pytest.approx(own.max(axis=1).mean())
        assert found.mass[k] == pytest.approx(own[:, k].mean())


def test_a_class_without_examples_has_no_accuracy():
    probs, labels = np.array([[0.6, 0.3, 0.1]], np.float32), np.array([1], np.int32)
    found = classes.per_class(scores.of(probs, labels), 3)
    np.testing.assert_array_equal(found.examples, [0, 1, 0])
    np.testing.assert_array_equal(found.accuracy, [np.nan, 0, np.nan])
    np.testing.assert_array_equal(found.bias, [1, -1, 0])


def test_confusions_against_scikit_learn():
    probs, labels = example()
    results = scores.of(probs, labels)
    found = classes.confusions(results, 6, top=100)
    matrix = sklearn_metrics.confusion_matrix(labels, np.argmax(probs, axis=1))
    assert len(found.pairs) == 15
    for (a, b), errors, mass in zip(*found, strict=True):
        assert errors == matrix[a, b] + matrix[b, a]
        exchanged = probs[labels == a, b].sum() + probs[labels == b, a].sum()
        assert mass == pytest.approx(exchanged / np.isin(labels, [a, b]).sum(), rel=1e-5)
    assert (np.diff(found.errors) <= 0).all()
    assert found.errors.sum() == 400 - np.trace(matrix)
    np.testing.assert_array_equal(classes.confusions(results, 6, top=3).pairs, found.pairs[:3])


def test_pairs_that_exchange_nothing_are_left_out():
    results = scores.of(np.eye(4, dtype=np.float32), np.arange(4))
    found = classes.confusions(results, 4, top=10)
    assert [len(column) for column in found] == [0, 0, 0]


def test_pairs_without_errors_are_ordered_by_mass():
    probs = np.array([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9]], np.float32)
    found = classes.confusions(scores.of(probs, np.arange(3)), 3, top=10)
    np.testing.assert_array_equal(found.pairs, [[0, 1], [1, 2], [0, 2]])
    np.testing.assert_array_equal(found.errors, 0)
    np.testing.assert_allclose(found.mass, [0.2, 0.1, 0.05], rtol=1e-6)


def test_a_tie_of_more_classes_than_are_kept_is_a_confusion_too():
    """A uniform posterior predicts class 0, which may not be among the classes that are kept."""
    count = 2 * scores.LIKELY
    probs = np.full((1, count), 1 / count, np.float32)
    found = classes.confusions(scores.of(probs, np.array([count - 1])), count, top=1)
    np.testing.assert_array_equal(found.pairs, [[0, count - 1]])
    np.testing.assert_array_equal(found.errors, [1])


def test_confusions_of_many_classes_cost_no_table_of_all_pairs():
    """With a table of K x K numbers in float64 these are 20 GB."""
    count = 50_000
    random = np.random.default_rng(0)
    labels = random.integers(0, count, 64)
    probs = np.zeros((64, count), np.float32)
    probs[np.arange(64), labels] = 0.4
    probs[np.arange(64), (labels + 1) % count] = 0.6
    results = scores.of(probs, labels)
    tracemalloc.start()
    found = classes.confusions(results, count, top=5)
    classes.per_class(results, count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    assert (found.errors == 1).all()
    np.testing.assert_array_equal(found.pairs[:, 1] - found.pairs[:, 0], 1)
