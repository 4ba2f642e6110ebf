"""What is listed of tars and of trees of class folders, before any image is read."""

import os
import shutil
import tarfile

import pytest

from didicm_jax import data
from didicm_jax.data.listing import list_folder, list_imagenet
from didicm_jax.data.prepare import prepare
from didicm_jax.errors import UserError
from tests.data.making import close, encode, make_imagenet, make_tar, make_tree, small


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


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_split_for_validation_has_several_names(photos, tmp_path, name):
    """`valid`, as many sets on the web have it, was passed over where there was a `test`."""
    folder = make_tree(tmp_path / "tree", photos)
    shutil.copytree(folder / "val", folder / "test")
    (folder / "val").rename(folder / name)
    counts = {split: len(items) for split, items in list_folder(folder, name="x").splits.items()}
    assert counts == {"train": 29, "validation": 10, "test": 10}


def test_two_folders_of_one_split_are_refused(photos, tmp_path):
    """The second one was passed over."""
    folder = make_tree(tmp_path / "tree", photos)
    shutil.copytree(folder / "val", folder / "validation")
    with pytest.raises(UserError, match=r"^expected one folder for .* found val and validation, "):
        list_folder(folder, name="x")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_in_no_class_folder_is_refused(photos, tmp_path, split):
    folder = make_tree(tmp_path / "tree", photos)
    (folder / split / "loose.JPG").write_bytes(encode(small(photos[0])))
    with pytest.raises(
        UserError, match=rf"images of .*{split} in folders of their classes, found 'loose.JPG' in"
    ) as e:
        list_folder(folder, name="x")
    assert "\n" not in str(e.value)


def test_a_class_without_an_image_to_train_on_is_refused(photos, tmp_path):
    """It became a class of the network, which had never seen one of it."""
    folder = make_tree(tmp_path / "tree", photos)
    (folder / "train" / "whale" / "deeper").mkdir(parents=True)
    (folder / "train" / "whale" / ".DS_Store").write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"^expected an image or more of each .*found none in 'whale'"
    ):
        list_folder(folder, name="x")
    # There may be none of it to evaluate on.
    (folder / "train" / "whale" / "deeper" / "a.jpg").write_bytes(encode(small(photos[0])))
    assert list_folder(folder, name="x").class_names == ("boat", "crane", "whale")


def test_notes_and_litter_beside_splits_and_classes_are_passed_over(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    expected = list_folder(folder, name="x")
    litter = [".DS_Store", "._a.jpg", "Thumbs.db", "desktop.ini", "README", "LICENSE", "a.txt"]
    for place in (folder, folder / "train", folder / "val"):
        for name in (*litter, "README.md", "labels.csv", "_annotations.coco.json", "data.yaml"):
            (place / name).write_bytes(b"no image")
        (place / ".cache").mkdir()
        (place / ".cache" / "a.jpg").write_bytes(b"no image")
    assert list_folder(folder, name="x") == expected


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


@pytest.mark.parametrize("cut", [0, 200])
def test_a_tar_that_is_cut_off_between_two_files_is_not_whole(photos, tmp_path, cut):
    """Python's reader takes the end of the file, and half a header, for the end of the tar."""
    folder = make_imagenet(tmp_path / "tars", photos)
    for name in ("train", "val"):
        path = folder / f"ILSVRC2012_img_{name}.tar"
        whole = path.read_bytes()
        with tarfile.open(path) as tar:
            end = tar.getmembers()[2].offset
        path.write_bytes(whole[: end + cut])
        with pytest.raises(UserError, match=rf"^expected a whole tar in .*{name}\.tar, [^\n]*$"):
            list_imagenet(folder)
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["link to nothing", "link to a folder", "pipe"])
def test_what_is_no_file_in_a_class_folder_is_not_passed_over(photos, tmp_path, kind):
    folder = make_tree(tmp_path / "tree", photos)
    odd = folder / "train" / "boat" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(tmp_path / ("nowhere" if kind == "link to nothing" else "tree"))
    with pytest.raises(UserError, match=r"^expected files and folders [^\n]*'boat/odd'[^\n]*$"):
        list_folder(folder, name="birds")
    odd.rename(odd.with_name(".odd"))
    assert len(list_folder(folder, name="birds").splits["train"]) == 29


def test_images_in_a_folder_that_may_not_be_read_are_not_passed_over(photos, tmp_path, monkeypatch):
    folder = make_tree(tmp_path / "tree", photos)
    closed = folder / "train" / "boat" / "closed"
    closed.mkdir()
    close(closed, monkeypatch)
    with pytest.raises(PermissionError, match="closed"):
        list_folder(folder, name="birds")
