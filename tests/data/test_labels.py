"""All labels of a split: from the file beside it, from the cache, from the records."""

import os
import pwd

import numpy as np
import pytest

from didicm_jax import data
from didicm_jax.data import labels as label_files
from didicm_jax.data import prepared
from didicm_jax.data import tfds as tfds_module
from didicm_jax.data.listing import list_folder
from didicm_jax.data.prepare import prepare
from didicm_jax.errors import UserError
from tests.data.making import encode
from tests.data.stored import birds, load


def test_labels_are_read_once_where_no_file_holds_them(copied, tmp_path, monkeypatch):
    expected = load("birds", copied)
    for file in birds(copied).glob("*.labels.npy"):
        file.unlink()
    first = load("birds", copied)
    cached = list((tmp_path / "cache" / "didicm_jax" / "labels").iterdir())
    assert len(cached) == 2

    def read_all(*arguments):
        raise AssertionError("read a second time")

    monkeypatch.setattr(label_files, "_read_all", read_all)
    second = load("birds", copied)
    for split in ("train", "test"):
        for dataset in (first, second):
            np.testing.assert_array_equal(
                getattr(dataset, split).labels, getattr(expected, split).labels
            )
    # Another set at the same place is another set.
    os.utime(birds(copied) / "dataset_info.json", (10**9, 10**9))
    with pytest.raises(AssertionError, match="second time"):
        load("birds", copied)


def test_a_file_of_labels_that_promises_too_much_costs_a_pass_and_no_memory(copied):
    expected = load("birds", copied).train.labels
    for count in (29, 10**13):
        header = {"descr": "<i4", "fortran_order": False, "shape": (count,)}
        with (birds(copied) / "birds-train.labels.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(4 * 28))  # cut off
        np.testing.assert_array_equal(load("birds", copied).train.labels, expected)


def test_a_damaged_header_of_a_file_of_labels_costs_a_pass(tmp_path):
    """Of some, Python's parser said so, with a traceback."""
    path, labels = tmp_path / "a.npy", np.arange(7, dtype=np.int32)
    whole = label_files.encode(labels)
    end = len(whole) - 4 * len(labels)
    for place in range(end):
        for byte in (*b"\0\n ({['\"#\\:,0~aL-", 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            found = label_files.load(path, len(labels))
            assert found is None or found.tolist() == labels.tolist(), (place, byte)
    for text in (b"{'descr': (", b"{'descr': '", b"(" * 118, b"-" * 118, b"  1\n 2\n"):
        path.write_bytes(whole[:10] + text.ljust(end - 10) + whole[end:])
        assert label_files.load(path, len(labels)) is None, text
    path.write_bytes(whole)
    assert label_files.load(path, len(labels)).tolist() == labels.tolist()


def test_a_user_without_a_name_and_a_home_goes_without_the_cache(copied, monkeypatch):
    """As in a container that runs under a number that stands for nobody, and owns the files."""

    def nobody(uid):
        raise KeyError(uid)

    expected = load("birds", copied).train.labels
    for pattern in ("*.labels.npy", "metadata.json"):
        for file in birds(copied).glob(pattern):
            file.unlink()
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    source = load("birds", copied).train
    np.testing.assert_array_equal(source.labels, expected)
    assert source.digest() == source.digest(np.arange(len(source)))


def test_records_without_a_label_are_named(copied, monkeypatch):
    for file in birds(copied).glob("*.labels.npy"):
        file.unlink()
    real = tfds_module._records
    for wrong in (b"\xff", b""):  # damaged, and an example of nothing

        def records(builder, split, key, wrong=wrong):
            parts, whole = real(builder, split, key)
            return parts, [whole[0], wrong, *(whole[n] for n in range(2, len(whole)))]

        monkeypatch.setattr(tfds_module, "_records", records)
        message = r"^expected a label in every record of birds train, found record 1 [^\n]*$"
        with pytest.raises(UserError, match=message):
            load("birds", copied)


def test_the_labels_of_a_part_are_taken_from_the_file_of_the_whole_split(tree, monkeypatch):
    """Reading them from the records would take a pass over all of ImageNet."""

    def read_all(*arguments):
        raise AssertionError("read from the records")

    monkeypatch.setattr(label_files, "_read_all", read_all)
    whole = load("birds", tree)
    parts = load("birds", tree, train_split="train[20:]+validation[:2]", eval_split="train[:20]")
    expected = np.r_[whole.train.labels[20:], whole.test.labels[:2]]
    np.testing.assert_array_equal(parts.train.labels, expected)
    np.testing.assert_array_equal(parts.test.labels, whole.train.labels[:20])


def test_parts_of_splits_that_are_stored_class_by_class_are_refused(tmp_path, monkeypatch):
    """`train[95%:]` of such a split is of one class, and `train[:95%]` lacks half of it."""
    for split, each in (("train", 20), ("test", 2)):
        for value, label in enumerate(("boat", "crane")):
            folder = tmp_path / "tree" / split / label
            folder.mkdir(parents=True)
            for n in range(each):
                pixels = np.full((8, 8, 3), 10 * n + value, np.uint8)
                (folder / f"{n}.png").write_bytes(encode(pixels, "PNG"))
    listing = list_folder(tmp_path / "tree", name="birds")
    parts = {"train_split": "train[:90%]", "eval_split": "train[90%:]"}

    def load(name):
        return data.load("birds", data_dir=str(tmp_path / name), resolution=8, **parts)

    prepare(listing, tmp_path / "spread")
    np.testing.assert_array_equal(np.bincount(load("spread").test.labels), [2, 2])

    monkeypatch.setattr(prepared, "stored_order", list)
    folder = prepare(listing, tmp_path / "sorted").folder
    with pytest.raises(
        UserError, match=r"birds train to be stored in random order, .* other: prepare"
    ):
        load("sorted")
    # Also where the labels have to be read from the records of the part alone.
    (folder / "birds-train.labels.npy").unlink()
    with pytest.raises(UserError, match="birds train to be stored in random order"):
        load("sorted")
    # Whole splits are shuffled as they are read.
    whole = data.load("birds", data_dir=str(tmp_path / "sorted"), resolution=8)
    assert (len(whole.train), len(whole.test)) == (40, 4)
