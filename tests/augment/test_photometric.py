"""Tables, blends and colour jitter against PIL; whole operations are in `test_randaugment.py`."""

import itertools

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from didicm_jax import augment
from didicm_jax.augment import photometric, products

ENHANCE = {
    photometric.BRIGHTNESS: ImageEnhance.Brightness,
    photometric.CONTRAST: ImageEnhance.Contrast,
    photometric.SATURATION: ImageEnhance.Color,
}


@pytest.fixture(scope="module")
def jitter():
    return jax.jit(augment.color_jitter, static_argnames="strength")


@pytest.fixture(scope="module")
def draw_jitter():
    return jax.jit(jax.vmap(photometric._draw_jitter, in_axes=(0, None)), static_argnums=1)


@pytest.fixture(scope="module")
def odd_images():
    """Images at the edge of what statistics of levels stand: u8[9,16,20,3]."""
    generator = np.random.RandomState(0)
    images = generator.randint(0, 256, (9, 16, 20, 3))
    images[0] = 77  # one level
    images[1] = np.where(images[1] < 128, 3, 250)  # two
    images[2] = 100 + images[2] // 64  # four next to each other
    images[3, ..., 0] = 0  # one channel of one level
    images[4] = 255
    images[5] = np.where(images[5] < 250, 0, images[5])  # nearly all black
    images[6] = images[6] // 2  # dark
    images[7, 0, 0], images[7, 1:] = 9, 200  # nearly all of the highest level
    return images.astype(np.uint8)


def by_pil(change, images):
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def difference(ours, theirs):
    return np.abs(np.asarray(ours, np.int64) - theirs)


def test_statistics_of_odd_images_are_pils(odd_images):
    def run(images):
        counts = photometric.histogram(images)
        low, high = photometric.range_of_counts(counts)
        stretch = photometric.autocontrast(photometric.levels(), low, high)
        tables = stretch, photometric.equalize_table(counts)
        return [photometric.apply_tables(images, table) for table in tables]

    stretched, equal = jax.jit(run)(odd_images)
    assert difference(stretched, by_pil(ImageOps.autocontrast, odd_images)).max() <= 1
    np.testing.assert_array_equal(equal, by_pil(ImageOps.equalize, odd_images))


def test_both_ways_to_count_and_to_look_up_levels(odd_images):
    expected = np.stack(
        [
            [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]
            for image in odd_images
        ]
    )
    for count in (photometric.histogram, products.histogram):
        np.testing.assert_array_equal(jax.jit(count)(odd_images), expected)
    tables = np.random.RandomState(1).randint(0, 256, (len(odd_images), 3, 256)).astype(np.uint8)
    found = np.stack(
        [
            np.stack([table[c][image[..., c]] for c in range(3)], axis=-1)
            for image, table in zip(odd_images, tables, strict=True)
        ]
    )
    for look_up in (photometric.apply_tables, products.look_up):
        np.testing.assert_array_equal(jax.jit(look_up)(odd_images, tables), found)


def test_grey_and_smooth_copies_are_pils_exactly(photos, odd_images):
    for images in (photos[56], odd_images):
        grey, mean, smooth = jax.jit(
            lambda i: (photometric.grey(i), photometric.mean_grey(i), photometric.smooth(i))
        )(images)
        expected = by_pil(lambda image: image.convert("L"), images)
        np.testing.assert_array_equal(np.asarray(grey)[..., 0], expected)
        rounded = np.floor(expected.reshape(len(images), -1).mean(1) + 0.5)
        np.testing.assert_array_equal(np.asarray(mean).ravel(), rounded)
        smoothed = by_pil(lambda image: image.filter(ImageFilter.SMOOTH), images)
        np.testing.assert_array_equal(smooth, smoothed)


