"""RandAugment: every operation against PIL on real photos, and what is drawn against its odds."""

import collections
import functools
import itertools
import math

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from didicm_jax import augment
from didicm_jax.augment import randaugment
from didicm_jax.augment.layers import NOTHING, Layer, Operation, draw_layers
from didicm_jax.errors import UserError

FILL = (124, 116, 104)
LEVELS = (0.0, 2.6, 7.0, 10.0)
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
SPEC = "rand-m7-mstd0.5-inc1"
COUNT = 32  # images in every call of `rand_augment`


PLACES = 160  # images in every call of `apply_layer`, so that it is compiled once for each size
both_ways = pytest.mark.parametrize("gathers", [True, False], ids=["gathers", "products"])
at_both_sizes = pytest.mark.parametrize(
    ("size", "gathers"),
    # Products are made for another machine: here the larger ones take minutes.
    [(224, True), (56, True), (56, False), pytest.param(224, False, marks=pytest.mark.slow)],
)


@functools.cache
def compiled_layer(increasing, gathers):
    return jax.jit(
        lambda images, layer: randaugment.apply_layer(
            images, layer, increasing=increasing, fill=FILL[: images.shape[-1]], gathers=gathers
        )
    )


def apply_layer(images, layer, gathers, increasing=True):
    """The function under test, with the batch filled up to `PLACES` images that are left alone."""
    count = len(images)
    rest = PLACES - count
    images = np.concatenate([images, np.zeros((rest, *images.shape[1:]), np.uint8)])
    layer = Layer(*(np.concatenate([field, np.zeros(rest, field.dtype)]) for field in layer))
    layer.operation[count:] = NOTHING
    return np.asarray(compiled_layer(increasing, gathers)(images, layer))[:count]


@pytest.fixture(scope="module", params=[True, False], ids=["gathers", "products"])
def rand_augment(request):
    """The function under test with `SPEC`, jitted, in each of its two ways."""
    return jax.jit(
        lambda keys, images: augment.rand_augment(keys, images, SPEC, FILL, gathers=request.param)
    )


@pytest.fixture(scope="module")
def draw():
    """The layers [L,B] that the keys [B] give."""
    mapped = jax.vmap(draw_layers, in_axes=(0, None), out_axes=1)
    return jax.jit(mapped, static_argnums=1)


def layer_of(cases):
    """A Layer of (operation's name, level, negate, cubic) for each image."""
    names, levels, negate, cubic = zip(*cases, strict=True)
    return Layer(
        np.array([Operation[name] for name in names], np.int32),
        np.array(levels, np.float32),
        np.array(negate),
        np.array(cubic),
    )


def matrix_of(name, level, negate, size):
    """The six numbers that timm gives to `Image.transform`, or `Image.rotate` works out."""
    amount = (-1 if negate else 1) * level / 10
    if name == "Rotate":
        angle, centre = -math.radians(30 * amount), size / 2
        cos, sin = math.cos(angle), math.sin(angle)
        return (
            *(cos, sin, centre - cos * centre - sin * centre),
            *(-sin, cos, centre + sin * centre - cos * centre),
        )
    return {
        "ShearX": (1, 0.3 * amount, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, 0.3 * amount, 1, 0),
        "TranslateXRel": (1, 0, 0.45 * amount * size, 0, 1, 0),
        "TranslateYRel": (1, 0, 0, 0, 1, 0.45 * amount * size),
    }[name]


def posterize(picture, bits):
    """Pillow 13 refuses 0 bits; before, as in timm's description of its levels, that was black."""
    if bits >= 8:
        return picture
    return ImageOps.posterize(picture, bits) if bits > 0 else picture.point(lambda _: 0)


