"""Corruptions against Pillow, closed forms, and themselves in another order and process."""

import contextlib
import io
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from didicm_jax import data
from didicm_jax.data import corruptions
from didicm_jax.errors import UserError


def photo(side=64, channels=3, seed=0):
    """Smooth structure with edges, far from black and white."""
    y, x = np.mgrid[:side, :side] / side
    planes = [0.5 + 0.25 * np.sin(9 * x + k) * np.cos(7 * y) for k in range(channels)]
    image = np.stack(planes, axis=-1)
    image[side // 4 : side // 2, side // 4 : side // 2] = 0.7
    return np.round(255 * image).astype(np.uint8)


def source(count=6, side=32, channels=3):
    images = np.stack([np.roll(photo(side, channels), k, axis=0) for k in range(count)])
    return data.ArraySource(images, np.arange(count))


def corrupt(image, name, severity=1, seed=0):
    return corruptions.corrupt(image, name, severity, seed=(seed,))


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
@pytest.mark.parametrize(("side", "channels"), [(8, 1), (48, 3)])
def test_every_corruption_keeps_shape_and_type_and_grows(name, side, channels):
    image = photo(side, channels)
    errors = {1: 0.0, 5: 0.0}
    for severity in errors:
        for seed in range(8 if name == "frost" else 1):  # one of six pictures of frost
            found = corrupt(image, name, severity, seed)
            assert (found.shape, found.dtype) == (image.shape, np.uint8)
            errors[severity] += np.mean((found.astype(float) - image) ** 2)
    assert errors[5] > 0
    if name != "elastic_transform":  # whose severities trade reach for smoothness
        assert errors[5] > errors[1]


def test_large_images_are_the_packages_own():
    import imagecorruptions

    image = photo(224)
    found = corrupt(image, "defocus_blur", 3)
    expected = imagecorruptions.corrupt(image, corruption_name="defocus_blur", severity=3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.08), (3, 0.18)])
def test_gaussian_noise_has_the_papers_deviation(severity, deviation):
    grey = np.full((256, 256, 3), 128, np.uint8)
    found = corrupt(grey, "gaussian_noise", severity)
    assert np.std(found / 255) == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize("side", [8, 28, 64])
def test_contrast_in_closed_form_at_any_size(side):
    image = photo(side)
    mean = image.mean(axis=(0, 1)) / 255
    expected = 255 * ((image / 255 - mean) * 0.2 + mean)
    np.testing.assert_allclose(corrupt(image, "contrast", 3), expected, atol=1.01)


