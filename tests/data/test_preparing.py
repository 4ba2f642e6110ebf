"""What is listed, repaired and written, and that nothing half done ever looks finished."""

import ast
import io
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from didicm_jax import data
from didicm_jax.data import prepare as preparing
from didicm_jax.data.decode import BrokenImage
from didicm_jax.data.listing import list_folder
from didicm_jax.data.options import MAX_PIXELS
from didicm_jax.data.prepare import BrokenFiles, check, prepare
from didicm_jax.data.repair import to_stored
from didicm_jax.errors import UserError
from tests.data.making import encode, make_tree, odd_images, small


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def stored(content, *, keep_png=True, upright=True, shorter_side=0):
    return to_stored(
        content,
        keep_png=keep_png,
        upright=upright,
        shorter_side=shorter_side,
        max_pixels=MAX_PIXELS,
    )


def test_sound_files_are_stored_as_they_are(photos):
    view = small(photos[0])
    for content in (encode(view), encode(view, mode="L"), encode(view, progressive=True)):
        assert stored(content) == content
    assert stored(encode(view, "PNG")) == encode(view, "PNG")


def test_everything_else_becomes_an_rgb_jpeg(photos):
    view = small(photos[1])
    files = odd_images(view) | {
        "a.webp": encode(view, "WEBP", lossless=True),
        "a.bmp": encode(view, "BMP"),
        "a.tiff": encode(view, "TIFF"),
        "sixteen.png": encode((view[..., 0].astype(np.uint16) * 257), "PNG"),
    }
    del files["grey.JPEG"]  # Grey JPEGs are fine.
    for name, content in files.items():
        image = opened(stored(content, keep_png=False))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (150, 100)), name
        expected = view[..., :1] if name == "sixteen.png" else view
        difference = np.abs(np.asarray(image).astype(int) - expected).mean()
        assert difference < (12 if name == "palette.png" else 3), name


