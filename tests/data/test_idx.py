"""IDX files, written here with struct and damaged one way at a time."""

import gzip
import hashlib
import importlib
import struct

import numpy as np
import pytest

from didicm_jax import data
from didicm_jax.errors import UserError

idx = importlib.import_module("didicm_jax.data.idx")

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"


def encode(array, code=0x08):
    header = struct.pack(">HBB", 0, code, array.ndim)
    header += b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.tobytes()


RANDOM = np.random.RandomState(0)
ARRAYS = {
    TRAIN_IMAGES: RANDOM.randint(0, 256, (30, 5, 4)).astype(np.uint8),
    TRAIN_LABELS: (np.arange(30) % 3).astype(np.uint8),
    TEST_IMAGES: RANDOM.randint(0, 256, (7, 5, 4)).astype(np.uint8),
    TEST_LABELS: (np.arange(7) % 3).astype(np.uint8),
}


@pytest.fixture
def folder(tmp_path):
    for name, array in ARRAYS.items():
        (tmp_path / name).write_bytes(encode(array))
    return tmp_path


def load_error(folder):
    with pytest.raises(UserError) as caught:
        data.load("idx", data_dir=str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("expected ")
    assert ", found " in message
    return message


def assert_holds_the_arrays(dataset):
    for source, images, labels in (
        (dataset.train, TRAIN_IMAGES, TRAIN_LABELS),
        (dataset.test, TEST_IMAGES, TEST_LABELS),
    ):
        batch = source.batch(np.arange(len(source)))
        np.testing.assert_array_equal(batch["image"], ARRAYS[images][..., None])
        np.testing.assert_array_equal(batch["label"], ARRAYS[labels])


def test_plain_files(folder):
    dataset = data.load("idx", data_dir=str(folder))
    assert_holds_the_arrays(dataset)
    assert dataset.image_shape == (5, 4, 1)
    assert dataset.class_names == ("0", "1", "2")


def test_gzip_is_told_by_content_whatever_the_name(folder):
    for name in (TRAIN_IMAGES, TEST_LABELS):
        (folder / name).write_bytes(gzip.compress(encode(ARRAYS[name])))  # Zipped, named plain.
    for name in (TRAIN_LABELS, TEST_IMAGES):
        (folder / name).rename(folder / f"{name}.gz")  # Plain, named zipped.
    assert_holds_the_arrays(data.load("idx", data_dir=str(folder)))


def test_a_gzipped_folder_with_the_usual_names(folder):
    for name, array in ARRAYS.items():
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(gzip.compress(encode(array)))
    assert_holds_the_arrays(data.load("idx", data_dir=str(folder)))


GOOD = encode(ARRAYS[TRAIN_IMAGES])
ZIPPED = gzip.compress(GOOD)
HUGE = GOOD[:4] + b"\xff\xff\xff\xfe" * 3 + bytes(600)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "only 0 bytes"),
        (b"\0\0\x08", "only 3 bytes"),
        (b"\x89PNG" + GOOD, "89 50 4e 47"),
        (b"\0\1" + GOOD[2:], "not IDX"),
        (b"\0\0\x07" + GOOD[3:], "not IDX"),
        (encode(ARRAYS[TRAIN_IMAGES].astype(">f4"), 0x0D), "f32 instead of u8"),
        (encode(ARRAYS[TRAIN_LABELS]), "labels (1 dimension)"),
        (encode(ARRAYS[TRAIN_IMAGES][..., None]), "4 dimensions"),
        (GOOD[:10], "after 10 of 16 bytes"),
        (GOOD[:-1], "599 bytes of values for a shape of (30, 5, 4) (truncated)"),
        (GOOD + b"\0", "601 bytes of values for a shape of (30, 5, 4) (followed"),
        (ZIPPED[:-20], "damaged"),
        (ZIPPED[:3], "damaged"),
        (ZIPPED[:10] + b"\xff" * 50 + ZIPPED[60:], "damaged"),
        (ZIPPED[:-8] + b"\1\2\3\4" + ZIPPED[-4:], "damaged"),
        (encode(np.zeros((30, 0, 4), np.uint8)), "(30, 0, 4)"),
        # No more is read, or unzipped, than the header promises, and one byte.
        (GOOD + bytes(10**6), "601 bytes of values for a shape of (30, 5, 4) (followed"),
        (gzip.compress(GOOD + bytes(10**7)), "601 bytes of values for a shape of (30, 5, 4) (fol"),
        # No memory is taken for what cannot be there.
        (HUGE, f"promises {0xFFFFFFFE**3:,} bytes"),
        (gzip.compress(HUGE, mtime=0), f"promises {0xFFFFFFFE**3:,} bytes"),
    ],
)
def test_a_damaged_images_file_is_named_with_its_fault(folder, content, found):
    (folder / TRAIN_IMAGES).write_bytes(content)
    message = load_error(folder)
    assert found in message
    assert str(folder / TRAIN_IMAGES) in message


