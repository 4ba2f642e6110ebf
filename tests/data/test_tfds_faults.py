"""Sets of tensorflow-datasets that are missing, damaged or of no use here: what is told of them."""

import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from didicm_jax.data import tfds as tfds_module
from didicm_jax.errors import UserError
from tests.data.stored import birds, load, rewrite_info
from tests.disks import flip

ONE_LINE = r"^expected [^\n]*$"


def test_labels_that_are_not_as_many_as_the_records_are_named(tree, monkeypatch):
    real = tfds_module._records

    def records(builder, split, key):
        parts, whole = real(builder, split, key)
        return parts, [whole[n] for n in range(len(whole) - 1)]

    monkeypatch.setattr(tfds_module, "_records", records)
    message = r"^expected one label for each of the 28 records of birds train, found 29: [^\n]*$"
    with pytest.raises(UserError, match=message):
        load("birds", tree)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dataset_info.json", b"[1, 2]"),
        ("dataset_info.json", b"{\xff}"),
        ("features.json", b"{"),
    ],
)
def test_a_damaged_description_is_named(copied, file, content):
    (birds(copied) / file).write_bytes(content)
    with pytest.raises(UserError, match=r"^expected a whole description of birds in [^\n]*$"):
        load("birds", copied)


@pytest.mark.parametrize("content", [b"boat\ncran\xe9\n", b"\n", None])
def test_names_of_classes_that_cannot_be_read_are_not_passed_over(copied, content):
    """The classes would be called 0 and 1, and so would those of a network trained on them."""
    path = birds(copied) / "label.labels.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"^expected the names of the classes in [^\n]*$"):
        load("birds", copied)


def test_photos_of_too_many_pixels_are_broken(tree):
    dataset = load("birds", tree, max_pixels=150 * 100 - 1)
    with pytest.raises(UserError, match=r"to be broken, found .*config\.data\.max_broken_share"):
        dataset.train.batch(np.arange(8))
    assert load("birds", tree, max_pixels=150 * 100).train.batch(np.arange(29))


def test_what_is_not_there_is_named_with_the_way_to_get_it(tree, tmp_path):
    for name, folder, message in (
        ("nonesuch", tree, "found 'nonesuch', which neither knows.*launch/prepare.py"),
        ("birds:9.0.0", tree, "'birds:9.0.0'"),
        ("cifar10/nonesuch", tree, "cifar10/nonesuch"),
        (
            "imagenet2012",
            tmp_path,
            "imagenet2012 as array_record in .*found nothing: prepare it with python"
            " launch/prepare.py --dataset=imagenet2012",
        ),
        ("mnist", tmp_path, "found nothing: prepare it with tfds build mnist"),
    ):
        with pytest.raises(UserError, match=ONE_LINE) as caught:
            load(name, folder)
        assert re.search(message, str(caught.value)), caught.value


def test_splits_that_are_not_there_are_named(tree):
    with pytest.raises(
        UserError, match=r"split 'dev' of birds, found train, validation.*eval_split"
    ):
        load("birds", tree, eval_split="dev")


def test_tfrecord_alone_is_named(copied):
    rewrite_info(copied, lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(UserError, match=r"only as tfrecord, which has no random access: prepare"):
        load("birds", copied)


def test_a_set_without_evaluation_images_is_named(copied):
    rewrite_info(copied, lambda info: info["splits"].pop())
    with pytest.raises(UserError, match=r"validation or test in birds, found train: set config"):
        load("birds", copied)
    with pytest.raises(UserError, match=r"found train: set config.data.eval_split to one of them"):
        load("birds", copied, train_split=None)
    assert len(load("birds", copied, eval_split="train[90%:]").test) == 3


def test_missing_shards_are_named_at_once(copied):
    for shard in copied.rglob("birds-train.array_record*"):
        shard.unlink()
    with pytest.raises(UserError, match=r"records of birds train .* cannot be read"):
        load("birds", copied)


def test_a_set_that_is_not_for_classification_is_named(copied):
    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    features.save_config(birds(copied))
    rewrite_info(copied, lambda info: info.pop("supervisedKeys", None))
    with pytest.raises(UserError, match=r"one image and one class label.*found images \[\]"):
        load("birds", copied)


def test_a_record_that_the_disk_damaged_is_a_broken_image_and_not_the_end(copied):
    flip(next(birds(copied).glob("birds-train.array_record*")))
    source = load("birds", copied, max_broken_share=0.5).train
    assert source.batch(np.arange(29))["image"].std() > 20
    (broken,) = source.broken()
    assert 0 < broken < 28
    assert source.name(broken) == str(broken)
    (birds(copied) / "birds-train.labels.npy").unlink()
    message = rf"^expected a label in every record of birds train, found record {broken} [^\n]*$"
    with pytest.raises(UserError, match=message):
        load("birds", copied)
