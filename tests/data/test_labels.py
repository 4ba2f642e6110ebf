"""All labels of a split: from the file beside it, from the cache, from the records."""

import os
import shutil

import numpy as np
import pytest

from didicm_jax import data
from didicm_jax.data import labels as label_files
from didicm_jax.data import tfds as tfds_module
from didicm_jax.errors import UserError


def load(name, folder):
    return data.load(name, data_dir=str(folder), resolution=32)


def test_labels_are_read_once_where_no_file_holds_them(tree, tmp_path, monkeypatch):
    copied = tmp_path / "data"
    shutil.copytree(tree, copied)
    expected = load("birds", copied)
    for file in copied.glob("birds/1.0.0/*.labels.npy"):
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
    os.utime(copied / "birds" / "1.0.0" / "dataset_info.json", (10**9, 10**9))
    with pytest.raises(AssertionError, match="second time"):
        load("birds", copied)


def test_a_file_of_labels_that_promises_too_much_costs_a_pass_and_no_memory(tree, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(tree, copied)
    expected = load("birds", copied).train.labels
    for count in (29, 10**13):
        header = {"descr": "<i4", "fortran_order": False, "shape": (count,)}
        with (copied / "birds" / "1.0.0" / "birds-train.labels.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(4 * 28))  # cut off
        np.testing.assert_array_equal(load("birds", copied).train.labels, expected)


def test_records_without_a_label_are_named(tree, tmp_path, monkeypatch):
    copied = tmp_path / "data"
    shutil.copytree(tree, copied)
    for file in copied.glob("birds/1.0.0/*.labels.npy"):
        file.unlink()
    real = tfds_module._records
    for wrong in (b"\xff", b""):  # damaged, and an example of nothing

        def records(builder, split, wrong=wrong):
            parts, whole = real(builder, split)
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
    parts = data.load(
        "birds",
        data_dir=str(tree),
        resolution=32,
        train_split="train[20:]+validation[:2]",
        eval_split="train[:20]",
    )
    expected = np.r_[whole.train.labels[20:], whole.test.labels[:2]]
    np.testing.assert_array_equal(parts.train.labels, expected)
    np.testing.assert_array_equal(parts.test.labels, whole.train.labels[:20])