def test_orientation_tags_are_applied_or_left(photos):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees to see it upright.
    content = encode(small(photos[0]), exif=exif)
    turned = opened(stored(content))
    assert turned.size == (100, 150)
    assert 0x0112 not in turned.getexif()
    expected = np.rot90(small(photos[0]), -1)
    assert np.abs(np.asarray(turned).astype(int) - expected).mean() < 6
    assert stored(content, upright=False) == content


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [0, 40])
def test_a_tiff_is_turned_once(orientation, side):
    """Pillow turns it as it decodes it, and the tag that was asked for was gone by then."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :, 0], pixels[:, :30, 1] = 255, 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    # By the standard: where the first row and the first column of what is stored are seen.
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    found = opened(stored(encode(pixels, "TIFF", exif=exif), shorter_side=side))
    assert (found.format, found.size) == ("JPEG", upright.shape[1::-1])
    assert np.abs(np.asarray(found).astype(int) - upright).mean() < 6


@pytest.mark.parametrize(("side", "size"), [(64, (96, 64)), (100, None), (400, None)])
def test_shorter_side_shrinks_what_is_larger(photos, side, size):
    content = encode(small(photos[0]))
    result = stored(content, shorter_side=side)
    if size is None:
        assert result == content
    else:
        assert opened(result).size == size
        assert len(result) < len(content)


@pytest.mark.parametrize("kept", [0, 3, 200, 4000])
def test_truncated_files_are_broken_whatever_is_done_to_them(photos, kept):
    for content in (encode(small(photos[0])), encode(small(photos[0]), "PNG")):
        for options in ({}, {"shorter_side": 16}, {"keep_png": False}):
            with pytest.raises(BrokenImage, match=r"^[^\n]+$"):
                stored(content[:kept], **options)


def test_messages_of_the_library_do_not_speak_of_flags():
    """Whole commands that are to be typed do; they are all in one module."""
    found = {}
    for path in sorted(Path(data.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.search(r"(?<!-)--[a-z]", text):
                found.setdefault(path.name, []).append(text)
    assert set(found) == {"tfds.py"}


def test_imagenet_is_repaired_and_its_classes_are_spread_evenly(imagenet):
    """So that any part of a split, of any reader of tfds, has its share of every class."""
    records = tfds.builder("imagenet2012", data_dir=imagenet).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    examples = [records[n] for n in range(len(records))]
    labels = [e["label"] for e in examples]
    assert all(sorted(labels[n : n + 3]) == [0, 1, 999] for n in range(0, 24, 3))
    names = [e["file_name"] for e in examples]
    assert len(set(names)) == 24
    assert names != sorted(names)
    for example in examples:
        image = opened(example["image"])
        assert image.format == "JPEG"
        assert image.mode == ("L" if example["file_name"] == b"n01440764_2.JPEG" else "RGB")


def leftovers(data_dir):
    return [p for p in data_dir.rglob("*") if p.is_file() and p.name != ".prepare.lock"]


def test_broken_files_are_all_named_and_stored_only_if_allowed(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos, broken=True)
    (folder / "val" / "crane" / "notes.txt").write_text("no image")
    listing = list_folder(folder, name="birds")
    with pytest.raises(BrokenFiles, match=r"at most 1 broken files, found 2, .* max_bad=2$") as e:
        prepare(listing, tmp_path / "data", max_bad=1)
    assert [name.split(":")[0] for name in e.value.names] == [
        "train/boat/03.jpg",
        "validation/crane/notes.txt",
    ]
    assert not leftovers(tmp_path / "data")
    result = prepare(listing, tmp_path / "data", max_bad=2)
    assert result.is_new
    assert result.counts == {"train": 28, "validation": 10}
    assert result.broken == e.value.names
    again = prepare(listing, tmp_path / "data", max_bad=2)
    assert (again.is_new, again.counts, again.broken) == (False, result.counts, result.broken)
    assert len(data.load("birds", data_dir=str(tmp_path / "data"), resolution=8).train) == 28


def test_a_split_of_broken_files_alone_is_named(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    for path in (folder / "val").rglob("*.jpg"):
        path.write_bytes(b"cut")
    with pytest.raises(UserError, match="at least one sound image for validation"):
        prepare(list_folder(folder, name="birds"), tmp_path / "data", max_bad=100)
    assert not leftovers(tmp_path / "data")


def test_a_class_to_train_on_of_broken_files_alone_is_named(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    (folder / "train" / "ant").mkdir()
    (folder / "train" / "ant" / "0.jpg").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"sound image or more of each class .* none of 'ant': "):
        prepare(list_folder(folder, name="birds"), tmp_path / "data", max_bad=1)
    assert not leftovers(tmp_path / "data")


def test_images_of_too_many_pixels_and_bytes_count_as_broken(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG")):
        (folder / "train/boat" / name).write_bytes(encode(small(photos[0], 200, 100), kind))
    (folder / "train/boat/c.jpg").write_bytes(b"\xff\xd8\xff")
    os.truncate(folder / "train/boat/c.jpg", 1 << 40)  # Takes no place on the disk.
    for shorter_side in (0, 16):
        with pytest.raises(BrokenFiles, match="at most 0 broken files, found 3") as error:
            prepare(
                list_folder(folder, name="birds"),
                tmp_path / "data",
                shorter_side=shorter_side,
                max_pixels=15_000,
            )
        png, jpeg, large = sorted(error.value.names)
        too_large = "200x100 pixels, more than config.data.max_pixels=15000 allows"
        assert png.startswith(f"train/boat/a.png: {too_large}")
        assert jpeg.startswith(f"train/boat/b.jpg: {too_large}")
        assert large.startswith("train/boat/c.jpg: 1,099,511,627,776 bytes, more than")
    with pytest.raises(UserError, match="max_pixels to be 1 pixel or more, found 0"):
        prepare(list_folder(folder, name="birds"), tmp_path / "data", max_pixels=0)


def test_two_runs_at_once_do_not_mix(photos, tmp_path, monkeypatch):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    started, go_on = threading.Event(), threading.Event()
    original = preparing.to_stored

    def slow(*arguments, **options):
        started.set()
        go_on.wait(20)
        return original(*arguments, **options)

    monkeypatch.setattr(preparing, "to_stored", slow)
    first = threading.Thread(target=prepare, args=(listing, tmp_path / "data"))
    first.start()
    try:
        assert started.wait(20)
        with pytest.raises(UserError, match="another run that prepares it"):
            prepare(listing, tmp_path / "data")
    finally:
        go_on.set()
        first.join()
    assert not prepare(listing, tmp_path / "data").is_new


def test_many_shards_hold_the_same_in_the_same_order(tree, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "_SHARD_BYTES", 30_000)
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    prepare(listing, tmp_path / "data", workers=3)
    assert len(list((tmp_path / "data").rglob("birds-train.array_record*"))) > 3
    one, many = (
        data.load("birds", data_dir=str(folder), resolution=16)
        for folder in (tree, tmp_path / "data")
    )
    everything = np.arange(len(one.train))
    for key, value in one.train.batch(everything).items():
        np.testing.assert_array_equal(many.train.batch(everything)[key], value)


@pytest.mark.parametrize("name", ["digits", "idx", "Birds", "3birds", "my-birds", ""])
def test_names_that_sets_cannot_have(name):
    with pytest.raises(UserError, match=f"found '{name}': choose another"):
        check(name, shorter_side=0, max_bad=0, max_pixels=1, workers=0)


def test_negative_numbers_and_places_that_cannot_be_written_are_named(photos, tmp_path):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    with pytest.raises(UserError, match="0 or more, found -1, 0 and 0"):
        prepare(listing, tmp_path / "data", shorter_side=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"write to .*file/birds, found .* data_dir"):
        prepare(listing, tmp_path / "file")


def test_a_turned_photo_beyond_the_limit_of_pillow_is_turned(photos, monkeypatch):
    """Pillow refuses to open it, by a limit that is lower than the one that was asked for."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(small(photos[0]), exif=exif)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7_000)  # an error from twice as many on
    assert opened(stored(content)).size == (100, 150)


def test_a_set_is_not_called_as_what_others_load(monkeypatch):
    """It could not be read: its name would stand for the other."""
    monkeypatch.setitem(data.LOADERS, "stripes", data.LOADERS["digits"])
    with pytest.raises(UserError, match="not digits or idx or stripes, found 'stripes'"):
        check("stripes", shorter_side=0, max_bad=0, max_pixels=1, workers=0)
