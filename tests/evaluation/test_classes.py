"""Per-class figures against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics as sklearn_metrics

from didicm_jax.evaluation import classes


def example(count=400, num_classes=6):
    random = np.random.RandomState(0)
    probs = special.softmax(2 * random.randn(count, num_classes), axis=1).astype(np.float32)
    return probs, random.randint(0, num_classes, count).astype(np.int32)


def test_per_class_against_scikit_learn():
    probs, labels = example()
    found = classes.per_class(probs, labels)
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
    found = classes.per_class(np.array([[0.6, 0.3, 0.1]], np.float32), np.array([1], np.int32))
    np.testing.assert_array_equal(found.examples, [0, 1, 0])
    np.testing.assert_array_equal(found.accuracy, [np.nan, 0, np.nan])
    np.testing.assert_array_equal(found.bias, [1, -1, 0])


def test_confusions_against_scikit_learn():
    probs, labels = example()
    found = classes.confusions(probs, labels, top=100)
    matrix = sklearn_metrics.confusion_matrix(labels, np.argmax(probs, axis=1))
    assert len(found.pairs) == 15
    for (a, b), errors, mass in zip(*found, strict=True):
        assert errors == matrix[a, b] + matrix[b, a]
        exchanged = probs[labels == a, b].sum() + probs[labels == b, a].sum()
        assert mass == pytest.approx(exchanged / np.isin(labels, [a, b]).sum(), rel=1e-5)
    assert (np.diff(found.errors) <= 0).all()
    assert found.errors.sum() == 400 - np.trace(matrix)
    np.testing.assert_array_equal(classes.confusions(probs, labels, top=3).pairs, found.pairs[:3])


def test_pairs_that_exchange_nothing_are_left_out():
    found = classes.confusions(np.eye(4, dtype=np.float32), np.arange(4), top=10)
    assert [len(column) for column in found] == [0, 0, 0]