def by_pil(image, name, level, negate, cubic, increasing=True):
    """What timm does to an image, by its documented ranges; u8[H,W,C] to the same."""
    picture = Image.fromarray(image.squeeze())
    sign = -1 if negate else 1
    factor = max(0.1, 1 + sign * level / 10 * 0.9) if increasing else level / 10 * 1.8 + 0.1
    bits = 4 - int(level / 10 * 4) if increasing else int(level / 10 * 4)
    threshold = 256 - int(level / 10 * 256) if increasing else int(level / 10 * 256)
    how = {
        "resample": Image.BICUBIC if cubic else Image.BILINEAR,
        "fillcolor": FILL if picture.mode == "RGB" else FILL[0],
    }
    if name == "Rotate":
        result = picture.rotate(sign * level / 10 * 30, **how)
    elif name in GEOMETRIC:
        matrix = matrix_of(name, level, negate, image.shape[0])
        result = picture.transform(picture.size, Image.AFFINE, matrix, **how)
    elif name == "SolarizeAdd":
        table = [min(255, i + int(level / 10 * 110)) if i < 128 else i for i in range(256)]
        result = picture.point(table * len(picture.getbands()))
    else:
        result = {
            "AutoContrast": lambda: ImageOps.autocontrast(picture),
            "Equalize": lambda: ImageOps.equalize(picture),
            "Invert": lambda: ImageOps.invert(picture),
            "Posterize": lambda: posterize(picture, bits),
            "Solarize": lambda: ImageOps.solarize(picture, threshold),
            "Color": lambda: ImageEnhance.Color(picture).enhance(factor),
            "Contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
            "Brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
            "Sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        }[name]()
    return np.asarray(result).reshape(image.shape)


def differences(photos, cases, gathers, increasing=True):
    """|ours - PIL's| as i64[case, photo, H, W, C]."""
    layer = layer_of(cases)
    images = np.tile(photos, (len(cases), 1, 1, 1))
    layer = jax.tree.map(lambda field: np.repeat(field, len(photos)), layer)
    ours = apply_layer(images, layer, gathers, increasing).astype(np.int64)
    theirs = [by_pil(photo, *case, increasing) for case in cases for photo in photos]
    return np.abs(ours - np.stack(theirs)).reshape(len(cases), *photos.shape)


@at_both_sizes
def test_photometric_operations_are_pils_to_one_level(photos, size, gathers):
    names = [name for name in Operation.__members__ if name not in GEOMETRIC]
    cases = list(itertools.product(names, LEVELS, (False, True), (False,)))
    for case, difference in zip(cases, differences(photos[size], cases, gathers), strict=True):
        assert difference.max() <= 1, case
        # One level only where PIL's floating-point arithmetic meets a whole number.
        assert (difference > 0).mean() < 0.02, case


@at_both_sizes
def test_geometric_operations_are_pils_to_interpolation_error(photos, size, gathers):
    cases = list(itertools.product(GEOMETRIC, LEVELS, (False, True), (False, True)))
    centres, rates = np.arange(size) + 0.5, []
    for case, difference in zip(cases, differences(photos[size], cases, gathers), strict=True):
        # A place that rounding moves over the edge is fill colour in one and image in the other.
        a, b, c, d, e, f = matrix_of(*case[:3], size)
        x, y = centres[None, :], centres[:, None]
        places = np.stack([a * x + b * y + c, d * x + e * y + f])
        at_edge = ((np.abs(places) < 1e-4) | (np.abs(places - size) < 1e-4)).any(0)
        assert at_edge.mean() < 0.01
        difference = difference[:, ~at_edge]
        # Our coordinates are in single precision: a value next to a whole number may be truncated
        # to the other side of it, and no more than that. Moves by a round fraction of a pixel meet
        # many whole numbers, others few.
        assert difference.max() <= 1, case
        assert (difference > 0).mean() < 0.05, case
        rates.append((difference > 0).mean())
    assert np.median(rates) < 0.001


@both_ways
def test_grey_images_and_the_set_that_does_not_increase(photos, gathers):
    grey = np.stack([np.asarray(Image.fromarray(p).convert("L")) for p in photos[56]])[..., None]
    cases = list(itertools.product(Operation.__members__, LEVELS, (True,), (True,)))
    found = differences(grey, cases, gathers, increasing=False)
    assert found.max() <= 1
    saturation = [k for k, case in enumerate(cases) if case[0] == "Color"]
    assert found[saturation].max() == 0


@both_ways
def test_operations_differ_from_each_other_and_from_nothing(photos, gathers):
    """Else the comparisons above could hold for an identity."""
    cases = [(name, 7.0, False, False) for name in Operation.__members__]
    photo = photos[56][:1]
    images = np.tile(photo, (len(cases), 1, 1, 1))
    results = [photo[0], *apply_layer(images, layer_of(cases), gathers)]
    for a, b in itertools.combinations(results, 2):
        assert np.abs(a.astype(int) - b).mean() > 0.3


@both_ways
def test_images_without_operation_are_copied(photos, gathers):
    images = np.tile(photos[56], (4, 1, 1, 1))
    layer = layer_of(
        [(name, 7.0, False, False) for name in ("Invert", "Rotate", "Color", "Solarize")] * 2
    )
    operation = np.where(np.arange(8) % 4 < 2, layer.operation, NOTHING).astype(np.int32)
    result = apply_layer(images, layer._replace(operation=operation), gathers)
    same = np.array([np.array_equal(a, b) for a, b in zip(result, images, strict=True)])
    np.testing.assert_array_equal(same, operation == NOTHING)


def test_draws_have_timms_odds(draw, keys_of):
    count = 6000
    layer = draw(keys_of(0, count), augment.parse_rand_augment("rand-m7-n3-mstd0.5-inc1-p0.4"))
    assert layer.operation.shape == (3, count)
    numbers = np.asarray(layer.operation).ravel()
    # 18,000 draws; five standard deviations: 0.018 for the share, 70 for a count of 480.
    assert abs((numbers != NOTHING).mean() - 0.4) < 0.018
    counts = collections.Counter(numbers[numbers != NOTHING].tolist())
    assert set(counts) == set(Operation)
    assert all(abs(n - 480) < 110 for n in counts.values())
    for coin in (layer.negate, layer.cubic):
        assert abs(np.mean(coin) - 0.5) < 0.02
    level = np.asarray(layer.level)
    assert abs(level.mean() - 7) < 0.02
    assert abs(level.std() - 0.5) < 0.02
    # Layers of one image, and fields of one layer, are independent: no correlation.
    used = np.asarray(layer.operation != NOTHING)
    for a, b in ((level[0], level[1]), (level[0], layer.negate[0]), (used[0], used[1])):
        assert abs(np.corrcoef(np.asarray(a, float), np.asarray(b, float))[0, 1]) < 0.065
    assert abs(np.corrcoef(np.asarray(layer.negate[0], float), layer.cubic[0])[0, 1]) < 0.065


def test_magnitudes_are_cut_or_uniform_as_asked(draw, keys_of):
    keys = keys_of(1, 2000)
    level = np.asarray(draw(keys, augment.parse_rand_augment("rand-m9-mstd2-mmax12")).level)
    assert level.max() == 12
    assert 0.05 < (level == 12).mean() < 0.08  # P(N(9, 2) > 12) = 0.067
    level = np.asarray(draw(keys, augment.parse_rand_augment("rand-m8-mstd101")).level)
    assert level.min() < 0.1
    assert 7.9 < level.max() <= 8
    assert abs(level.mean() - 4) < 0.2


@pytest.fixture(scope="module")
def batch(photos):
    """32 pieces of the photos, wider than high: u8[32,24,40,3]."""
    tops, lefts = np.random.RandomState(0).randint(0, 100, (2, COUNT))
    places = zip(tops, lefts, strict=True)
    return np.stack([photos[224][n % 2, t : t + 24, x : x + 40] for n, (t, x) in enumerate(places)])


def test_layers_are_applied_one_after_the_other(batch, rand_augment, draw, keys_of):
    keys = keys_of(2, COUNT)
    layers = jax.tree.map(np.asarray, draw(keys, augment.parse_rand_augment(SPEC)))
    result = np.asarray(rand_augment(keys, batch))
    assert result.dtype == np.uint8
    operations = layers.operation != NOTHING
    assert 20 < operations.sum() < 44
    for n in range(COUNT):
        expected = batch[n]
        for operation, level, negate, cubic in zip(*(f[:, n] for f in layers), strict=True):
            if operation == NOTHING:
                continue
            name = Operation(operation).name
            if name in GEOMETRIC and name != "Rotate":
                # `matrix_of` is written for squares.
                size = batch.shape[2] if name == "TranslateXRel" else batch.shape[1]
                matrix = matrix_of(name, level, negate, size)
                how = {"resample": Image.BICUBIC if cubic else Image.BILINEAR, "fillcolor": FILL}
                picture = Image.fromarray(expected)
                expected = np.asarray(picture.transform(picture.size, Image.AFFINE, matrix, **how))
            else:
                expected = by_pil(expected, name, level, negate, cubic)
        # One level of the first layer is more after the second has stretched the contrast.
        assert np.mean(np.abs(result[n].astype(int) - expected) > 2) < 0.02


def test_an_image_depends_on_its_key_alone(batch, rand_augment, keys_of, mesh):
    """Any order, part, device layout, and any vmap over batches gives the same pictures."""
    keys = keys_of(3, COUNT)
    whole = np.asarray(rand_augment(keys, batch))
    order = np.random.RandomState(0).permutation(COUNT)
    np.testing.assert_array_equal(rand_augment(keys[order], batch[order]), whole[order])

    def of_one_device(keys, images):
        keys, images = keys.reshape(2, -1), images.reshape(2, -1, *images.shape[1:])
        result = jax.vmap(lambda k, i: augment.rand_augment(k, i, SPEC, FILL))(keys, images)
        return result.reshape(-1, *images.shape[2:])

    spread = jax.shard_map(
        of_one_device, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data")
    )
    np.testing.assert_array_equal(jax.jit(spread)(keys, batch), whole)


def test_other_keys_give_other_pictures_without_another_compilation(batch, rand_augment, keys_of):
    results = [np.asarray(rand_augment(keys_of(seed, COUNT), batch)) for seed in (4, 5)]
    # An image is left alone twice with probability 1/16.
    assert np.mean([np.array_equal(a, b) for a, b in zip(*results, strict=True)]) < 0.3
    assert rand_augment._cache_size() == 1


def test_what_does_not_fit_is_rejected(keys_of):
    images = np.zeros((2, 8, 8, 2), np.uint8)
    with pytest.raises(UserError, match="1 or 3"):
        augment.rand_augment(keys_of(0, 2), images, SPEC, (1, 1))
    with pytest.raises(ValueError, match="typed keys"):
        augment.rand_augment(jax.random.key_data(keys_of(0, 2)), images, SPEC, (1, 1))
    with pytest.raises(UserError, match="rand-m7"):
        augment.rand_augment(keys_of(0, 2), images[..., :1], "m7", (1,))
