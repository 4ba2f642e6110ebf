"""Training labels that are made wrong at random: which ones, and what stays as it is."""

import numpy as np
import pytest
from scipy import stats

from didicm_jax import data
from didicm_jax.data.label_noise import redraw
from didicm_jax.errors import UserError
from tests.data.test_identity import load as load_photos

SHARE = 0.4
LABELS = np.arange(20_000, dtype=np.int32) % 4


def test_the_chain_draws_its_share_anew_over_all_classes():
    found = redraw(LABELS, 5, share=SHARE, seed=0)
    assert found.dtype == np.int32
    # A label stays with probability 1 - share + share / K, and becomes each other with share / K.
    for label in range(4):
        counts = np.bincount(found[label == LABELS], minlength=5)
        expected = 5000 * (SHARE / 5 + (1 - SHARE) * (np.arange(5) == label))
        assert stats.chisquare(counts, expected).pvalue > 0.01


def test_what_becomes_of_an_example_depends_on_seed_and_place_alone():
    found = redraw(LABELS, 4, share=SHARE, seed=3)
    np.testing.assert_array_equal(redraw(LABELS[:77], 4, share=SHARE, seed=3), found[:77])
    other = redraw(LABELS, 4, share=SHARE, seed=4)
    # Of two seeds independent, so wrong in the same places as often as chance has it.
    wrong = (found != LABELS), (other != LABELS)
    np.testing.assert_allclose(np.mean(wrong[0] & wrong[1]), (SHARE * 3 / 4) ** 2, atol=0.01)


def test_a_larger_share_redraws_what_a_smaller_one_does_to_the_same_labels():
    few, many = (redraw(LABELS, 4, share=share, seed=0) for share in (0.2, 0.6))
    changed = few != LABELS
    np.testing.assert_array_equal(many[changed], few[changed])
    assert (many != LABELS).sum() > changed.sum()


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UserError, match=r"data\.label_noise to be a share in \[0, 1\)") as error:
        data.trained_on(data.load("digits"), label_noise=share)
    assert "\n" not in str(error.value)


def test_labels_of_training_are_redrawn_and_those_of_evaluation_are_not():
    for splits in ({}, {"train_split": "train[:90%]", "eval_split": "train[90%:]"}):
        clean = data.load("digits", **splits)
        noisy = data.trained_on(clean, label_noise=SHARE)
        expected = redraw(clean.train.labels, 10, share=SHARE, seed=0)
        np.testing.assert_array_equal(noisy.train.labels, expected)
        assert noisy.test.digest() == clean.test.digest()
        assert noisy.train.digest() != clean.train.digest()
    whole = data.trained_on(data.load("digits", eval_split="train"), label_noise=SHARE)
    np.testing.assert_array_equal(whole.test.labels, data.load("digits").train.labels)


def test_without_a_share_nothing_changes():
    digits = data.load("digits")
    assert data.trained_on(digits, label_noise=0.0).train.digest() == digits.train.digest()


@pytest.mark.parametrize("kept", [{"data_ratio": 0.25}, {"train_examples": 300}])
def test_fewer_images_are_the_same_ones_with_the_labels_that_they_have_among_all(kept):
    digits = data.load("digits")
    images = data.trained_on(digits, **kept).train
    noisy = data.trained_on(digits, label_noise=SHARE, **kept).train
    everything = digits.train
    every = np.arange(len(images))
    np.testing.assert_array_equal(noisy.batch(every)["image"], images.batch(every)["image"])
    place = {each.tobytes(): n for n, each in enumerate(everything.batch(
        np.arange(len(everything)))["image"])}  # fmt: skip
    rows = [place[each.tobytes()] for each in noisy.batch(every)["image"]]
    expected = redraw(everything.labels, 10, share=SHARE, seed=0)[rows]
    same = everything.labels[rows] == images.labels  # a few digits are there twice
    np.testing.assert_array_equal(noisy.labels[same], expected[same])
    assert same.mean() > 0.99


def test_batches_hold_the_redrawn_labels_wherever_they_start_and_however_they_are_shared():
    source = data.trained_on(data.load("digits"), label_noise=SHARE, seed=1).train
    for step, process in ((0, 0), (70, 0), (70, 1)):
        batch = data.train_batch(
            source, step=step, batch_size=32, seed=1, process_index=process, process_count=2
        )
        np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])


def test_a_digest_tells_shares_apart_and_does_not_depend_on_the_resolution():
    digests = {
        (share, resolution): data.trained_on(
            data.load("digits", resolution=resolution), label_noise=share
        ).train.digest()
        for share in (0.0, 0.2, 0.4)
        for resolution in (8, 4)
    }
    for share in (0.0, 0.2, 0.4):
        assert digests[share, 8] == digests[share, 4]
    assert len(set(digests.values())) == 3


def test_photos_of_records_are_redrawn_too(tree):
    clean = load_photos("birds", tree)
    noisy = data.trained_on(clean, label_noise=0.9)
    assert noisy.test.digest() == clean.test.digest()
    assert noisy.train.digest() != clean.train.digest()
    rows = np.arange(len(clean.train))
    one, other = clean.train.batch(rows), noisy.train.batch(rows)
    np.testing.assert_array_equal(one["image"], other["image"])
    np.testing.assert_array_equal(one["label"], clean.train.labels)
    assert (other["label"] != one["label"]).any()
    np.testing.assert_array_equal(
        other["label"], redraw(one["label"], clean.num_classes, share=0.9, seed=0)
    )


def test_a_part_of_a_source_takes_labels_as_a_source_does():
    source = data.load("digits").train
    part = data.subset(source, count=50, seed=0)
    labels = (part.labels + 1) % 10
    changed = part.with_labels(labels)
    np.testing.assert_array_equal(changed.batch(np.arange(50))["label"], labels)
    assert changed.digest() != part.digest() == part.with_labels(part.labels).digest()
    np.testing.assert_array_equal(part.labels, (labels - 1) % 10)