def test_swapped_files_are_named(folder):
    (folder / TRAIN_LABELS).write_bytes(GOOD)
    assert "images (3 dimensions): check" in load_error(folder)


def test_counts_that_differ_are_both_named(folder):
    (folder / TEST_LABELS).write_bytes(encode(ARRAYS[TRAIN_LABELS]))
    assert "7 images in" in load_error(folder)
    assert "30 labels in" in load_error(folder)


def test_splits_of_different_sizes_are_named(folder):
    (folder / TEST_IMAGES).write_bytes(encode(np.zeros((7, 6, 4), np.uint8)))
    assert "(5, 4) and (6, 4)" in load_error(folder)


def test_a_test_label_outside_the_training_classes_is_named(folder):
    (folder / TEST_LABELS).write_bytes(encode(np.full(7, 3, np.uint8)))
    assert "test labels within the 3 classes 0..2, found labels from 3 to 3" in load_error(folder)


def test_missing_files_and_folders_are_named(folder, tmp_path):
    (folder / TEST_LABELS).unlink()
    assert f"found no {TEST_LABELS}: set config.data.data_dir" in load_error(folder)
    assert "found no such folder" in load_error(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "found none of them" in load_error(tmp_path / "empty")


def test_something_that_cannot_be_read_is_named(folder):
    with pytest.raises(UserError, match=r"^expected a readable file at .*Is a directory[^\n]*$"):
        idx.read_idx(folder, ndim=1)


def test_a_folder_of_the_name_of_a_file_is_not_taken_for_it(folder):
    """Some archives unpack each file into a folder of its own."""
    whole = (folder / TEST_LABELS).read_bytes()
    (folder / TEST_LABELS).unlink()
    (folder / TEST_LABELS).mkdir()
    (folder / TEST_LABELS / TEST_LABELS).write_bytes(whole)
    assert f"found no {TEST_LABELS}, but folders called {TEST_LABELS}: set" in load_error(folder)
    (folder / f"{TEST_LABELS}.gz").write_bytes(gzip.compress(whole))
    assert_holds_the_arrays(data.load("idx", data_dir=str(folder)))


def test_without_the_debian_package_one_line_names_it(monkeypatch, tmp_path):
    monkeypatch.setattr(idx, "FASHION_MNIST_DIR", tmp_path)
    with pytest.raises(UserError) as caught:
        data.load("idx")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("apt-get install dataset-fashion-mnist", "config.data.data_dir", *ARRAYS):
        assert part in message


def test_fashion_mnist_is_known_by_its_labels_in_any_folder(monkeypatch, folder):
    """A network of it was not evaluated on a copy that lay elsewhere, where classes had numbers."""
    labels = (np.arange(30) % 10).astype(np.uint8)
    (folder / TEST_LABELS).write_bytes(encode(np.arange(7).astype(np.uint8) + 3))
    (folder / TRAIN_LABELS).write_bytes(encode(labels))
    assert data.load("idx", data_dir=str(folder)).class_names == tuple("0123456789")
    digest = hashlib.sha256(bytes(labels.tolist())).hexdigest()
    monkeypatch.setattr(idx, "_FASHION_MNIST_LABELS", digest)
    names = data.load("idx", data_dir=str(folder)).class_names
    assert (names[0], names[9]) == ("T-shirt/top", "Ankle boot")


@pytest.mark.skipif(
    not idx.FASHION_MNIST_DIR.is_dir(), reason="needs apt-get install dataset-fashion-mnist"
)
def test_fashion_mnist_from_the_debian_package():
    dataset = data.trained_on(data.load("idx"), train_examples=1000)
    assert dataset.image_shape == (28, 28, 1)
    assert len(dataset.test) == 10_000
    # Both splits hold every class equally often (Xiao et al. 2017, section 3).
    assert np.bincount(dataset.train.labels).tolist() == [100] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    image = dataset.test.batch(np.array([0]))["image"]
    assert dataset.class_names[dataset.test.labels[0]] == "Ankle boot"
    assert image.max() > 200


def test_the_folder_may_be_written_with_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert_holds_the_arrays(data.load("idx", data_dir=f"~/{folder.name}"))
