"""Flips and shifts against NumPy loops, the affine warp against PIL."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from didicm_jax import augment

B, H, W, C = 64, 7, 5, 3
IMAGES = np.random.RandomState(0).randint(1, 256, (B, H, W, C)).astype(np.uint8)


@pytest.fixture(scope="module")
def flip():
    return jax.jit(augment.random_flip)


@pytest.fixture(scope="module", params=[True, False], ids=["gathers", "products"])
def shift(request):
    crop = functools.partial(augment.shift_crop, gathers=request.param)
    return jax.jit(crop, static_argnums=2)


def reference_crops(image, padding):
    """Every crop of the padded image: {(top, left): crop}, by a plain loop over pixels."""
    crops = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = np.zeros_like(image)
            for y in range(image.shape[0]):
                for x in range(image.shape[1]):
                    from_y, from_x = y + top - padding, x + left - padding
                    if 0 <= from_y < image.shape[0] and 0 <= from_x < image.shape[1]:
                        crop[y, x] = image[from_y, from_x]
            crops[top, left] = crop
    return crops


def test_flip_mirrors_the_width_of_half_of_the_images(flip, keys_of):
    count = 2000
    images = np.tile(IMAGES[:1], (count, 1, 1, 1))
    result = np.asarray(flip(keys_of(0, count), images))
    mirrored = np.all(result == images[:, :, ::-1], axis=(1, 2, 3))
    same = np.all(result == images, axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    # 2,000 coins: 0.06 is more than five standard deviations.
    assert abs(mirrored.mean() - 0.5) < 0.06


def test_shift_crop_is_a_crop_of_the_padded_image_at_uniform_offsets(shift, keys_of):
    padding, count = 2, 2500
    crops = reference_crops(IMAGES[0], padding)
    images = np.tile(IMAGES[:1], (count, 1, 1, 1))
    result = np.asarray(shift(keys_of(1, count), images, padding))
    counts = dict.fromkeys(crops, 0)
    for image in result:
        matches = [offset for offset, crop in crops.items() if np.array_equal(image, crop)]
        assert len(matches) == 1  # No pixel is 0, so every offset gives another picture.
        counts[matches[0]] += 1
    # 25 offsets, 100 each on average, standard deviation 9.8.
    assert min(counts.values()) > 50
    assert max(counts.values()) < 150


def test_images_are_cropped_one_by_one(shift, keys_of):
    result = np.asarray(shift(keys_of(2, B), IMAGES, 3))
    found = [
        next((o for o, crop in reference_crops(i, 3).items() if np.array_equal(r, crop)), None)
        for i, r in zip(IMAGES, result, strict=True)
    ]
    assert None not in found
    assert len(set(found)) > 20


def test_what_is_drawn_belongs_to_the_key_of_the_example(flip, shift, keys_of):
    keys, order = keys_of(3, B), np.random.RandomState(1).permutation(B)
    for whole, shuffled in (
        (flip(keys, IMAGES), flip(keys[order], IMAGES[order])),
        (shift(keys, IMAGES, 3), shift(keys[order], IMAGES[order], 3)),
    ):
        np.testing.assert_array_equal(shuffled, np.asarray(whole)[order])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"one_axis": True},
        {"gathers": False},
        {"gathers": False, "reach": 4.0},
    ],
    ids=str,
)
def test_warp_is_pils_affine_transform(how):
    """Noise rather than a photo: neighbours differ by up to 255, so a wrong weight shows."""
    generator = np.random.RandomState(1)
    count, height, width = 24, 31, 45
    images = generator.randint(0, 256, (count, height, width, 3)).astype(np.uint8)
    matrices = np.tile(np.array([1, 0, 0, 0, 1, 0], np.float32), (count, 1))
    matrices += generator.normal(size=(count, 6)) * (0.3, 0.3, 9, 0.3, 0.3, 9)
    if how.get("one_axis"):
        matrices[::2, 3:] = 0, 1, 0
        matrices[1::2, :3] = 1, 0, 0
    matrices = matrices.astype(np.float32)
    cubic = np.arange(count) % 4 < 2
    fill = (9, 200, 77)
    run = jax.jit(functools.partial(augment.warp, fill=fill, **how))
    ours = np.asarray(run(images, matrices, cubic), np.int64)
    theirs = np.stack(
        [
            Image.fromarray(image).transform(
                (width, height),
                Image.AFFINE,
                tuple(map(float, matrix)),
                resample=Image.BICUBIC if is_cubic else Image.BILINEAR,
                fillcolor=fill,
            )
            for image, matrix, is_cubic in zip(images, matrices, cubic, strict=True)
        ]
    )
    difference = np.abs(ours - theirs)
    # Truncation of a value next to a whole number, and nothing more: no pixel lies on the edge.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    outside = (theirs == fill).all(-1).mean()
    assert 0.05 < outside < 0.9


@pytest.mark.parametrize("how", [{}, {"gathers": False}, {"gathers": False, "reach": 1.4}])
def test_warp_far_outside_is_the_fill_colour(how):
    matrices = np.array([[1, 0, 1e12, 0, 1, 0], [1, 0, 0, 0, 1, -1e30]], np.float32)
    images = np.zeros((2, 4, 4, 1), np.uint8)
    run = jax.jit(functools.partial(augment.warp, fill=(50,), **how))
    result = run(images, matrices, np.array([True, False]))
    assert np.all(np.asarray(result) == 50)


def test_no_key_is_used_twice(keys_of):
    with jax.debug_key_reuse(True):
        jax.jit(lambda k: augment.shift_crop(k, IMAGES, 1))(keys_of(7, B))


def test_what_does_not_fit_is_rejected(keys_of):
    keys = keys_of(0, B)
    with pytest.raises(ValueError, match="typed keys"):
        augment.random_flip(jax.random.key_data(keys), IMAGES)
    with pytest.raises(ValueError, match="padding"):
        augment.shift_crop(keys, IMAGES, -1)
    with pytest.raises(AssertionError):
        augment.random_flip(keys[:-1], IMAGES)
    with pytest.raises(AssertionError):
        augment.random_flip(keys, IMAGES.astype(np.float32))
    with pytest.raises(ValueError, match="a level for each"):
        augment.warp(IMAGES, np.zeros((B, 6), np.float32), np.zeros(B, bool), (1, 2))
