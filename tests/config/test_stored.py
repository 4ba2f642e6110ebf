"""The config that a run's folder holds: of earlier versions, and edited by hand."""

import json

import pytest

from didicm_jax import config as configuration
from didicm_jax.errors import UserError
from didicm_jax.inference import sweep


def stored(changes=()):
    values = json.loads(configuration.default().to_json())
    for key, value in dict(changes).items():
        section, _, name = key.rpartition(".")
        (values[section] if section else values)[name] = value
    return values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sampler.steps": "eight"}, "config.sampler.steps: expected int, like 8, found 'eight';"),
        ({"sampler.steps": 0}, "config.sampler.steps: expected a number at least 1, found 0;"),
        ({"train.batch_size": [64]}, r"config.train.batch_size: expected int, like 64, found \[6"),
        ({"train.batch_size": True}, "config.train.batch_size: expected int, like 64, found True"),
        ({"train.batch_size": None}, "config.train.batch_size: expected int, like 64, found None"),
        ({"train.batch_size": {"a": 1}}, "config.train.batch_size: expected int, like 64, found {"),
        ({"data.mean": 0.5}, r"config.data.mean: expected tuple, like \(0.5,\), found 0.5"),
        ({"data.mean": [[0.5]]}, "config.data.mean: expected numbers: a number per channel"),
        ({"diffusion.eps": float("nan")}, r"config.diffusion.eps: expected a number in \[1e-06"),
        ({"train.duration": "soon"}, "config.train.duration: expected a number above 0 and a unit"),
        ({"train.batchsize": 64}, r"unknown keys train\.batchsize; leave them out"),
        ({"colour": "red"}, "unknown keys colour; leave them out"),
        ({"line\nbreak": 1}, "unknown keys line break; leave them out"),
        ({"train": 3}, "config.train: expected a section of settings, found 3;"),
        ({"train": [1, 2]}, r"config.train: expected a section of settings, found \[1, 2\];"),
        ({"seed": {"x": 1}}, "config.seed: expected int, like 0, found {'x': 1};"),
        ({"model.name": ["didirn18"] * 99}, "config.model.name: expected str, like 'didirn18'"),
        ({"model.name": "resnet18"}, "config.model.name: expected one of didirn18"),
        ({"sampler.tolerance": 2}, r"config.sampler.tolerance: expected a number in \[0, 1\]"),
    ],
)
def test_a_stored_config_edited_by_hand_is_refused_by_name(changes, words):
    with pytest.raises(UserError, match=f"^(config: expected the keys of .*)?{words}") as error:
        configuration.from_json(stored(changes))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("values", [[1, 2], "text", None, 3])
def test_what_holds_no_settings_is_refused(values):
    with pytest.raises(UserError, match="expected sections of settings, found"):
        configuration.from_json(values)


def test_younger_keys_have_their_defaults():
    values = stored({"train.batch_size": 32})
    for section, key in (("diffusion", "loss"), ("train", "max_skipped")):
        del values[section][key]
    del values["sampler"]
    config = configuration.from_json(values)
    assert configuration.differences(config, configuration.default()) == {
        "train.batch_size": (32, 64),
        # What was done before there was a choice.
        "sampler.integrator": ("euler", "exact"),
    }


def test_an_older_run_keeps_the_groups_that_it_was_trained_with():
    """Two channels, whatever the map; its classifiers, which have none, are as those of today."""
    for changes in ({}, {"method": "cross_entropy", "model.name": "resnet18"}):
        values = stored(changes)
        del values["model"]["group_elements"]
        config = configuration.from_json(values)
        configuration.validate(config)
        assert config.model.group_elements == (16 if changes else 1)
        # Said in a file, also by a run of today, it is what it says.
        assert configuration.from_json(json.loads(config.to_json())) == config


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler.chains": 3, "sampler.time": 0.1},
        {"sampler.name": "cl", "sampler.integrator": "heun", "sampler.query": "max"},
        {"sampler.name": "one_shot", "sampler.steps": 2},
        {"augment.switch_prob": 1.0, "augment.mixup": 0.2},
        {"method": "cross_entropy", "model.name": "resnet18", "sampler.name": "cl"},
    ],
)
def test_a_run_with_settings_that_nobody_read_still_opens(changes):
    """The version before these were refused trained with them; nothing of it depended on them."""
    config = configuration.from_json(stored(changes))
    configuration.validate(config)
    left = configuration.differences(config, configuration.default())
    # `name` alone is read by a sampler that diffuses, and by none of a classifier.
    read = {"sampler.name", "augment.mixup"} if config.method == "didicm" else set()
    assert left.keys() == changes.keys() & (read | {"method", "model.name"})


@pytest.mark.parametrize("integrator", ["euler", "exact", "heun"])
def test_the_grid_of_earlier_runs_means_what_it_meant(integrator):
    """`original` was the default, and silently `linear` for `exact` and `heun`."""
    config = configuration.from_json(
        stored({"sampler.integrator": integrator, "sampler.grid": "original"})
    )
    configuration.validate(config)
    assert sweep.grid(config) == ("original" if integrator == "euler" else "linear")


def test_tuples_and_whole_numbers_survive_json():
    config = configuration.default()
    with config.unlocked():
        config.data.mean, config.data.std = (0.1, 0.2, 0.3), (1.0, 1.0, 1.0)
        config.optimizer.weight_decay = 0
    again = configuration.from_json(json.loads(config.to_json()))
    assert configuration.differences(config, again) == {}
    assert again.data.mean == (0.1, 0.2, 0.3)
    assert again.is_locked