def test_jpeg_and_pixelate_against_pillow():
    image = photo(64)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=15)
    with Image.open(file) as expected:
        np.testing.assert_array_equal(corrupt(image, "jpeg_compression", 3), expected)
    small = Image.fromarray(image).resize((16, 16), Image.Resampling.BOX)
    expected = small.resize((64, 64), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(corrupt(image, "pixelate", 5), expected)


def test_impulse_noise_hits_the_papers_share_of_values():
    grey = np.full((200, 200, 3), 128, np.uint8)
    found = corrupt(grey, "impulse_noise", 5)
    assert np.mean((found == 0) | (found == 255)) == pytest.approx(0.27, abs=0.01)


def test_grey_stays_grey_as_the_luminance_of_its_colour():
    image = photo(40, channels=1)
    found = corrupt(image, "fog", 2)
    color = corrupt(np.repeat(image, 3, axis=-1), "fog", 2)
    np.testing.assert_allclose(found[..., 0], color.mean(axis=-1), atol=1)


@pytest.mark.parametrize("name", ["glass_blur", "impulse_noise", "frost", "motion_blur"])
def test_what_an_example_gets_is_its_own(name):
    """Whatever the batch, the order, and the state of NumPy's generator, which is left alone."""
    given = source()
    whole = corruptions.corrupted(given, name, 3, workers=1).batch(np.arange(6))
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    part = corruptions.corrupted(given, name, 3, workers=1).batch(np.array([4, 1, 1]))
    np.testing.assert_array_equal(part["image"], whole["image"][[4, 1, 1]])
    np.testing.assert_array_equal(part["label"], [4, 1, 1])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    other = corruptions.corrupted(given, name, 3, seed=1, workers=1).batch(np.arange(6))
    assert np.any(other["image"] != whole["image"])


def test_processes_give_the_same():
    given = source(count=5)
    alone = corruptions.corrupted(given, "snow", 2, workers=1).batch(np.arange(5))
    together = corruptions.corrupted(given, "snow", 2, workers=2).batch(np.arange(5))
    np.testing.assert_array_equal(alone["image"], together["image"])


def in_a_group_of_its_own(program):
    """What a program prints, with all that it starts, and its status."""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        # The output ends when the last process that has inherited it does.
        return parent.communicate(timeout=60)[0], parent.returncode
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


PARENT = """
import os, sys
import numpy as np
from didicm_jax import data
from didicm_jax.data import corruptions
source = data.ArraySource(np.zeros((2, 32, 32, 3), np.uint8), np.arange(2))
corruptions.corrupted(source, "contrast", 1, workers=2).batch(np.arange(2))
print("made", flush=True)
os._exit(3)
"""


def test_processes_end_with_one_that_is_killed():
    """They waited for ever: each holds an end of the pipe that it reads its work from."""
    assert in_a_group_of_its_own(PARENT) == ("made\n", 3)


STOPPED = """
import os, signal
import numpy as np
from didicm_jax import data
from didicm_jax.data import corruptions
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop", flush=True))
source = data.ArraySource(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4))
found = corruptions.corrupted(source, "contrast", 1, workers=2)
found.batch(np.arange(2))
os.killpg(0, signal.SIGTERM)
print(found.batch(np.arange(2, 4))["label"].tolist())
"""


def test_a_signal_to_all_processes_of_a_training_is_the_affair_of_the_first():
    """As a scheduler sends it: a training that it stops amid an evaluation ended in a traceback."""
    assert in_a_group_of_its_own(STOPPED) == ("asked to stop\n[2, 3]\n", 0)


def test_what_is_kept_is_what_was_made(monkeypatch):
    found = corruptions.corrupted(source(), "fog", 1, workers=1, keep=True)
    first = [found.batch(np.array(rows))["image"] for rows in ([0, 1], [1, 1])]
    monkeypatch.setattr(corruptions, "_corrupt_all", None)
    for expected, rows in zip(first, ([0, 1], [1, 1]), strict=True):
        np.testing.assert_array_equal(found.batch(np.array(rows))["image"], expected)
    np.testing.assert_array_equal(first[1][0], first[0][1])


def test_all_else_is_the_sources():
    given = source()
    found = corruptions.corrupted(given, "fog", 1, workers=1)
    assert (len(found), found.replaced, found.name(3)) == (6, 0, "3")
    np.testing.assert_array_equal(found.labels, given.labels)
    assert found.broken().tolist() == []
    assert found.digest() == given.digest() != found.digest(np.arange(3))


def test_other_labels_are_those_of_the_same_corrupted_images():
    found = corruptions.corrupted(source(), "contrast", 3, seed=2, workers=1)
    relabelled = found.with_labels(np.arange(6)[::-1])
    rows = np.array([4, 1])
    batch = relabelled.batch(rows)
    np.testing.assert_array_equal(batch["image"], found.batch(rows)["image"])
    assert batch["label"].tolist() == relabelled.labels[rows].tolist() == [1, 4]
    assert found.labels.tolist() == list(range(6))


def test_mistakes_are_one_line(monkeypatch):
    for name, severity, message in (
        ("fogg", 1, "did you mean fog"),
        ("rain", 1, "choose among gaussian_noise"),
        ("fog", 0, "from 1 to 5, found 0"),
        ("fog", 6, "from 1 to 5, found 6"),
    ):
        with pytest.raises(UserError, match=message):
            corruptions.corrupted(source(), name, severity)
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[corruptions\]'"):
        corruptions.corrupted(source(), "fog", 1)
