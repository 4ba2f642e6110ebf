"""Flags, which mode reads which, and that what their messages advise is accepted."""

import re

import pytest
from absl import flags

from didicm_jax.cli import options
from didicm_jax.data import corruptions
from didicm_jax.errors import UserError


def checked(*given):
    """The flags as `main` knows them, checked."""
    values = flags.FlagValues()
    options.define(values)
    values(["main.py", *given])
    options.check(values)
    return values


@pytest.mark.parametrize(
    ("given", "advised", "followed"),
    [
        (["--steps=2"], ["--mode=evaluate or"], ["--mode=evaluate", "--steps=2"]),
        (["--steps=2"], ["leave it out"], []),
        (["--mode=predict", "--sheet=2"], ["--mode=compare"], ["--mode=compare", "--sheet=2"]),
        (
            ["--mode=evaluate", "--severities=1"],
            ["add --corruptions=all"],
            ["--mode=evaluate", "--severities=1", "--corruptions=all"],
        ),
        (
            ["--mode=evaluate", "--baseline=b"],
            ["add --corruptions=all"],
            ["--mode=evaluate", "--baseline=b", "--corruptions=all"],
        ),
        (
            ["--mode=evaluate", "--baseline=b"],
            ["use --mode=compare"],
            ["--mode=compare", "--baseline=b"],
        ),
        (
            ["--mode=evaluate", "--data_dir=d"],
            ["add --dataset=NAME"],
            ["--mode=evaluate", "--data_dir=d", "--dataset=NAME"],
        ),
        (
            ["--mode=compare", "--images=i", "--split=test"],
            ["--split: expected without --images", "leave one out"],
            ["--mode=compare", "--split=test"],
        ),
    ],
)
def test_advice_is_accepted_when_it_is_followed(given, advised, followed):
    with pytest.raises(UserError) as raised:
        checked(*given)
    for words in advised:
        assert words in str(raised.value)
    assert checked(*followed) is not None


@pytest.mark.parametrize("mode", options.MODES)
def test_each_mode_takes_the_flags_that_its_help_says(mode):
    values = flags.FlagValues()
    options.define(values)
    refused = set()
    for name in set(values) - {"mode"}:
        word = {"checkpoint": "best", "severities": "1"}.get(name, "3")
        flag = f"--{name}" if values[name].boolean else f"--{name}={word}"
        try:
            checked(f"--mode={mode}", flag)
        except UserError as error:
            if "found --mode=" in str(error):
                refused.add(name)
    said = {name for name in set(values) if "(--mode=" in values[name].help}
    read = {
        name
        for name in said
        if mode in re.search(r"\(--mode=(.*?)\)", values[name].help)[1].split(", ")
    }
    assert refused == said - read
    assert ({"checkpoint", "output", "steps"} <= read) == (
        mode not in ("train", "report", "preflight")
    )


@pytest.mark.parametrize("given", ["0", "inf", "nan", "1e12", "1000000000000"])
def test_a_timeout_is_one_that_jax_can_wait_for(given):
    values = flags.FlagValues()
    options.define(values)
    with pytest.raises(flags.IllegalFlagValueError, match="peer_timeout"):
        values(["main.py", f"--peer_timeout={given}"])
    assert checked("--peer_timeout=1000000").peer_timeout == 10**6


@pytest.mark.parametrize("severities", ["5,1,3", "1,3,3,5,1"])
def test_corruptions_and_severities_count_once_in_whatever_order(monkeypatch, severities):
    monkeypatch.setattr(corruptions, "_library", lambda: None)  # which need not be installed
    given = ["--corruptions=fog,contrast,fog", f"--severities={severities}"]
    found = options.chosen_corruptions(checked("--mode=evaluate", *given))
    assert found == (["fog", "contrast"], [1, 3, 5])
    whole = checked("--mode=evaluate", "--corruptions=all", "--severities=5,4,3,2,1")
    assert options.chosen_corruptions(whole)[1] == list(corruptions.SEVERITIES)
