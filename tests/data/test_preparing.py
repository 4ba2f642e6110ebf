"""What is listed, repaired and written, and that nothing half done ever looks finished."""

import ast
import io
import json
import os
import re
import tarfile
import threading
from pathlib import Path

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


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [64 << 20, -512])
def test_a_header_of_a_tar_that_claims_to_be_large_is_not_read(photos, tmp_path, kind, size):
    """What extends a header is taken into memory, whatever length it says it has."""
    folder = make_imagenet(tmp_path / "tars", photos)
    path = folder / "ILSVRC2012_img_val.tar"
    member = tarfile.TarInfo("long")
    member.type, member.size = kind, size
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, 80 << 20)
    with pytest.raises(
        UserError, match=r"whole tar in .*val\.tar, found .*a header of [-\d,]+ bytes"
    ):
        list_imagenet(folder)


@pytest.mark.parametrize("size", [-512, 1 << 60])
def test_a_file_of_a_tar_that_claims_an_impossible_size_is_named(photos, tmp_path, size):
    folder = make_imagenet(tmp_path / "tars", photos)
    path = folder / "ILSVRC2012_img_val.tar"
    member = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
    member.size = size
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(UserError, match=r"ILSVRC2012_val_00000001.JPEG ends beyond it"):
        list_imagenet(folder)


