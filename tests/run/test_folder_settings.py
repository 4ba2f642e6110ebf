"""The settings in a run's folder: which may change between two starts, and how they are read."""

import copy
import json

import pytest

from didicm_jax import config as configuration
from didicm_jax.run import RunFolder
from tests.run.claiming import DIGITS, changed, contents, one_line


@pytest.mark.parametrize("sampler", [{"integrator": "euler"}, {"name": "cl"}])
def test_a_grid_that_is_named_is_not_taken_for_another_start(tmp_path, sampler):
    """It is stored as `auto`, which stands for it."""
    values = {f"sampler__{key}": value for key, value in sampler.items()}
    config = changed(**values, sampler__grid="original")
    configuration.validate(config)
    run = RunFolder.claim(tmp_path / "run", config, DIGITS)
    with run.alone():
        before = contents(run.path)
        RunFolder.claim(run.path, config, DIGITS)
        assert contents(run.path) == before
    grid = {"sampler.grid": ("linear", "auto")}
    config = changed(**values, sampler__grid="linear")
    assert configuration.differences(config, RunFolder.open(run.path).config) == grid


def test_another_config_is_refused_and_changes_nothing(run):
    before = contents(run.path)
    one_line(
        lambda: RunFolder.claim(run.path, changed(seed=4, train__log_every="3 steps"), DIGITS),
        "found another config (seed is 4, was 0)",
    )
    assert contents(run.path) == before


def test_what_may_change_between_two_starts_is_written_and_nothing_else(run):
    before = contents(run.path)
    RunFolder.claim(run.path, configuration.default(), DIGITS)
    assert contents(run.path) == before, "nothing has changed, so nothing is written"
    RunFolder.claim(run.path, changed(train__log_every="3 steps"), DIGITS)
    assert RunFolder.open(run.path).config.train.log_every == "3 steps"
    assert contents(run.path)[run.description_file] == before[run.description_file]


def test_the_settings_that_errors_advise_to_change_may_change(tmp_path):
    """A run that stopped for broken images, non-finite steps or a sampler can go on."""
    RunFolder.claim(tmp_path, changed(data__name="photos"), DIGITS)
    config = changed(
        data__name="photos",
        data__max_broken_share=0.1,
        train__max_skipped=99,
        sampler__tolerance=0.1,
        evaluation__batch_size=32,
    )
    assert RunFolder.claim(tmp_path, config, DIGITS).config == config
    assert RunFolder.open(tmp_path).config == config


def test_a_key_younger_than_the_run_does_not_rewrite_its_config(run):
    values = json.loads(run.config_file.read_text())
    del values["sampler"]["tolerance"]
    run.config_file.write_text(json.dumps(values))
    before = contents(run.path)
    RunFolder.claim(run.path, configuration.default(), DIGITS)
    assert contents(run.path) == before


def test_evaluation_may_look_at_another_split_and_training_may_not(run):
    config = changed(data__eval_split="test")
    assert run.changed(config, evaluates=True).config == config
    one_line(lambda: run.changed(config, evaluates=False), "data.eval_split is 'test', was ''")


def test_what_decides_on_the_best_stays_the_same_part_of_the_data(run):
    """Else accuracies on other images would be held against each other."""
    same = changed(evaluation__sets=("all", "b=train[:9]"))
    assert run.changed(same, evaluates=False).config == same
    other = changed(evaluation__sets=("b=train[:9]", "all"))
    assert run.changed(other, evaluates=True).config == other
    words = "the split of the first of evaluation.sets is 'train[:9]', was ''"
    one_line(lambda: run.changed(other, evaluates=False), words)


def test_the_part_that_decides_may_be_named_in_either_place(tmp_path):
    """Each of the two settings is refused where the other one says it."""
    setting = changed(data__eval_split="test")
    named = changed(evaluation__sets=("all=test", "b=train[:9]"))
    for first, then in ((setting, named), (named, setting)):
        run = RunFolder.claim(tmp_path / f"{len(first.evaluation.sets)}", first, DIGITS)
        assert run.changed(then, evaluates=False).config == then
        words = "data.eval_split is '', was 'test'"
        one_line(lambda run=run: run.changed(configuration.default(), evaluates=False), words)


def with_value(key, value):
    def edit(values):
        values = copy.deepcopy(values)
        *sections, name = key.split(".")
        inner = values
        for section in sections:
            inner = inner[section]
        inner[name] = value
        return json.dumps(values)

    return edit


CONFIGS = {
    "a list": (lambda _: "[1, 2]", "expected a JSON file with an object, found '[1, 2]'"),
    "not JSON": (lambda _: "{", "expected a JSON file, found"),
    "not UTF-8": (lambda values: json.dumps(values) + "\udcff", "expected a JSON file, found"),
    "brackets": (lambda _: "[" * 100_000, "expected a JSON file, found"),
    "a word": (with_value("sampler.steps", "eight"), "config.sampler.steps: expected int"),
    "out of range": (with_value("sampler.steps", 0), "config.sampler.steps: expected a number"),
    "unknown key": (with_value("sampler.stepz", 3), "unknown keys sampler.stepz"),
    "a section that is none": (with_value("sampler", 3), "expected"),
    "a key that is a section": (with_value("seed", {"a": 1}), "seed"),
    "a key with a point": (with_value("sampler", {"a.b": 1}), "a.b"),
    "nothing": (with_value("data", None), "expected"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_stored_config_is_checked_when_it_is_read(run, case):
    edit, words = CONFIGS[case]
    text = edit(json.loads(run.config_file.read_text()))
    run.config_file.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = contents(run.path)
    for call in (
        lambda: RunFolder.open(run.path),
        lambda: RunFolder.claim(run.path, configuration.default(), DIGITS),
    ):
        one_line(call, str(run.config_file), words)
    assert contents(run.path) == before
