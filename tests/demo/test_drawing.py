"""Drawings to images."""

import numpy as np

from didicm_jax.demo import drawing


def canvas():
    """A black bar of 40x10 in a corner."""
    paper = np.full((100, 100, 3), 255, np.uint8)
    paper[5:45, 80:90] = 0
    return paper


def test_an_empty_canvas_is_no_image():
    assert drawing.from_canvas(np.full((10, 10, 3), 255, np.uint8), as_digit=True) is None


def test_a_digit_is_white_on_black_in_the_middle_and_large():
    found = drawing.from_canvas(canvas(), as_digit=True)
    assert found.shape == (48, 48, 3)
    expected = np.zeros_like(found)
    expected[4:44, 19:29] = 255
    np.testing.assert_array_equal(found, expected)


def test_a_photo_is_the_canvas():
    np.testing.assert_array_equal(drawing.from_canvas(canvas(), as_digit=False), canvas())


def test_small_images_are_enlarged_pixel_by_pixel():
    given = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    found = drawing.enlarged(given, least=10)
    assert found.shape == (12, 16, 3)
    np.testing.assert_array_equal(found[::4, ::4], np.broadcast_to(given, (3, 4, 3)))
    assert drawing.enlarged(np.zeros((200, 300, 3), np.uint8)).shape == (200, 300, 3)
