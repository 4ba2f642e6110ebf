"""Whether a set that is there is the one that is asked for."""

from pathlib import Path

import numpy as np
import pytest

from didicm_jax import data
from didicm_jax.data.listing import list_folder
from didicm_jax.data.prepare import prepare
from didicm_jax.errors import UserError
from tests.data.making import encode, make_tree, small


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


def test_a_set_of_the_same_name_and_counts_and_other_classes_is_another(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    prepare(list_folder(folder, name="birds"), tmp_path / "data")
    for split in ("train", "val"):
        (folder / split / "crane").rename(folder / split / "whale")
    with pytest.raises(UserError, match=r"found a set of .* such as 'crane' instead of 'whale'"):
        prepare(list_folder(folder, name="birds"), tmp_path / "data")


def test_a_set_of_the_same_counts_and_other_labels_is_another(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    prepare(list_folder(folder, name="birds"), tmp_path / "data")
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


def test_a_set_that_lacks_images_of_too_many_pixels_is_not_that_of_a_higher_limit(photos, tmp_path):
    """Else the advice to raise the limit would be followed and change nothing."""
    make_tree(tmp_path / "tree", photos)
    limits = {"max_pixels": 14_999, "max_bad": 39}
    for split in ("train", "val"):
        for label in ("boat", "crane"):
            name = tmp_path / "tree" / split / label / "00.jpg"
            name.write_bytes(encode(small(photos[0], 40, 30)))
    listing = list_folder(tmp_path / "tree", name="birds")
    made = prepare(listing, tmp_path / "data", **limits)
    assert made.counts == {"train": 2, "validation": 2}
    assert not prepare(listing, tmp_path / "data", **limits).is_new
    with pytest.raises(UserError, match=r"found a set that lacks 35 of .* max_pixels=14999: del"):
        prepare(listing, tmp_path / "data", max_pixels=15_000)


def test_a_set_that_does_not_tell_its_files_is_not_taken_for_the_one_that_is_asked_for(
    photos, tmp_path
):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    path = prepare(listing, tmp_path / "data").folder / "metadata.json"
    path.write_text(path.read_text().replace('"digest"', '"other"'))
    with pytest.raises(UserError, match="found a set that does not tell the names and sizes"):
        prepare(listing, tmp_path / "data")


def test_a_set_that_an_earlier_version_stored_class_by_class_is_another(photos, tmp_path):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    path = prepare(listing, tmp_path / "data").folder / "metadata.json"
    path.write_text(path.read_text().replace('"order"', '"other"'))
    with pytest.raises(UserError, match="found a set that is stored class by class, so that parts"):
        prepare(listing, tmp_path / "data")


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
    "text",
    [
        *(
            b"[" * 100_000,
            b"",
            b"[1, 2]",
            b"{",
            b'{"listed": {}}',
            b"\xff\xfe",
            b'{"listed": "\xe9"}',
        ),
        b'{"listed": {"train": 29, "validation": 10}, "shorter_side": 0, "counts": 3, "broken": 0}',
    ],
)
def test_a_folder_without_a_sound_description_is_another_set(photos, tmp_path, text):
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    folder = prepare(listing, tmp_path / "data").folder
    (folder / "metadata.json").write_bytes(text)
    with pytest.raises(UserError, match=r"^expected .*1\.0\.0 to be free[^\n]*$"):
        prepare(listing, tmp_path / "data")
