"""Lists of samplers."""

import pytest

from didicm_jax import config as configuration
from didicm_jax.errors import UserError
from didicm_jax.inference import sweep
from didicm_jax.study import methods


def configured(**changes):
    config = configuration.default()
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            config[section][name] = value
        else:
            config[section] = value
    return config


def test_every_combination_that_is_read():
    choices = {"name": ["cp", "cl", "one_shot"], "steps": [1, 2], "chains": [4, 16]}
    found = sweep.variations(configured(), choices)
    described = [sweep.describe(each) for each in found]
    assert [(d["sampler"], d.get("chains"), d["steps"]) for d in described] == [
        ("cp", None, 1),
        ("cp", None, 2),
        ("cl", 4, 1),
        ("cl", 4, 2),
        ("cl", 16, 1),
        ("cl", 16, 2),
        ("one_shot", None, 1),
    ]


@pytest.mark.parametrize(
    "choices",
    [
        {"steps": [2, 2]},
        {"grid": ["auto", "linear"], "steps": [2]},
        {"name": ["cp", "cp"], "steps": [2]},
    ],
)
def test_what_means_the_same_is_evaluated_once(choices):
    assert len(sweep.variations(configured(), choices)) == 1


def test_the_last_that_is_named_stays_the_last():
    found = sweep.variations(configured(), {"steps": [8, 2, 8]})
    assert [each.sampler.steps for each in found] == [2, 8]


def test_a_diffusion_has_no_more_views_than_steps():
    config = configured(augment__shift=1)
    found = sweep.variations(config, {"steps": [1, 4, 8], "views": [1, 4, 8]})
    assert [sweep.label(each) for each in found] == [
        *("cp exact", "cp exact", "cp exact 4 views"),
        *("cp exact", "cp exact 4 views", "cp exact 8 views"),
    ]
    assert [each.sampler.steps for each in found] == [1, 4, 4, 8, 8, 8]


def test_views_are_for_classifiers_too():
    config = configured(method="cross_entropy", model__name="resnet18", augment__flip=True)
    found = sweep.variations(config, {"views": [1, 2]})
    assert [sweep.label(each) for each in found] == ["softmax", "softmax 2 views"]


def test_temperatures_are_for_all_and_named():
    config = configured(sampler__steps=2)
    found = sweep.variations(config, {"steps": [2], "temperature": [1.0, 1.75]})
    assert [sweep.label(each) for each in found] == ["cp exact", "cp exact temperature 1.75"]
    with pytest.raises(UserError, match=r"config.sampler.temperature: expected a number .*, found"):
        sweep.variations(config, {"temperature": [0.0]})


def test_what_is_not_chosen_stays_as_the_run_says():
    config = configured(sampler__integrator="heun", sampler__min_time=1e-3)
    (found,) = sweep.variations(config, {"steps": [3]})
    assert (found.sampler.integrator, found.sampler.min_time, found.sampler.steps) == (
        "heun",
        1e-3,
        3,
    )
    assert config.sampler.steps == 8
    assert sweep.variations(config, {}) == [config]


def test_another_sampler_forgets_what_it_does_not_read():
    config = configured(sampler__tolerance=0.1, sampler__grid="linear")
    (found,) = sweep.variations(config, {"name": ["one_shot"]})
    assert sweep.describe(found) == {
        "sampler": "one_shot",
        "steps": 1,
        "time": 0.6,
        "views": 1,
        "temperature": 1.0,
    }


def test_another_integrator_leaves_a_grid_that_it_cannot_walk():
    """Who names the integrator alone cannot leave out the grid that the run was given."""
    config = configured(sampler__integrator="euler", sampler__grid="original")
    found = sweep.variations(config, {"integrator": ["euler", "exact"]})
    assert [sweep.grid(each) for each in found] == ["original", "linear"]
    (linear,) = sweep.variations(
        configured(sampler__integrator="exact", sampler__grid="linear"), {"integrator": ["euler"]}
    )
    assert sweep.grid(linear) == "linear"
    with pytest.raises(UserError, match=r"config.sampler.grid: .* found 'original'; leave it out"):
        sweep.changed(config, {"integrator": "exact", "grid": "original"})


