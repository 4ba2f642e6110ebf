"""What is listed, repaired and written, and that nothing half done ever looks finished."""

import io
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from didicm_jax import data
from didicm_jax.data import prepare as preparing
from didicm_jax.data.decode import BrokenImage
from didicm_jax.data.listing import list_folder, list_imagenet
from didicm_jax.data.prepare import BrokenFiles, check_name, prepare
from didicm_jax.data.repair import to_stored
from didicm_jax.errors import UserError
from tests.data.making import encode, make_imagenet, make_tar, make_tree, odd_images, small


def opened(content):
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def stored(content, *, keep_png=True, upright=True, shorter_side=0):
    return to_stored(content, keep_png=keep_png, upright=upright, shorter_side=shorter_side)


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


def test_a_tree_is_listed_by_sorted_class_names(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    (folder / "train" / "boat" / "deeper").mkdir()
    (folder / "train" / "boat" / "deeper" / "a.jpg").write_bytes(encode(small(photos[0])))
    listing = list_folder(folder, name="birds")
    assert listing.class_names == ("boat", "crane")
    assert {split: len(items) for split, items in listing.splits.items()} == {
        "train": 12 + 1 + 12 + 5,
        "validation": 10,
    }
    names = [item.name for item in listing.splits["train"]]
    assert "boat/deeper/a.jpg" in names
    assert names == sorted(names)
    assert listing.splits["train"][0].read() == (folder / "train/boat/00.jpg").read_bytes()


def test_trees_that_are_none_are_named(photos, tmp_path):
    with pytest.raises(UserError, match=r"train and val .* found no such folder"):
        list_folder(tmp_path / "nowhere", name="x")
    with pytest.raises(UserError, match="found nothing"):
        list_folder(tmp_path, name="x")
    folder = make_tree(tmp_path / "tree", photos)
    (folder / "val" / "whale").mkdir()
    with pytest.raises(UserError, match="found 'whale' beside them"):
        list_folder(folder, name="x")
    (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
    (tmp_path / "empty" / "test").mkdir()
    with pytest.raises(UserError, match=r"at least 2 class folders in .*train, found 1"):
        list_folder(tmp_path / "empty", name="x")
    (tmp_path / "empty" / "train" / "b").mkdir()
    with pytest.raises(UserError, match="at least one image for train"):
        list_folder(tmp_path / "empty", name="x")


def test_tars_that_are_not_imagenet_are_named(photos, tmp_path):
    with pytest.raises(UserError, match=r"found no ILSVRC2012_img_train\.tar"):
        list_imagenet(tmp_path)
    folder = make_imagenet(tmp_path / "tars", photos)
    train, validation = (folder / f"ILSVRC2012_img_{part}.tar" for part in ("train", "val"))
    whole = train.read_bytes()
    for kept in (0, 700, len(whole) // 2):
        train.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=r"^expected [^\n]*found[^\n]*$"):
            list_imagenet(folder)
    make_tar(train, {"dogs.tar": whole[:1024]})
    with pytest.raises(UserError, match=r"one tar for each class.*found 'dogs.tar'"):
        list_imagenet(folder)
    train.write_bytes(whole)
    for name in ("cat.JPEG", "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_00000001.png"):
        make_tar(validation, {name: b"x"})
        with pytest.raises(UserError, match=f"found '{name}'"):
            list_imagenet(folder)


def test_tars_within_folders_and_with_folder_entries_are_read(photos, tmp_path):
    """Copies of the tars that were packed again differ in this."""
    folder = make_imagenet(tmp_path / "tars", photos)
    listing = list_imagenet(folder)
    contents = {f"./val/{item.name}": item.read() for item in listing.splits["validation"]}
    make_tar(folder / "ILSVRC2012_img_val.tar", contents)
    again = list_imagenet(folder)
    assert [i[:2] for i in again.splits["validation"]] == [
        i[:2] for i in listing.splits["validation"]
    ]


def test_imagenet_is_repaired_and_in_the_order_of_its_classes(imagenet):
    records = tfds.builder("imagenet2012", data_dir=imagenet).as_data_source(
        "train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    examples = [records[n] for n in range(len(records))]
    assert [e["label"] for e in examples] == [0] * 8 + [1] * 8 + [999] * 8
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
    with pytest.raises(BrokenFiles, match=r"at most 1 broken files, found 2, .*--max_bad=2$") as e:
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


def test_another_source_or_size_is_not_taken_for_the_one_that_is_there(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    listing = list_folder(folder, name="birds")
    prepare(listing, tmp_path / "data", shorter_side=32)
    with pytest.raises(UserError, match=r"found a set from .* --shorter_side=32: delete it or"):
        prepare(listing, tmp_path / "data")
    (folder / "train" / "crane" / "00.jpg").unlink()
    with pytest.raises(UserError, match="made from these 38 images"):
        prepare(list_folder(folder, name="birds"), tmp_path / "data", shorter_side=32)
    batch = data.load("birds", data_dir=str(tmp_path / "data"), resolution=16).test.batch(
        np.arange(10)
    )
    assert batch["image"].std() > 20


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
        check_name(name)


def test_negative_numbers_and_places_that_cannot_be_written_are_named(photos, tmp_path):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    with pytest.raises(UserError, match="0 or more, found -1, 0 and 0"):
        prepare(listing, tmp_path / "data", shorter_side=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"write to .*file/birds, found .*--data_dir"):
        prepare(listing, tmp_path / "file")
