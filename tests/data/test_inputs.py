"""Images as a user has them: every fault is one line of its own, found before it costs memory."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from didicm_jax.data import inputs
from tests.data.making import encode, small


def shown(image, **options):
    out = np.zeros((8, 8, 3), np.uint8)
    inputs.show(image, out, eval_crop=None, **options)
    return out


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_that_pillow_has_opened_is_a_fault_of_its_own(photos, kind):
    """Pillow reads no more than the header until it is asked for pixels."""
    content = encode(small(photos[0]), kind)
    image = Image.open(io.BytesIO(content[: len(content) // 2]))
    with pytest.raises(ValueError, match=r"^OSError: [^\n]*truncated[^\n]*$"):
        shown(image)


def turned(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(pixels, exif=exif)


@pytest.mark.parametrize("form", ["array", "floats", "grey", "pillow", "bytes", "path", "turned"])
def test_more_pixels_than_allowed_are_refused_in_every_form(photos, tmp_path, form):
    view = small(photos[0])  # 150x100
    (tmp_path / "a.png").write_bytes(encode(view, "PNG"))
    image = {
        "array": view,
        "floats": view / 255,
        "grey": view[..., 0],
        "pillow": Image.open(io.BytesIO(encode(view, "PNG"))),
        "bytes": encode(view),
        "path": tmp_path / "a.png",
        "turned": turned(view),
    }[form]
    message = r"150x100 pixels, more than config\.data\.max_pixels=14999 allows"
    with pytest.raises(ValueError, match=message):
        shown(image, max_pixels=14_999)
    assert shown(image, max_pixels=15_000).std() > 20


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_a_network_of_other_channels_takes_arrays_of_as_many(photos, tmp_path, channels):
    """Of two and four the last was dropped for alpha, and the rest repeated."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, channels)).astype(np.uint8)
    out = np.zeros_like(image)
    inputs.show(image, out, eval_crop=None)
    np.testing.assert_array_equal(out, image)
    (tmp_path / "a.png").write_bytes(encode(small(photos[0]), "PNG"))
    (tmp_path / "a.txt").write_text("no image")
    files = (tmp_path / "a.png", tmp_path / "a.txt", turned(small(photos[0])))
    for other in (*files, image[..., 0], image[..., :1]):
        with pytest.raises(ValueError, match=rf"an array \[H,W,{channels}\] of the channels that"):
            inputs.show(other, out, eval_crop=None)


def test_a_file_of_more_bytes_than_any_such_image_is_not_read(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8\xff")
    os.truncate(path, 1 << 40)  # Takes no place on the disk.
    with pytest.raises(ValueError, match=r"1,099,511,627,776 bytes, more than config\.data\.max_"):
        shown(path)


def test_what_has_no_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(ValueError, match="device or pipe"):
            shown(path)


@pytest.mark.parametrize(
    "image", [np.full((4, 4), "a"), np.full((4, 4), None), np.ones((4, 4), complex)]
)
def test_arrays_of_other_things_are_faults_and_no_tracebacks(image):
    with pytest.raises(ValueError, match=r"expected integers in 0\.\.255 or floats .* found"):
        shown(image)
