"""Decoding and resizing against Pillow, with every decoder that this machine has."""

import io
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from didicm_jax import config as configuration
from didicm_jax.data import decode
from didicm_jax.data.crops import Box
from didicm_jax.data.decode import BrokenImage, decode_crop, resize
from didicm_jax.data.options import MAX_PIXELS, PhotoOptions
from tests.data.making import encode, odd_images, small

BOXES = [Box(0, 0, 640, 427), Box(13, 7, 301, 290), Box(339, 200, 301, 227), Box(100, 50, 60, 70)]


def whole(width, height):
    return Box(0, 0, width, height)


def pillow_crop(data, box, resolution):
    with Image.open(io.BytesIO(data)) as image:
        crop = image.convert("RGB").crop(
            (box.left, box.top, box.left + box.width, box.top + box.height)
        )
        return np.asarray(crop.resize((resolution, resolution), Image.Resampling.BILINEAR))


def ours(data, choose_box, resolution):
    batch = np.full((3, resolution, resolution, 3), 77, np.uint8)
    decode_crop(data, choose_box, batch[1])
    assert np.all(batch[[0, 2]] == 77)  # Nothing but its row is written.
    return batch[1]


def difference(one, other):
    return np.abs(one.astype(int) - other).mean()


@pytest.fixture(params=[*decode.JPEG_DECODERS, "pillow"])
def decoder(request, monkeypatch):
    chosen = {k: v for k, v in decode.JPEG_DECODERS.items() if k == request.param}
    monkeypatch.setattr(decode, "JPEG_DECODERS", chosen)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("resolution", [224, 112, 56, 16])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_crop_is_what_pillow_gives_for_it(photos, box, resolution, subsampling):
    data = encode(photos[1], subsampling=subsampling)
    crop = ours(data, lambda width, height: box, resolution)
    # Levels out of 255. The photo itself varies by 60; a shift by one output pixel costs 8 to 12.
    assert difference(crop, pillow_crop(data, box, resolution)) < 5.5


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("options", [{"progressive": True}, {"mode": "L"}, {"subsampling": 1}])
def test_other_kinds_of_jpeg(photos, options):
    data = encode(photos[1], **options)
    crop = ours(data, lambda width, height: BOXES[1], 112)
    assert difference(crop, pillow_crop(data, BOXES[1], 112)) < 5.5


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_all_decoders_show_the_same_to_the_bit(photos, data):
    """What a model sees depends neither on which library a machine has nor on earlier images."""
    subsampling = data.draw(st.integers(0, 2))
    resolution = data.draw(st.sampled_from([300, 60, 25, 8]))
    left, top = data.draw(st.integers(0, 639)), data.draw(st.integers(0, 426))
    right, bottom = data.draw(st.integers(left + 1, 640)), data.draw(st.integers(top + 1, 427))
    box = Box(left, top, right - left, bottom - top)
    file = encode(photos[data.draw(st.integers(0, 1))], subsampling=subsampling)
    crops = [f(file, lambda w, h: box, resolution) for f in decode.JPEG_DECODERS.values()]
    for crop in crops[1:]:
        np.testing.assert_array_equal(crop, crops[0])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_box_of_any_image_is_decoded_by_every_decoder(data):
    width, height = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(
        left,
        top,
        data.draw(st.integers(1, width - left)),
        data.draw(st.integers(1, height - top)),
    )
    value = data.draw(st.integers(0, 255))
    file = encode(
        np.full((height, width, 3), value, np.uint8), subsampling=data.draw(st.integers(0, 2))
    )
    pillow = partial(decode.with_pillow, max_pixels=MAX_PIXELS)
    for function in [*decode.JPEG_DECODERS.values(), pillow]:
        crop = function(file, lambda width, height: box, data.draw(st.sampled_from([1, 3, 8])))
        assert min(crop.shape) > 0
        assert np.abs(crop.astype(int) - value).max() <= 2


@pytest.mark.parametrize("box", BOXES)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_covers_the_crop(photos, box):
    data = encode(photos[0])
    for resolution in (224, 112, 56, 20):
        for function in decode.JPEG_DECODERS.values():
            height, width, _ = function(data, lambda w, h: box, resolution).shape
            shorter = min(box.width, box.height)
            if shorter >= resolution:
                assert min(width, height) >= resolution - 1  # The edges are rounded.
            if 2 * resolution <= shorter <= 8 * resolution:
                assert min(width, height) <= 2 * resolution


def test_odd_images_become_rgb(photos):
    pixels = photos[0][:100, :150]
    for name, data in odd_images(pixels).items():
        box = Box(25, 0, 100, 100)  # As large as the output: nothing is resized.
        crop = ours(data, lambda width, height, box=box: box, 100)
        # JPEGs in grey go through other decoders, which round differently.
        assert np.abs(crop.astype(int) - pillow_crop(data, box, 100)).max() <= 1, name


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    crop = ours(encode(ramp, "PNG"), whole, 64)
    np.testing.assert_array_equal(crop[..., 1], np.round(ramp / 257).astype(np.uint8))