@pytest.mark.parametrize(
    "name",
    [" cat", "cat ", "\u00a0cat", "ca\nt", "ca\rt", "ca\tt", "ca\x85t", "ca\u2028t", b"ca\xe9t"],
)
def test_class_folders_that_a_line_of_text_cannot_hold_are_refused(photos, tmp_path, name):
    """The names of the classes are stored line by line, in UTF-8, and stripped when read."""
    name = os.fsdecode(name)
    folder = make_tree(tmp_path / "tree", photos)
    for split in ("train", "val"):
        (folder / split / "crane").rename(folder / split / name)
    with pytest.raises(UserError, match=r"^expected names of classes [^\n]*$") as error:
        list_folder(folder, name="birds")
    assert ascii(name) in str(error.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sea gull", "sea  gull"),
        ("sea gull", "sea\u00a0gull"),
        ("caf\u00e9", "cafe\u0301"),
        ("gull", "gu\u200bll"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_class_folders_that_look_alike_are_refused_by_name(photos, tmp_path, one, other, split):
    folder = make_tree(tmp_path / "tree", photos)
    for each in ("train", "val"):
        (folder / each / "crane").rename(folder / each / one)
    (folder / split / other).mkdir()
    with pytest.raises(UserError, match=r"^expected classes whose names look different") as error:
        list_folder(folder, name="birds")
    assert ascii(one) in str(error.value)
    assert ascii(other) in str(error.value)


def test_classes_of_other_alphabets_are_stored_as_they_are(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    for old, new in (("boat", "caf\u00e9 au lait"), ("crane", "\u9db4")):
        for split in ("train", "val"):
            (folder / split / old).rename(folder / split / new)
    prepare(list_folder(folder, name="birds"), tmp_path / "data")
    dataset = data.load("birds", data_dir=str(tmp_path / "data"), resolution=8)
    assert dataset.class_names == ("caf\u00e9 au lait", "\u9db4")


def test_file_names_that_are_no_text_are_spelt_out(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    content = encode(small(photos[0]))
    for name in (b"caf\xe9.jpg", b"two\nlines.jpg"):
        (folder / "val/boat" / os.fsdecode(name)).write_bytes(content)
    listing = list_folder(folder, name="birds")
    odd = [item for item in listing.splits["validation"] if "\\" in item.name]
    assert [item.name for item in odd] == ["boat/caf\\udce9.jpg", "boat/two\\nlines.jpg"]
    assert all(item.read() == content for item in odd)
    assert prepare(listing, tmp_path / "data").counts["validation"] == 12


def test_messages_of_the_library_do_not_speak_of_flags():
    """Whole commands that are to be typed do; they are all in one module."""
    found = {}
    for path in sorted(Path(data.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.search(r"(?<!-)--[a-z]", text):
                found.setdefault(path.name, []).append(text)
    assert set(found) == {"tfds.py"}


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


def test_another_source_or_size_is_not_taken_for_the_one_that_is_there(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    listing = list_folder(folder, name="birds")
    prepare(listing, tmp_path / "data", shorter_side=32)
    with pytest.raises(UserError, match=r"found a set from .* shorter_side=32: delete it or"):
        prepare(listing, tmp_path / "data")
    (folder / "train" / "crane" / "00.jpg").unlink()
    with pytest.raises(UserError, match="made from these 38 images"):
        prepare(list_folder(folder, name="birds"), tmp_path / "data", shorter_side=32)
    batch = data.load("birds", data_dir=str(tmp_path / "data"), resolution=16).test.batch(
        np.arange(10)
    )
    assert batch["image"].std() > 20


def as_before(data_dir):
    """The set `birds` there as it was prepared before digests were kept."""
    path = data_dir / "birds" / "1.0.0" / "metadata.json"
    made = json.loads(path.read_text())
    del made["digest"]
    path.write_text(json.dumps(made))


@pytest.mark.parametrize("before", [False, True])
def test_a_set_of_the_same_name_and_counts_and_other_classes_is_another(photos, tmp_path, before):
    folder = make_tree(tmp_path / "tree", photos)
    prepare(list_folder(folder, name="birds"), tmp_path / "data")
    if before:
        as_before(tmp_path / "data")
    for split in ("train", "val"):
        (folder / split / "crane").rename(folder / split / "whale")
    with pytest.raises(UserError, match=r"found a set of .* such as 'crane' instead of 'whale'"):
        prepare(list_folder(folder, name="birds"), tmp_path / "data")


@pytest.mark.parametrize("before", [False, True])
def test_a_set_of_the_same_counts_and_other_labels_is_another(photos, tmp_path, before):
    folder = make_tree(tmp_path / "tree", photos)
    prepare(list_folder(folder, name="birds"), tmp_path / "data")
    if before:
        as_before(tmp_path / "data")
    (folder / "train/boat/00.jpg").rename(folder / "train/crane/zz.jpg")
    with pytest.raises(UserError, match=r"found a set from files of other names, sizes or labels"):
        prepare(list_folder(folder, name="birds"), tmp_path / "data")


@pytest.mark.parametrize("change", ["name", "size"])
def test_a_set_of_the_same_classes_and_labels_and_other_files_is_another(photos, tmp_path, change):
    folder = make_tree(tmp_path / "tree", photos)
    prepare(list_folder(folder, name="birds"), tmp_path / "data")
    path = folder / "val/boat/00.jpg"
    if change == "name":
        path.rename(folder / "val/boat/000.jpg")
    else:
        path.write_bytes(encode(small(photos[0], 90, 90)))
    with pytest.raises(UserError, match=r"found a set from files of other names, sizes or labels"):
        prepare(list_folder(folder, name="birds"), tmp_path / "data")


def test_a_set_of_before_is_found_with_what_it_does_not_tell(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos, broken=True)
    prepare(list_folder(folder, name="birds"), tmp_path / "data", max_bad=1)
    assert prepare(list_folder(folder, name="birds"), tmp_path / "data").unknown == ""
    as_before(tmp_path / "data")
    again = prepare(list_folder(folder, name="birds"), tmp_path / "data")
    assert not again.is_new
    assert "names and sizes of the files" in again.unknown
    dataset = data.load("birds", data_dir=str(tmp_path / "data"), resolution=8)
    assert (len(dataset.train), len(dataset.train.digest())) == (28, 64)


def test_what_is_prepared_is_found_where_nothing_can_be_written(photos, tmp_path, monkeypatch):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    prepare(listing, tmp_path / "data")

    def read_only(self, mode="r", *arguments, **options):
        if not set(mode) <= set("rbt"):
            raise PermissionError(f"read-only: {self}")
        return original(self, mode, *arguments, **options)

    original = Path.open
    monkeypatch.setattr(Path, "open", read_only)
    assert not prepare(listing, tmp_path / "data").is_new


@pytest.mark.parametrize(
    "text", [b"", b"[1, 2]", b"{", b'{"listed": {}}', b"\xff\xfe", b'{"listed": "\xe9"}']
)
def test_a_folder_without_a_sound_description_is_another_set(photos, tmp_path, text):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    folder = prepare(listing, tmp_path / "data").folder
    (folder / "metadata.json").write_bytes(text)
    with pytest.raises(UserError, match=r"^expected .*1\.0\.0 to be free[^\n]*$"):
        prepare(listing, tmp_path / "data")


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
        png, jpeg, large = error.value.names
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
        check_name(name)


def test_negative_numbers_and_places_that_cannot_be_written_are_named(photos, tmp_path):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    with pytest.raises(UserError, match="0 or more, found -1, 0 and 0"):
        prepare(listing, tmp_path / "data", shorter_side=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"write to .*file/birds, found .* data_dir"):
        prepare(listing, tmp_path / "file")
