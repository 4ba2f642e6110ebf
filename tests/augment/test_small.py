"""Small-image augmentation against NumPy loops that are told what was drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import augment

B, H, W, C = 64, 7, 5, 3
IMAGES = np.random.RandomState(0).randint(1, 256, (B, H, W, C)).astype(np.uint8)


def keys_of(seed, count=B):
    return jax.random.split(jax.random.key(seed), count)


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


def test_flip_mirrors_the_width_of_half_of_the_images():
    count = 2000
    images = np.tile(IMAGES[:1], (count, 1, 1, 1))
    result = np.asarray(augment.random_flip(keys_of(0, count), images))
    mirrored = np.all(result == images[:, :, ::-1], axis=(1, 2, 3))
    same = np.all(result == images, axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    # 2,000 coins: 0.06 is more than five standard deviations.
    assert abs(mirrored.mean() - 0.5) < 0.06


def test_shift_crop_is_a_crop_of_the_padded_image_at_uniform_offsets():
    padding, count = 2, 2500
    crops = reference_crops(IMAGES[0], padding)
    images = np.tile(IMAGES[:1], (count, 1, 1, 1))
    result = np.asarray(augment.shift_crop(keys_of(1, count), images, padding))
    counts = dict.fromkeys(crops, 0)
    for image in result:
        matches = [offset for offset, crop in crops.items() if np.array_equal(image, crop)]
        assert len(matches) == 1  # No pixel is 0, so every offset gives another picture.
        counts[matches[0]] += 1
    # 25 offsets, 100 each on average, standard deviation 9.8.
    assert min(counts.values()) > 50
    assert max(counts.values()) < 150


def test_images_are_cropped_one_by_one():
    result = np.asarray(augment.shift_crop(keys_of(2), IMAGES, 3))
    found = [
        next((o for o, crop in reference_crops(i, 3).items() if np.array_equal(r, crop)), None)
        for i, r in zip(IMAGES, result, strict=True)
    ]
    assert None not in found
    assert len(set(found)) > 20


def test_what_is_drawn_belongs_to_the_key_of_the_example():
    """Any order, part or device layout of a batch gives each example the same picture."""
    keys = keys_of(3)
    whole = np.asarray(augment.small(keys, IMAGES, flip=True, shift=2))
    order = np.random.RandomState(1).permutation(B)
    shuffled = augment.small(keys[order], IMAGES[order], flip=True, shift=2)
    np.testing.assert_array_equal(shuffled, whole[order])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.P("data"))
    spread = jax.jit(lambda k, i: augment.small(k, i, flip=True, shift=2))(
        jax.device_put(keys, place), jax.device_put(IMAGES, place)
    )
    np.testing.assert_array_equal(spread, whole)


def test_small_under_jit_and_vmap():
    keys = keys_of(4)
    plain = augment.small(keys, IMAGES, flip=True, shift=1)
    jitted = jax.jit(augment.small, static_argnames=("flip", "shift"))
    np.testing.assert_array_equal(jitted(keys, IMAGES, flip=True, shift=1), plain)
    mapped = jax.vmap(lambda k, i: augment.small(k, i, flip=True, shift=1))(
        keys.reshape(4, B // 4), IMAGES.reshape(4, B // 4, H, W, C)
    )
    np.testing.assert_array_equal(np.asarray(mapped).reshape(IMAGES.shape), plain)
    assert plain.dtype == jnp.uint8


def test_small_flips_only_when_asked_and_moves_only_when_asked():
    keys = keys_of(5)
    np.testing.assert_array_equal(augment.small(keys, IMAGES, flip=False, shift=0), IMAGES)
    flipped = np.asarray(augment.small(keys, IMAGES, flip=True, shift=0))
    same = np.all(flipped == IMAGES, axis=(1, 2, 3))
    mirrored = np.all(flipped == IMAGES[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(same ^ mirrored)
    assert same.any()
    assert mirrored.any()
    moved = np.asarray(augment.small(keys, IMAGES, flip=False, shift=1))
    for image, result in zip(IMAGES, moved, strict=True):
        assert any(np.array_equal(result, c) for c in reference_crops(image, 1).values())


def test_shift_and_flip_are_drawn_independently():
    """One key for both would tie the direction of the shift to the flip."""
    count = 2000
    images = np.tile(IMAGES[:1], (count, 1, 1, 1))
    both = np.asarray(augment.small(keys_of(6, count), images, flip=True, shift=1))
    crops = reference_crops(IMAGES[0], 1)
    table = np.zeros((2, 9))
    for image in both:
        for number, crop in enumerate(crops.values()):
            table[0, number] += np.array_equal(image, crop)
            table[1, number] += np.array_equal(image, crop[:, ::-1])
    assert table.sum() == count
    # 18 cells of 111 on average, standard deviation 10.2.
    assert table.min() > 55
    assert table.max() < 170


def test_no_key_is_used_twice():
    """Some pairs of draws from one key look independent; JAX's own checker sees them all."""
    with jax.debug_key_reuse(True):
        jax.jit(lambda k: augment.small(k, IMAGES, flip=True, shift=1))(keys_of(7))


def test_normalize_is_per_channel():
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.4, 0.25)
    result = np.asarray(augment.normalize(IMAGES, mean, std))
    expected = np.empty(IMAGES.shape)
    for c in range(C):
        expected[..., c] = (IMAGES[..., c] / 255.0 - mean[c]) / std[c]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(augment.normalize(IMAGES[0], mean, std), expected[0], atol=1e-5)


def test_what_does_not_fit_is_rejected():
    keys = keys_of(0)
    with pytest.raises(ValueError, match="3 means"):
        augment.normalize(IMAGES, (0.5,), (0.5,))
    with pytest.raises(ValueError, match="positive"):
        augment.normalize(IMAGES, (0.5,) * 3, (0.5, 0.0, 0.5))
    with pytest.raises(ValueError, match="typed keys"):
        augment.random_flip(jax.random.key_data(keys), IMAGES)
    with pytest.raises(ValueError, match="padding"):
        augment.shift_crop(keys, IMAGES, -1)
    with pytest.raises(AssertionError):
        augment.random_flip(keys[:-1], IMAGES)
    with pytest.raises(AssertionError):
        augment.random_flip(keys, IMAGES.astype(np.float32))