def test_smooth_leaves_images_without_inside_alone():
    images = np.random.RandomState(0).randint(0, 256, (1, 2, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(photometric.smooth(images), images)


def test_each_adjustment_is_pils_to_one_level(photos):
    factors = (0.0, 0.6, 1.0, 1.37, 2.5)
    cases = list(itertools.product(ENHANCE, factors, photos[224]))
    kinds, strengths, images = (np.array(values) for values in zip(*cases, strict=True))
    ours = jax.jit(photometric._adjust)(
        images, kinds.astype(np.int32), strengths.astype(np.float32)
    )
    for (kind, factor, photo), result in zip(cases, ours, strict=True):
        expected = np.asarray(ENHANCE[kind](Image.fromarray(photo)).enhance(factor))
        assert difference(result, expected).max() <= 1
        # A fused multiply-add may come out on the other side of a whole number.
        assert (difference(result, expected) > 0).mean() < 0.03


def test_jitter_is_three_adjustments_in_the_drawn_order(photos, jitter, draw_jitter, keys_of):
    count = 32
    keys, images = keys_of(0, count), np.tile(photos[56], (count // 2, 1, 1, 1))
    result = jitter(keys, images, strength=0.4)
    kinds, factors = (np.asarray(drawn) for drawn in draw_jitter(keys, 0.4))
    changes = []
    for n in range(count):
        expected = Image.fromarray(images[n])
        for kind, factor in zip(kinds[n], factors[n], strict=True):
            expected = ENHANCE[int(kind)](expected).enhance(float(factor))
        # A level that rounding moved is moved on by up to 1.4 per further change.
        assert difference(result[n], np.asarray(expected)).max() <= 2
        changes.append(difference(result[n], images[n]).mean())
    assert min(changes) > 1
    assert result.dtype == np.uint8


def test_jitter_draws_uniform_factors_and_orders(draw_jitter, keys_of):
    count = 6000
    kinds, factors = (np.asarray(drawn) for drawn in draw_jitter(keys_of(1, count), 0.4))
    orders, counts = np.unique(kinds, axis=0, return_counts=True)
    assert sorted(map(tuple, orders)) == sorted(itertools.permutations(range(3)))
    assert np.all(np.abs(counts - 1000) < 150)  # five standard deviations of 29
    assert factors.min() >= np.float32(0.6)
    assert factors.max() <= np.float32(1.4)
    quarters = np.histogram(factors, np.linspace(0.6, 1.4, 5))[0] / factors.size
    assert np.all(np.abs(quarters - 0.25) < 0.02)
    assert np.all(np.abs(np.corrcoef(factors.T) - np.eye(3)) < 0.065)
    # More than 1 does not make factors negative.
    assert np.asarray(draw_jitter(keys_of(2, count), 1.5)[1]).min() >= 0


def test_jitter_of_grey_images_changes_no_saturation(photos):
    grey = photos[56][..., :1]
    kinds = np.full(2, photometric.SATURATION, np.int32)
    same = photometric._adjust(grey, kinds, np.full(2, 1.8, np.float32))
    np.testing.assert_array_equal(same, grey)
    brighter = photometric._adjust(
        grey, kinds * 0 + photometric.BRIGHTNESS, np.full(2, 1.8, np.float32)
    )
    assert np.mean(brighter) > 1.2 * np.mean(grey)


def test_jitter_belongs_to_the_key(photos, jitter, keys_of):
    count = 32
    keys, images = keys_of(3, count), np.tile(photos[56], (count // 2, 1, 1, 1))
    order = np.random.RandomState(0).permutation(count)
    whole = np.asarray(jitter(keys, images, strength=0.4))
    np.testing.assert_array_equal(jitter(keys[order], images[order], strength=0.4), whole[order])


def test_what_does_not_fit_is_rejected(keys_of):
    with pytest.raises(ValueError, match="strength"):
        augment.color_jitter(keys_of(0, 1), np.zeros((1, 4, 4, 3), np.uint8), -0.1)
    with pytest.raises(ValueError, match="1 or 3"):
        augment.color_jitter(keys_of(0, 1), np.zeros((1, 4, 4, 4), np.uint8), 0.1)
