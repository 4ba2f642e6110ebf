"""What the record of an evaluation says of its images and samplers."""

import numpy as np
import pytest

from didicm_jax import config as configuration
from didicm_jax.evaluation import record, scores
from didicm_jax.evaluation.subject import OtherData
from didicm_jax.inference import sweep


def configured(name, split="", sets=()):
    config = configuration.default()
    config.data.name, config.data.eval_split, config.evaluation.sets = name, split, sets
    return config


@pytest.mark.parametrize(
    ("config", "other", "expected"),
    [
        (configured("digits"), OtherData(), {"dataset": "digits", "split": "test"}),
        (configured("digits", "train[90%:]"), OtherData(), {"split": "train[90%:]"}),
        (configured("digits", "test", ("a=train[:9]",)), OtherData(), {"split": "train[:9]"}),
        (configured("digits"), OtherData(split="train"), {"split": "train"}),
        (configured("digits"), OtherData(examples=60), {"split": "test", "examples": 60}),
        # Only the files of a stored set tell whether it has a part for validation.
        (configured("birds"), OtherData(), {"dataset": "birds", "split": ""}),
        (
            configured("birds", "train[95%:]"),
            OtherData("birds", "DATA"),
            {"dataset": "birds", "split": ""},
        ),
        (
            configured("birds"),
            OtherData("idx", "DATA", "train", 5),
            {"dataset": "idx", "split": "train", "examples": 5},
        ),
    ],
)
def test_a_record_says_which_images_it_is_of(config, other, expected):
    found = record.images_of(config, other)
    assert found == {"dataset": config.data.name} | expected


def test_the_part_is_told_in_words():
    assert record.part({"dataset": "digits"}) == ""  # of a former version
    assert record.part({"split": ""}) == ""
    assert record.part({"split": "train[90%:]"}, "`") == ", part `train[90%:]`"
    asked = record.part({"split": "test", "examples": 5000})
    assert asked == ", part test, of which 5,000 were asked for"


def test_each_sampler_is_named_as_in_the_tables():
    probs = np.full((4, 3), 1 / 3, np.float32)
    found = scores.of(probs, np.array([0, 1, 2, 0]))
    (config,) = sweep.variations(configured("digits"), {"temperature": [1.5], "steps": [4]})
    assert record.of_sampler(config, found)["label"] == "cp exact temperature 1.5"
