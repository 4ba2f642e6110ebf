"""The strings that write down a RandAugment."""

import pytest

from didicm_jax.augment import RandAugmentSpec, parse_rand_augment
from didicm_jax.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rand", RandAugmentSpec(10, 2, 0.0, 10, False, 0.5)),  # timm's defaults
        ("rand-m7-mstd0.5-inc1", RandAugmentSpec(7, 2, 0.5, 10, True, 0.5)),
        ("rand-inc1-mstd0.5-m7", RandAugmentSpec(7, 2, 0.5, 10, True, 0.5)),
        ("rand-m15-n3-mmax20-p0.25-inc0", RandAugmentSpec(15, 3, 0.0, 20, False, 0.25)),
        ("rand-m0-mstd101-p1", RandAugmentSpec(0, 2, 101.0, 10, False, 1.0)),
    ],
)
def test_strings_and_what_they_mean(text, expected):
    spec = parse_rand_augment(text)
    assert spec == expected
    assert type(spec.layers) is int
    assert type(spec.increasing) is bool


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "rand-m7-mstd0.5-inc1"),
        ("augmix-m3", "'augmix-m3'"),
        ("rand-x3", "'x3'"),
        ("rand-", "''"),
        ("rand-m", "'m'"),
        ("rand-m7.5", "whole number"),
        ("rand-m-7", "'m'"),
        ("rand-mstdbig", "'mstdbig'"),
        ("rand-m7-m8", "once"),
        ("rand-n0", "at least 1"),
        ("rand-n101", "at most 100"),
        ("rand-m99999999999-mmax99999999999", "at most 1000"),
        ("rand-inc2", "at most 1"),
        ("rand-p1.5", "at most 1"),
        ("rand-m12", "raise mmax"),
        ("rand-tweights", "'tweights'"),
        ("RAND-m7", "'RAND-m7'"),
        ("rand-m7 ", "'m7 '"),
    ],
)
def test_errors_are_one_line_that_names_the_key_and_the_part(text, words):
    with pytest.raises(UserError) as error:
        parse_rand_augment(text, "config.augment.rand_augment")
    message = str(error.value)
    assert message.startswith("config.augment.rand_augment: expected ")
    assert "found " in message
    assert words in message
    assert "\n" not in message
