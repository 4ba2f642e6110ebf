"""Parts of the data sets that are held in memory."""

import dataclasses

import numpy as np
import pytest

from didicm_jax import data
from didicm_jax.data import memory, splits
from didicm_jax.errors import UserError


@pytest.mark.parametrize(
    ("train_split", "eval_split", "expected"),
    [
        ("train", "", (slice(None), "test", slice(None))),
        ("train[:90%]", "train[90%:]", (slice(1293), "train", slice(1293, None))),
        ("train[100:200]", "test[:7]", (slice(100, 200), "test", slice(7))),
    ],
)
def test_parts_are_those_that_are_named(train_split, eval_split, expected):
    whole = data.load("digits")
    found = data.load("digits", train_split=train_split, eval_split=eval_split)
    kept, name, shown = expected
    for source, like, rows in (
        (found.train, whole.train, kept),
        (found.test, getattr(whole, name), shown),
    ):
        indices = np.arange(len(like))[rows]
        assert len(source) == len(indices)
        np.testing.assert_array_equal(source.labels, like.labels[indices])
        np.testing.assert_array_equal(
            source.batch(np.arange(len(source)))["image"], like.batch(indices)["image"]
        )


def test_parts_of_a_split_that_stands_class_by_class_are_refused():
    whole = data.load("digits")
    batch = whole.train.batch(np.argsort(whole.train.labels, kind="stable"))
    sorted_train = memory.ArraySource(batch["image"], batch["label"])
    dataset = dataclasses.replace(whole, train=sorted_train)
    with pytest.raises(UserError, match="expected train to be stored in random order"):
        memory.choose(dataset, "train[:90%]", "test")
    assert len(memory.choose(dataset, "train", "test[:50%]").train) == len(whole.train)


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        (np.repeat(np.arange(10), 10), True),
        (np.repeat(np.arange(10)[::-1], 10), True),
        (np.repeat([3, 0, 2, 1], 50), True),
        (np.r_[np.repeat([3, 0, 2, 1], 50), 3], False),
        # 9.5e9 orders and 1.1e9, six of which have each class in one piece.
        (np.repeat([2, 0, 1], 8), True),
        (np.repeat([2, 0, 1], (7, 7, 8)), False),
        (np.tile(np.arange(10), 10), False),
        (np.repeat(np.arange(2), 5), False),  # one order in 252: it may be chance
        (np.zeros(1000, int), False),
        (np.repeat(np.arange(2), (1, 10**6)), False),  # one in a million
    ],
)
def test_an_order_that_may_be_chance_is_not_refused(labels, refused):
    part = splits.Slice("train", len(labels), np.arange(len(labels) - 1))
    if refused:
        with pytest.raises(UserError, match="expected train to be stored in random order"):
            splits.check_mixed(part, labels, "train")
    else:
        splits.check_mixed(part, labels, "train")


def test_a_set_in_memory_without_a_part_to_train_on_is_that_for_evaluation():
    found = data.load("digits", train_split=None, eval_split="train[:7]")
    assert found.train is found.test
    assert found.test.labels.tolist() == data.load("digits").train.labels[:7].tolist()


def test_parts_of_both_follow_each_other():
    whole = data.load("digits")
    found = data.load("digits", train_split="train+test")
    labels = np.concatenate([whole.train.labels, whole.test.labels])
    np.testing.assert_array_equal(found.train.labels, labels)


def test_a_share_is_taken_of_the_part():
    found = data.trained_on(data.load("digits", train_split="train[:50%]"), data_ratio=0.5)
    assert len(found.train) == round(0.5 * len(data.load("digits").train) / 2)


@pytest.mark.parametrize("split", ["validation", "train[:190%]", "train[90%", "train[5:5]"])
def test_what_is_no_part_is_one_line(split):
    with pytest.raises(UserError, match=r"config\.data\.eval_split: expected a part") as error:
        data.load("digits", eval_split=split)
    assert split in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["train[10:5]", "train[:0%]"])
def test_a_part_without_examples_is_called_that_and_not_a_damaged_set(tree, split):
    with pytest.raises(UserError, match=r"expected a split .*\(no example in it\): correct"):
        data.load("birds", data_dir=str(tree), train_split=split)
