"""The sets of `config.evaluation.sets`, as they are opened before a training starts."""

import sys

import numpy as np
import pytest

from didicm_jax import config as configuration
from didicm_jax import data
from didicm_jax.config import build
from didicm_jax.data import corruptions
from didicm_jax.errors import UserError
from didicm_jax.training import sets
from tests.config.test_table import configured


def opened(*texts, total=100, **settings):
    changes = {"evaluation.sets": texts, "train.batch_size": 30}
    config = configured(changes | {key.replace("__", "."): v for key, v in settings.items()})
    configuration.validate(config)
    return sets.open_all(config, build.dataset(config), total)


def pixels(source):
    return source.batch(np.arange(len(source)))["image"]


def test_without_sets_there_is_the_one_of_eval_split():
    (only,) = opened(data__eval_split="train[:60]", evaluation__every="3 steps")
    assert (only.name, len(only.source), only.every) == ("", 60, 3)


def test_parts_intervals_and_corruptions_are_as_they_are_spelled(monkeypatch):
    monkeypatch.setattr(corruptions, "cores", lambda: 1)
    digits = data.load("digits")
    found = opened(
        "held=train[95%:] every 5 steps",
        "all",  # of data.eval_split
        "train=train[:10] every 60 examples",
        "same=test of digits",
        "dark=test with brightness:2 every 1 epoch",
        evaluation__every="7 steps",
    )
    assert [each.name for each in found] == ["held", "all", "train", "same", "dark"]
    assert [each.every for each in found] == [5, 7, 2, 7, 48]  # 1,437 digits, 30 a step
    held, everything, train, same, dark = (each.source for each in found)
    np.testing.assert_array_equal(pixels(held), pixels(digits.train)[1365:])
    np.testing.assert_array_equal(pixels(train), pixels(digits.train)[:10])
    for source in (everything, same):
        np.testing.assert_array_equal(pixels(source), pixels(digits.test))
    assert dark.labels.tolist() == digits.test.labels.tolist()
    first = corruptions.corrupt(pixels(digits.test)[0], "brightness", 2, seed=(0, 10, 2, 0))
    np.testing.assert_array_equal(pixels(dark)[0], first)


def test_what_is_in_memory_is_corrupted_once(monkeypatch):
    monkeypatch.setattr(corruptions, "cores", lambda: 1)
    noise = opened("all", "noise=test with gaussian_noise:1")[1].source
    before = pixels(noise)
    monkeypatch.setattr(corruptions, "_corrupt_all", None)
    np.testing.assert_array_equal(pixels(noise), before)


@pytest.fixture
def others():
    """Sets that are like digits in some respects."""
    digits = data.load("digits")
    names = tuple("abcdefghij")
    wide = data.ArraySource(np.zeros((20, 8, 10, 1), np.uint8), np.arange(20) % 10)
    made = {
        "letters": data.Dataset(digits.train, digits.test, names, (8, 8, 1)),
        "fewer": data.Dataset(wide, wide, names, (8, 10, 1)),
    }
    data.LOADERS.update({name: lambda data_dir, each=each: each for name, each in made.items()})
    yield
    for name in made:
        del data.LOADERS[name]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["x y"], r"expected NAME\[=SPLIT\].*, not 'x y', found \('x y',\)"),
        (["a/b=test"], "without slashes, not 'a/b=test'"),
        (["a\x07=test"], "can be printed"),
        ([3], "expected NAME.*, not 3"),
        (["=test"], "expected NAME"),
        (["a with fog"], r"CORRUPTION:SEVERITY"),
        (["a in folder"], "expected NAME"),
        (["a", "b", "a=test"], "expected each name once, not 'a' twice"),
        (["a every now"], "expected a number above 0 and a unit, .* behind 'every' in 'a every"),
        (["a every 0 steps"], "expected a number above 0 and a unit"),
        (["a with fog:1"], "uncorrupted, as the first, which decides what is best, not 'a with"),
        (["a=test of digits"], "the run's own data set, uncorrupted, as the first"),
        (["a every 101 steps"], ", a: expected an interval of at most the 100 steps .*found 101"),
        (["a", "b every 1e15 steps"], ", b: expected at most 2147483647 steps"),
        (["a", "b=tset"], ", b: the split: expected a part of train or test, .*found 'tset'"),
        (["a", "b=test[:0]"], ", b: the split: expected a part .*no example"),
        (["a", "b of nothing"], ", b: expected the data set to be one of .*found 'nothing'"),
        (["a", "b=test of letters"], ", b: expected class 0 to be '0', found 'a' in letters; use"),
        (
            ["a", "b=test of fewer"],
            ", b: expected the side of the run's images to be at.*; use images of that size$",
        ),
        (["a", "b of idx in nowhere"], ", b: expected .*nowhere"),
        (
            ["a", "b with fgo:1"],
            ", b: expected names of corruptions, found 'fgo'; did you mean fog",
        ),
        (["a", "b with fog:6"], ", b: expected severities from 1 to 5, found 6"),
    ],
)
def test_every_mistake_is_one_line_before_anything_starts(others, texts, words):
    with pytest.raises(UserError, match=rf"^config\.evaluation\.sets.*{words}") as error:
        opened(*texts)
    assert "\n" not in str(error.value)


def test_corruptions_that_cannot_be_made_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    opened("a")
    with pytest.raises(UserError, match=r"^config\.evaluation\.sets, b: .*\[corruptions\]'$"):
        opened("a", "b with fog:1")


def test_a_first_split_that_is_not_there_is_one_line():
    for texts, key in ((["a=tset"], r"evaluation\.sets, a"), (["a"], r"data\.eval_split")):
        with pytest.raises(UserError, match=rf"^config\.{key}: expected a part of train or test, "):
            opened(*texts, data__eval_split="" if "=" in texts[0] else "tset")