def test_transparent_palettes_warn_nobody():
    image = Image.new("P", (8, 8), 3)
    image.putpalette([n % 256 for n in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes(range(256)))
    np.testing.assert_array_equal(ours(buffer.getvalue(), whole, 8)[0, 0], [9, 10, 11])


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("kept", [3, 100, 5000])
def test_a_truncated_photo_is_broken(photos, kept):
    with pytest.raises(BrokenImage, match=r"^[^\n]+$"):
        ours(encode(photos[0])[:kept], whole, 56)


KINDS = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("JPEG", {"mode": "CMYK"}),
    *((kind, {}) for kind in ("PNG", "TIFF", "GIF", "WEBP", "BMP")),
]


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_an_image_of_too_many_pixels_is_refused_by_its_header(photos, monkeypatch, kind, options):
    data = encode(small(photos[0]), kind, **options)  # 150x100
    out = np.empty((8, 8, 3), np.uint8)
    decode_crop(data, whole, out, max_pixels=15_000)

    def decoded(*args, **kwargs):
        raise AssertionError("its pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", decoded)
    message = r"^150x100 pixels, more than config\.data\.max_pixels=14999 allows: [^\n]+$"
    with pytest.raises(BrokenImage, match=message):
        decode_crop(data, whole, out, max_pixels=14_999)


@pytest.mark.parametrize("limit", [10_000, 1_000])  # where Pillow warns, and where it refuses
def test_the_limit_of_pillow_is_no_second_one(photos, monkeypatch, limit):
    """It is named as the setting, and gives way where the setting is raised as it advises."""
    data, out = encode(small(photos[0]), "PNG"), np.empty((8, 8, 3), np.uint8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(BrokenImage, match=r"config\.data\.max_pixels"):
        decode_crop(data, whole, out, max_pixels=limit)
    decode_crop(data, whole, out, max_pixels=15_000)


def test_the_default_limit_is_that_of_pillow_everywhere():
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS == PhotoOptions().max_pixels
    assert configuration.default().data.max_pixels == MAX_PIXELS


def test_a_run_may_raise_the_limit_when_it_is_started_again():
    assert configuration.may_change("data.max_pixels", evaluates=False)
    assert configuration.may_change("data.max_pixels", evaluates=True)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_what_is_no_image_is_broken(data):
    with pytest.raises(BrokenImage):
        ours(data, whole, 56)


def test_pixels_of_32_bits_are_broken():
    """They were read as 16 bits, and so as black."""
    ramp = np.arange(64, dtype=np.int32).reshape(8, 8)
    with pytest.raises(BrokenImage, match="32-bit pixels"):
        ours(encode(ramp, "TIFF"), whole, 8)


def test_a_portable_graymap_of_16_bits_is_read_whole():
    ramp = np.linspace(0, 65535, 64).reshape(8, 8).astype(">u2")
    found = ours(b"P5 8 8 65535\n" + ramp.tobytes(), whole, 8)
    np.testing.assert_array_equal(found[..., 0], np.round(ramp / 257))


def test_floating_point_pixels_are_broken():
    with pytest.raises(BrokenImage, match="floating-point"):
        ours(encode(np.ones((9, 9), np.float32), "TIFF"), whole, 8)


@pytest.mark.usefixtures("decoder")
def test_a_harmless_warning_is_not_broken(photos):
    data = encode(photos[0][:64, :64])
    # "extraneous bytes before marker", which some files of ImageNet have.
    crop = ours(data[:-2] + b"\x00\x00" + data[-2:], whole, 64)
    assert difference(crop, photos[0][:64, :64]) < 6


@pytest.mark.parametrize("size", [640, 500, 320, 230, 150, 101])
def test_shrinking_is_antialiased_as_pillow_does_it(photos, size):
    """And better than plain bilinear interpolation, which aliases."""
    image = photos[1][:427, :427]
    exact = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    out = np.empty((size, size, 3), np.uint8)
    resize(image, out)
    plain = Image.fromarray(image).transform(
        (size, size),
        Image.Transform.AFFINE,
        (427 / size, 0, 0, 0, 427 / size, 0),
        Image.Resampling.BILINEAR,
    )
    error = difference(out, np.asarray(exact))
    assert error < 2.5
    if size < 400:
        assert error < 0.6 * difference(np.asarray(plain), np.asarray(exact))


def test_a_finest_pattern_fades_to_grey():
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 254
    for size in (32, 16):
        out = np.empty((size, size, 1), np.uint8)
        resize(stripes, out)
        np.testing.assert_allclose(out[:, 1:-1], 127, atol=2)


@pytest.mark.parametrize("turned", [False, True])
def test_a_pattern_fades_to_grey_where_the_other_side_grows(turned):
    stripes = np.zeros((120, 8, 3), np.uint8)
    stripes[::2] = 254
    out = np.empty((12, 12, 3), np.uint8)
    resize(stripes.swapaxes(0, 1) if turned else stripes, out)
    np.testing.assert_allclose(out, 127, atol=2)


def test_the_size_it_has_is_left_alone(photos):
    out = np.empty_like(photos[0])
    resize(photos[0], out)
    np.testing.assert_array_equal(out, photos[0])
