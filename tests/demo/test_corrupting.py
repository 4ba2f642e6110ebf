"""Corruptions by sliders."""

import numpy as np
import pytest

from didicm_jax.demo.corrupting import Corruption, corrupt, growing

FULL = Corruption(blur=0.2, lost=0.5, noise=0.3)


def image(channels, side=16):
    return np.random.RandomState(0).randint(0, 256, (side, side, channels)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_changes_nothing_and_the_first_of_a_row_is_the_image(channels):
    given = image(channels)
    np.testing.assert_array_equal(corrupt(given, Corruption()), given)
    row = growing(given, FULL, np.linspace(0, 1, 3))
    assert (row.shape, row.dtype) == ((3, *given.shape), np.uint8)
    np.testing.assert_array_equal(row[0], given)
    np.testing.assert_array_equal(row[-1], corrupt(given, FULL))


def test_blur_keeps_the_brightness_and_takes_the_contrast():
    given = image(1)
    found = corrupt(given, Corruption(blur=0.2))
    assert abs(found.mean() - given.mean()) < 5
    assert found.std() < 0.3 * given.std()


def test_lost_resolution_is_the_mean_of_what_falls_together():
    given = image(3)
    np.testing.assert_allclose(
        corrupt(given, Corruption(lost=0.99)),
        np.broadcast_to(given.mean(axis=(0, 1)), given.shape),
        atol=1,
    )


def test_noise_has_the_deviation_that_it_says_and_one_draw_at_every_strength():
    grey = np.full((64, 64, 1), 128, np.uint8)
    weak, strong = (corrupt(grey, Corruption(noise=each)) for each in (0.05, 0.1))
    np.testing.assert_allclose(strong.std(), 25.5, rtol=0.05)
    np.testing.assert_allclose(strong - 128.0, 2 * (weak - 128.0), atol=1.51)