@pytest.mark.parametrize(
    ("changes", "choices", "message"),
    [
        ({}, {"chains": [2]}, "^chains: expected .* reads chains, found cp; .*, such as cl$"),
        (
            {"sampler__name": "one_shot"},
            {"steps": [2]},
            "^steps: expected a sampler that reads steps, found one_shot; leave steps out or name "
            "one that reads it, such as cp$",
        ),
        ({}, {"name": ["ddim"]}, r"config.sampler.name: expected one of cp, cl, one_shot"),
        ({}, {"steps": [0]}, r"config.sampler.steps: expected a number at least 1, found 0"),
        ({}, {"integrator": ["rk4"]}, "expected one of euler, exact, heun"),
        # Left out as another integrator's, they left nothing to evaluate.
        (
            {},
            {"integrator": ["exact"], "grid": ["original", "original"]},
            "config.sampler.grid: expected auto or linear with sampler.integrator=exact",
        ),
        ({"method": "cross_entropy"}, {"steps": [2]}, "^steps: expected a run of method didicm"),
        (
            {"method": "cross_entropy", "model__name": "resnet18"},
            {"views": [2]},
            "^config.sampler.views: expected at most 1 with augment.flip=False .*; lower it",
        ),
        ({"augment__flip": True}, {"views": [2, 3]}, "views: expected at most 2 .*, found 3"),
    ],
)
def test_mistakes_are_one_line(changes, choices, message):
    with pytest.raises(UserError, match=message) as error:
        sweep.variations(configured(**changes), choices)
    assert "\n" not in str(error.value)


def test_the_paper_s_sampler_has_a_name():
    config = configured(sampler__tolerance=0.1, sampler__query="max", sampler__steps=3)
    own, paper = sweep.variations(config, {"name": ["cp", "paper"]})
    assert sweep.describe(own)["integrator"] == "exact"
    assert sweep.describe(paper) == {
        "sampler": "cp",
        "steps": 8,
        "integrator": "euler",
        "query": "min",
        "grid": "original",
        "tolerance": 0.0,
        "min_time": 1e-5,
        "views": 1,
        "temperature": 1.0,
    }
    few = sweep.variations(config, {"name": ["paper"], "steps": [2, 4]})
    assert [(each.sampler.integrator, each.sampler.steps) for each in few] == [
        ("euler", 2),
        ("euler", 4),
    ]


def test_labels_tell_samplers_apart():
    grids = ["original", "linear"]
    choices = {"name": ["cp", "cl"], "integrator": ["euler", "heun"], "grid": grids}
    found = [sweep.label(each) for each in sweep.variations(configured(), choices)]
    assert found == [
        "cp euler",
        "cp euler grid linear",
        "cp heun",
        "cl 10 chains",
        "cl grid linear 10 chains",
    ]
    assert sweep.label(configured(method="cross_entropy")) == "softmax"


def test_labels_tell_where_a_diffusion_stops():
    config = configured(sampler__integrator="euler", sampler__min_time=1e-3, sampler__tolerance=0.1)
    found = [sweep.label(each) for each in sweep.variations(config, {"name": ["cp", "paper"]})]
    assert found == ["cp euler tolerance 0.1 min_time 0.001", "cp euler"]


def test_the_samplers_of_studies_are_called_as_in_their_records():
    """Records tell samplers apart by label and steps."""
    samplers = {
        sweep.label(sweep.changed(configured(), each))
        for method in methods.METHODS.values()
        for each in method.samplers
    }
    assert samplers == {
        *("cp euler", "cp exact", "cp heun", "cl 16 chains"),
        *("one_shot at 0.3", "one_shot at 0.6"),
    }
