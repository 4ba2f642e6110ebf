"""`load` for sets in memory at other resolutions."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from didicm_jax import data
from didicm_jax.errors import UserError


def write_idx(folder, side):
    for prefix, count in (("train", 6), ("t10k", 3)):
        rng = np.random.default_rng(count)
        coarse = rng.integers(0, 256, (count, 7, 7), np.uint8)
        images = np.stack([np.asarray(Image.fromarray(c).resize((side, side))) for c in coarse])
        header = struct.pack(">HBBIII", 0, 8, 3, *images.shape)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(header + images.tobytes())
        )
        labels = np.arange(count, dtype=np.uint8) % 3
        header = struct.pack(">HBBI", 0, 8, 1, count)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return str(folder)


@pytest.mark.parametrize(
    ("resolution", "reference"), [(14, Image.Resampling.BILINEAR), (7, Image.Resampling.BOX)]
)
def test_idx_images_are_resized_once_with_antialiasing(tmp_path, resolution, reference):
    folder = write_idx(tmp_path, 28)
    whole, dataset = (data.load("idx", data_dir=folder, resolution=r) for r in (None, resolution))
    assert dataset.image_shape == (resolution, resolution, 1)
    for big, small in ((whole.train, dataset.train), (whole.test, dataset.test)):
        originals = big.batch(np.arange(len(big)))["image"][..., 0]
        images = small.batch(np.arange(len(small)))["image"]
        np.testing.assert_array_equal(small.labels, big.labels)
        for original, image in zip(originals, images, strict=True):
            pillow = Image.fromarray(original).resize((resolution,) * 2, reference)
            assert np.abs(image[..., 0].astype(int) - np.asarray(pillow)).mean() < 3


def test_the_resolution_they_have_changes_nothing():
    assert data.load("digits", resolution=8).image_shape == (8, 8, 1)
    assert data.load("digits", resolution=4).image_shape == (4, 4, 1)


@pytest.mark.parametrize("resolution", [0, -3, 9])
def test_resolutions_that_digits_cannot_have_are_named(resolution):
    with pytest.raises(UserError, match=rf"config.data.resolution [^\n]*found {resolution}"):
        data.load("digits", resolution=resolution)


def test_resizing_needs_squares(tmp_path):
    folder = write_idx(tmp_path, 28)
    for prefix, count in (("train", 6), ("t10k", 3)):
        header = struct.pack(">HBBIII", 0, 8, 3, count, 6, 9)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(header + bytes(54 * count))
    with pytest.raises(UserError, match="square images, found 3 for 6x9"):
        data.load("idx", data_dir=folder, resolution=3)
