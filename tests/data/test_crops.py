"""Random resized crops as timm draws them, and the centre crop of evaluation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didicm_jax.data.crops import NUM_UNIFORMS, center_box, random_box

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
sides = st.integers(1, 3000)


@settings(max_examples=300, deadline=None)
@given(sides, sides, st.integers(0, 2**32))
def test_the_box_lies_within_the_image(width, height, seed):
    numbers = np.random.default_rng(seed).random(NUM_UNIFORMS).tolist()
    box = random_box(width, height, numbers, scale=SCALE, ratio=RATIO)
    assert 0 <= box.left <= box.left + box.width <= width
    assert 0 <= box.top <= box.top + box.height <= height
    assert box.width > 0
    assert box.height > 0


def test_area_aspect_and_place_have_their_distributions():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [
            random_box(1000, 1000, rng.random(NUM_UNIFORMS).tolist(), scale=(0.1, 0.4), ratio=RATIO)
            for _ in range(4000)
        ]
    )
    left, top, width, height = boxes.T
    # All fit at the first try, so these are the distributions asked for.
    area, aspect = width * height / 1e6, np.log(width / height)
    for values, low, high in ((area, 0.1, 0.4), (aspect, math.log(0.75), math.log(4 / 3))):
        scaled = (values - low) / (high - low)
        assert scaled.min() > -0.01
        assert scaled.max() < 1.01
        np.testing.assert_allclose(np.quantile(scaled, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    for place, room in ((left, 1000 - width), (top, 1000 - height)):
        np.testing.assert_allclose(np.mean(place / room), 0.5, atol=0.02)
        assert np.any(place == room)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # No crop of an area of 0.9 and a moderate aspect fits: the largest moderate centre does.
        ((900, 30), (430, 0, 40, 30)),
        ((30, 900), (0, 430, 30, 40)),
    ],
)
def test_where_no_try_fits_it_is_the_centre(size, expected):
    numbers = [0.9] * NUM_UNIFORMS
    assert random_box(*size, numbers, scale=(0.9, 1.0), ratio=RATIO) == expected


def test_scale_and_ratio_of_one_show_the_whole_square():
    assert random_box(32, 32, [0.3] * NUM_UNIFORMS, scale=(1, 1), ratio=(1, 1)) == (0, 0, 32, 32)


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [
        ((500, 400), 0.875, (75, 25, 350, 350)),
        ((400, 500), 0.875, (25, 75, 350, 350)),
        ((32, 32), 1.0, (0, 0, 32, 32)),
        ((1, 9), 0.875, (0, 4, 1, 1)),
    ],
)
def test_evaluation_shows_the_centre(size, crop, expected):
    assert center_box(*size, resolution=224, crop=crop) == expected
