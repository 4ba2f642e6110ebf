"""Temperature scaling, on posteriors whose temperature is known."""

import numpy as np
import pytest
from scipy import special

from didicm_jax.evaluation import temperature
from didicm_jax.evaluation.metrics import NLL_FLOOR


def drawn(sharpness, n=20_000, k=4):
    """Posteriors that are `sharpness` times as sure as they should be, and labels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (n, k))
    honest = special.softmax(logits, axis=1)
    labels = (rng.random((n, 1)) > honest.cumsum(1)).sum(1)
    return special.softmax(sharpness * logits, axis=1).astype(np.float32), labels, honest


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done(sharpness):
    probs, labels, honest = drawn(sharpness)
    found = temperature.fit(probs, labels)
    assert found == pytest.approx(sharpness, rel=0.05)
    np.testing.assert_allclose(temperature.apply(probs, sharpness), honest, atol=2e-3)


def test_no_temperature_changes_nothing_and_none_the_answer():
    probs, _, _ = drawn(1.0, n=100)
    np.testing.assert_allclose(temperature.apply(probs, 1.0), probs, atol=1e-6)
    hot = temperature.apply(probs, 7.0)
    np.testing.assert_array_equal(hot.argmax(1), probs.argmax(1))
    np.testing.assert_allclose(hot.sum(1), 1)


def test_the_best_is_reported_with_what_it_brings():
    probs, labels, honest = drawn(3.0)
    found = temperature.best(probs, labels)
    assert found["temperature"] == temperature.fit(probs, labels)
    expected = -np.log(np.take_along_axis(honest, labels[:, None], 1)).mean()
    assert found["nll"] == pytest.approx(expected, abs=1e-3)
    assert found["ece"] < 0.02


@pytest.mark.parametrize("chains", [1, 2, 4, 16])
def test_histograms_of_chains_have_several_minima_and_the_least_is_found(chains):
    """A class that no chain ended at has the probability 0."""
    _, labels, honest = drawn(1.0, n=3000)
    rng = np.random.default_rng(1)
    probs = (rng.multinomial(chains, honest) / chains).astype(np.float32)

    def nll(temperature_):
        at_label = np.take_along_axis(temperature.apply(probs, temperature_), labels[:, None], 1)
        return -np.log(np.maximum(at_label, NLL_FLOOR)).mean()

    least = min(map(nll, np.geomspace(0.02, 50, 400)))
    assert nll(temperature.fit(probs, labels)) <= least + 1e-3


def test_certain_and_wrong_stays_finite():
    probs = np.asarray([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert np.isfinite(temperature.fit(probs, np.asarray([0, 1])))


@pytest.mark.parametrize(
    "probs",
    [
        np.full((6, 3), 1 / 3),  # all alike
        np.eye(3)[[0, 1, 2, 0, 1, 2]],  # right and certain
    ],
)
def test_posteriors_that_no_temperature_makes_better_need_none(probs):
    assert temperature.fit(probs.astype(np.float32), np.asarray([0, 1, 2] * 2)) == 1


@pytest.mark.parametrize("right", [600, 900])
def test_certain_posteriors_of_two_classes_are_brought_to_their_accuracy(right):
    """One chain says 0 and 1, and 0 is a float of e^-87: then the best is 87 / log(a / (1 - a))."""
    labels = np.where(np.arange(1000) < right, 0, 1)
    probs = np.tile(np.asarray([1.0, 0.0], np.float32), (1000, 1))
    share = right / 1000
    expected = -np.log(np.finfo(np.float32).tiny) / np.log(share / (1 - share))
    assert temperature.fit(probs, labels) == pytest.approx(expected, rel=2e-3)


def test_all_but_flat_posteriors_are_sharpened_as_far_as_a_setting_goes():
    probs, labels, honest = drawn(0.005, n=2000)
    found = temperature.fit(probs, labels)
    assert found == pytest.approx(0.005, rel=0.1)
    np.testing.assert_allclose(temperature.apply(probs, 0.005), honest, atol=2e-3)
