"""Sources, the stratified nested subset, and `load`."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets

from didicm_jax import data
from didicm_jax.data.source import stratified_order
from didicm_jax.errors import UserError


def numbered(labels):
    """A source whose image i has i in its first two pixels."""
    labels = np.asarray(labels)
    numbers = np.arange(len(labels))
    images = np.stack([numbers // 256, numbers % 256], axis=-1).astype(np.uint8)
    return data.ArraySource(images[:, None, :, None], labels)


def numbers(images):
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]


def kept(source):
    return numbers(source.batch(np.arange(len(source)))["image"])


def test_array_source_gathers_in_the_order_asked():
    source = numbered(np.arange(300) % 7)
    batch = source.batch(np.array([299, 0, 5, 5]))
    assert numbers(batch["image"]).tolist() == [299, 0, 5, 5]
    assert batch["label"].tolist() == [299 % 7, 0, 5, 5]
    assert batch["image"].dtype == np.uint8
    assert batch["label"].dtype == source.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((3, 2, 2, 1), np.float32), np.zeros(3, int)),
        (np.zeros((3, 2, 2), np.uint8), np.zeros(3, int)),
        (np.zeros((3, 2, 2, 1), np.uint8), np.zeros(2, int)),
        (np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, float)),
    ],
)
def test_array_source_rejects_other_shapes_and_types(images, labels):
    with pytest.raises(ValueError, match="expected"):
        data.ArraySource(images, labels)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    seed=st.integers(0, 2**63),
    draw=st.data(),
)
def test_subset_is_nested_and_keeps_the_relative_order(labels, seed, draw):
    source = numbered(labels)
    large = draw.draw(st.integers(1, len(labels)))
    small = draw.draw(st.integers(1, large))
    within = data.subset(source, count=large, seed=seed)
    first, second = kept(data.subset(source, count=small, seed=seed)), kept(within)
    assert len(first) == small
    assert len(second) == large
    assert set(first) <= set(second)
    assert np.all(np.diff(second) > 0)
    np.testing.assert_array_equal(within.labels, np.asarray(labels)[second])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    ratio=st.floats(0.05, 1.0),
)
def test_every_prefix_holds_the_same_share_of_each_class(sizes, seed, ratio):
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = max(1, round(ratio * len(labels)))
    counts = np.bincount(labels[stratified_order(labels, seed)[:count]], minlength=len(sizes))
    # An image of class k with rank j is due at (j + 1/2)/n_k: all those due before the last one
    # taken are in, none due after it. So one common share explains the count of every class.
    lowest = np.max((counts - 0.5) / sizes)
    highest = np.min((counts + 0.5) / sizes)
    assert lowest <= highest + 1e-12


@pytest.mark.parametrize("count", [10, 25, 101, 1000])
def test_classes_of_one_size_differ_by_at_most_one(count):
    labels = np.arange(1000) % 10
    counts = np.bincount(data.subset(numbered(labels), count=count, seed=3).labels, minlength=10)
    assert counts.sum() == count
    assert counts.max() - counts.min() <= 1


def test_which_classes_of_one_size_get_the_extra_image_is_random():
    source = numbered(np.arange(100) % 10)
    chosen = {tuple(sorted(data.subset(source, count=5, seed=s).labels)) for s in range(20)}
    assert len(chosen) > 10


def test_ratio_is_count_and_the_seed_chooses():
    source = numbered(np.arange(400) % 4)
    by_ratio = kept(data.subset(source, ratio=0.25, seed=5))
    assert np.array_equal(by_ratio, kept(data.subset(source, count=100, seed=5)))
    assert not np.array_equal(by_ratio, kept(data.subset(source, count=100, seed=6)))
    # Random within the class, not its first images.
    assert by_ratio.max() > 350


@pytest.mark.parametrize(
    "choice", [{"count": 0}, {"count": 5}, {"ratio": 0.0}, {"ratio": 1.5}, {"ratio": 0.01}]
)
def test_subset_names_what_it_cannot_give(choice):
    with pytest.raises(UserError, match=r"^expected [^\n]*found [^\n]*$"):
        data.subset(numbered([0, 1, 0, 1]), **choice, seed=0)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"data_ratio": 1e-4}, "data_ratio: expected .* all 1437 .*found 0, the share 0.0001 of"),
        ({"data_ratio": 1.5}, r"data_ratio: expected a share .* in \(0, 1\], found 1.5:"),
        ({"train_examples": 1438}, "train_examples: expected .* 1 and all 1437 .*found 1438:"),
        ({"train_examples": 0}, "train_examples: expected .* 1 and all 1437 .*found 0:"),
    ],
)
def test_more_or_less_training_images_than_there_are_name_the_setting(choice, message):
    with pytest.raises(UserError, match=rf"^config\.data\.{message}[^\n]*$"):
        data.trained_on(data.load("digits"), **choice)


def test_a_fixed_subset_is_a_function_of_the_data_alone():
    source = numbered(np.arange(400) % 4)
    chosen = kept(data.fixed_subset(source, 40))
    again = kept(data.fixed_subset(numbered(np.arange(400) % 4), 40))
    np.testing.assert_array_equal(chosen, again)
    assert np.bincount(chosen % 4).tolist() == [10] * 4
    assert set(kept(data.fixed_subset(source, 10))) < set(chosen)
    with pytest.raises(UserError, match="found 401"):
        data.fixed_subset(source, 401)


def test_a_digest_is_of_the_examples_in_their_order():
    labels = np.arange(12) % 3
    source = numbered(labels)
    assert source.digest() == numbered(labels).digest()
    assert numbered(labels[::-1]).digest() != source.digest()  # other labels, the same pixels
    assert source.digest(np.arange(12)[::-1]) != source.digest()
    tall = data.ArraySource(np.zeros((2, 4, 1, 1), np.uint8), np.zeros(2, int))
    wide = data.ArraySource(np.zeros((2, 1, 4, 1), np.uint8), np.zeros(2, int))
    assert tall.digest() != wide.digest()


def test_a_digest_of_a_part_is_that_of_the_same_examples_by_themselves():
    whole = data.load("digits")
    part = data.load("digits", train_split="train[100:200]").train
    assert part.digest() == whole.train.digest(np.arange(100, 200))
    chosen = data.subset(whole.test, count=50, seed=3)
    rows = np.sort(stratified_order(whole.test.labels, 3)[:50])
    assert chosen.digest() == whole.test.digest(rows)
    assert chosen.digest(np.arange(5)) == whole.test.digest(rows[:5])


def test_a_digest_does_not_depend_on_the_resolution():
    large, small = (data.load("digits", resolution=side) for side in (8, 4))
    assert large.test.digest() == small.test.digest() != large.train.digest()
    chosen = [data.fixed_subset(each.test, 30).digest() for each in (large, small)]
    assert chosen[0] == chosen[1] != large.test.digest()


def test_a_part_knows_its_own_broken_examples():
    class Broken(data.ArraySource):
        def broken(self):
            return np.array([2, 7])

    images, labels = np.zeros((10, 2, 2, 1), np.uint8), np.arange(10)
    part = data.subset(Broken(images, labels), count=9, seed=0)
    assert part.labels[part.broken()].tolist() == [n for n in (2, 7) if n in part.labels]
    assert part.replaced == len(part.broken()) > 0


def test_subset_needs_exactly_one_size():
    for choice in ({}, {"count": 1, "ratio": 0.5}):
        with pytest.raises(ValueError, match="either"):
            data.subset(numbered([0, 1]), **choice, seed=0)


def test_negative_seed_is_named():
    with pytest.raises(UserError, match="seed of 0 or more, found -1"):
        data.subset(numbered([0, 1]), count=1, seed=-1)


def test_a_set_of_one_class_has_nothing_to_tell_apart():
    one = numbered([0, 0, 0])
    with pytest.raises(UserError, match=r"^expected images of 2 classes or more, [^\n]* found 1: "):
        data.Dataset(one, one, ("a",), (1, 2, 1))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], []])
def test_dataset_rejects_labels_outside_the_classes_and_empty_splits(labels):
    good, bad = numbered([0, 1, 2]), numbered(np.asarray(labels, int))
    for train, test, split in ((bad, good, "training"), (good, bad, "test")):
        with pytest.raises(UserError, match=split):
            data.Dataset(train, test, ("a", "b", "c"), (1, 2, 1))


def test_digits_are_scikit_learns_split_once_and_stratified():
    dataset = data.load("digits")
    assert (len(dataset.train), len(dataset.test)) == (1437, 360)
    assert dataset.num_classes == 10
    assert dataset.class_names == tuple("0123456789")
    assert dataset.image_shape == (8, 8, 1)
    batches = [s.batch(np.arange(len(s))) for s in (dataset.train, dataset.test)]
    images = np.concatenate([b["image"] for b in batches])
    labels = np.concatenate([b["label"] for b in batches])
    assert (images.min(), images.max()) == (0, 255)
    # The same 1,797 (image, label) pairs as the original, whatever the order.
    original = datasets.load_digits()
    ours = np.column_stack([np.round(images.reshape(1797, 64) / 255 * 16), labels])
    theirs = np.column_stack([original.data, original.target])
    np.testing.assert_array_equal(
        ours[np.lexsort(ours.T)].astype(int), theirs[np.lexsort(theirs.T)].astype(int)
    )
    share = np.bincount(dataset.test.labels) / np.bincount(original.target)
    np.testing.assert_allclose(share, 360 / 1797, atol=0.005)


def test_the_digits_split_never_changes():
    # Made with this code (numpy 2, scikit-learn 1.7): a change breaks comparison with old results.
    labels = data.load("digits").test.labels
    assert hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()[:16] == "bbd4af091b10cc7a"


def test_load_keeps_the_training_images_asked_for_and_all_test_images():
    dataset = data.trained_on(data.load("digits"), train_examples=100, seed=1)
    assert (len(dataset.train), len(dataset.test)) == (100, 360)
    assert set(np.bincount(dataset.train.labels)) <= {9, 10, 11}


def test_load_names_unknown_sets_and_a_folder_that_digits_does_not_read():
    with pytest.raises(UserError, match=r"one of digits, idx, or .* found 'no_such_set'"):
        data.load("no_such_set", data_dir="/nowhere")
    with pytest.raises(UserError, match=r"no config.data.data_dir for digits"):
        data.load("digits", data_dir="/somewhere")
    assert len(data.load("digits", data_dir="").test) == 360
