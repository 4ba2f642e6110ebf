import ast
import dataclasses
import importlib
import math
import re
import shlex
from pathlib import Path

import pytest

from didicm_jax import augment
from didicm_jax import config as configuration
from didicm_jax.cli import main, preflight
from didicm_jax.errors import UserError
from didicm_jax.evaluation import report
from didicm_jax.run import RunFolder

ROOT = Path(__file__).parents[2]


def load(name, *arguments):
    return importlib.import_module(name).get_config(*arguments)


def test_no_key_is_dead():
    """Every key is named somewhere in the package outside of the room that declares it."""
    names = set()
    room = ROOT / "didicm_jax" / "config"
    for path in (ROOT / "didicm_jax").rglob("*.py"):
        if room in path.parents and path.name != "build.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.update(node.value.split("."))
    policy = {field.name for field in dataclasses.fields(augment.Policy)}
    for key in configuration.flatten(configuration.default()):
        section, _, name = key.rpartition(".")
        assert name in (policy if section == "augment" else names), key


def test_an_unknown_key_and_a_missing_key_are_errors():
    config = load("digits").unlock()
    config.train.batchsize = 3
    with pytest.raises(UserError, match=r"unknown keys train\.batchsize"):
        configuration.validate(config)
    config = load("digits").unlock()
    del config.sampler["steps"]
    with pytest.raises(UserError, match=r"missing keys sampler\.steps"):
        configuration.validate(config)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("train.batch_size", True, "expected int"),
        ("train.batch_size", 0, "at least 1, found 0"),
        ("optimizer.learning_rate", 0.0, "above 0, found 0.0"),
        ("optimizer.learning_rate", math.nan, "found nan"),
        ("optimizer.learning_rate", math.inf, "found inf"),
        ("method", "svm", "expected one of didicm"),
        ("diffusion.min_time", 1.0, r"in \[0, 1\), found 1.0"),
        ("model.conditioned_stages", 5, "at most 4, found 5"),
        ("data.repeats", 65, "at most the 64 of config.train.batch_size, found 65"),
    ],
)
def test_values_out_of_range_are_named(key, value, found):
    config = load("digits").unlock()
    section, _, name = key.rpartition(".")
    with config.ignore_type():
        (config[section] if section else config)[name] = value
    with pytest.raises(UserError, match=rf"config\.{key}: .*{found}") as error:
        configuration.validate(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 steps", 7),
        ("1 step", 1),
        ("1 epoch", 23),  # 1437 / 64 = 22.45
        ("40 epochs", 899),
        ("0.5 epochs", 12),
        ("1e3 examples", 16),
        ("64 examples", 1),
    ],
)
def test_durations_in_steps(text, expected):
    assert configuration.steps(text, batch_size=64, num_examples=1437) == expected


@pytest.mark.parametrize(
    "text", ["", "7", "0 steps", "7 weeks", "-1 steps", "nan steps", "1 2 steps", "x steps"]
)
def test_what_is_no_duration_is_an_error(text):
    with pytest.raises(UserError, match="expected a number above 0 and a unit"):
        configuration.steps(text, batch_size=64, num_examples=1437)


def test_a_duration_of_0_is_one_where_it_may_be():
    for text in ("0 steps", "0 epochs"):
        assert configuration.steps(text, batch_size=64, num_examples=1437, zero=True) == 0
    with pytest.raises(UserError, match="expected a number of at least 0 and a unit"):
        configuration.steps("-1 steps", batch_size=64, num_examples=1437, zero=True)


@pytest.mark.parametrize("text", ["1e308 epochs", "3e9 steps", "1e30 examples"])
def test_more_steps_than_can_be_counted_are_an_error(text):
    """Infinitely many were an OverflowError."""
    with pytest.raises(UserError, match=r"config\.train\.duration: expected at most 2147483647 st"):
        configuration.steps(text, batch_size=64, num_examples=1437, key="train.duration")


def test_a_config_survives_its_json():
    import json

    config = load("imagenet")
    again = configuration.from_json(json.loads(config.to_json()))
    assert configuration.differences(config, again) == {}
    configuration.validate(again)
    again.unlock()
    again.train.batch_size = 3
    assert configuration.differences(config, again) == {"train.batch_size": (2048, 3)}


def test_the_papers_numbers():
    """DESIGN of the recipes: arXiv 2511.20263, implementation details."""
    strong = load("imagenet", "recipe=strong")
    assert (strong.train.batch_size, strong.optimizer.learning_rate) == (2048, 3.5e-3)
    assert (strong.data.repeats, strong.augment.rand_augment) == (3, "rand-m7-mstd0.5-inc1")
    assert (strong.augment.mixup, strong.augment.cutmix) == (0.2, 1.0)
    assert (strong.augment.switch_prob, strong.augment.label_smoothing) == (0.5, 0.1)
    weak = load("imagenet", "recipe=weak,data_ratio=0.25,resolution=56")
    assert (weak.train.batch_size, weak.optimizer.learning_rate) == (1024, 4e-3)
    assert (weak.augment.color_jitter, weak.augment.rand_augment) == (0.4, "")
    assert (weak.data.resolution, weak.data.data_ratio, weak.data.repeats) == (56, 0.25, 1)
    for config in (strong, weak):
        assert (config.optimizer.name, config.optimizer.weight_decay) == ("lamb", 0.01)
        assert (config.optimizer.warmup, config.optimizer.warmup_learning_rate) == (
            "5 epochs",
            1e-5,
        )
        assert (config.train.duration, config.data.crop_scale) == ("600 epochs", (0.08, 1.0))
        assert (config.data.eval_crop, config.sampler.name, config.sampler.steps) == (
            0.875,
            "cp",
            8,
        )
        assert (config.model.name, config.model.stem, config.augment.flip) == (
            "didirn50",
            "didirn",
            True,
        )


@pytest.mark.parametrize(
    ("recipe", "method"), [("strong", "binary_cross_entropy"), ("weak", "cross_entropy")]
)
def test_the_baseline_shares_all_but_the_objective(recipe, method):
    ours = load("imagenet", f"recipe={recipe}")
    theirs = load("imagenet", f"recipe={recipe},method=classifier")
    assert configuration.differences(ours, theirs) == {
        "method": ("didicm", method),
        "model.name": ("didirn50", "resnet50"),
        "sampler.integrator": ("euler", "exact"),  # the paper's, and what no classifier reads
    }


def test_configs_are_locked():
    with pytest.raises(AttributeError):
        load("digits").batchsize = 3


@pytest.mark.parametrize("integrator", ["exact", "heun"])
def test_a_grid_that_the_integrator_cannot_walk_is_refused(integrator):
    """It was walked as linear, under the name of original."""
    config = load("digits").unlock()
    config.sampler.integrator = integrator
    configuration.validate(config)
    config.sampler.grid = "original"
    with pytest.raises(UserError, match=rf"sampler\.grid: expected auto .*integrator={integrator}"):
        configuration.validate(config)


def test_the_cross_entropy_of_the_clean_label_takes_all_times_and_one_parameterization():
    """It is finite at any of them: see the corners."""
    config = load("digits").unlock()
    config.diffusion.loss, config.diffusion.min_time = "cross_entropy", 0.0
    config.model.parameterization = "posterior"
    configuration.validate(config)
    config.model.parameterization = "bounded"
    with pytest.raises(UserError, match=r"loss: expected .*=posterior, found bounded; change one"):
        configuration.validate(config)


@pytest.mark.parametrize("method", ["didicm", "cross_entropy"])
@pytest.mark.parametrize("integrator", ["euler", "exact"])
def test_the_grid_that_runs_used_to_store_is_the_integrators_own(method, integrator):
    stored = configuration.default().to_dict()
    if method == "cross_entropy":
        stored["model"]["name"] = "resnet18"
    stored["sampler"]["grid"] = "original"
    if method == "didicm":
        stored["sampler"]["integrator"] = integrator
    again = configuration.from_json(stored | {"method": method})
    configuration.validate(again)
    assert again.sampler.grid == "auto"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"method": "cross_entropy", "sampler.steps": 4}, "sampler.steps"),
        ({"method": "cross_entropy", "diffusion.min_time": 0.1}, "diffusion.min_time"),
        ({"diffusion.schedule": "geometric", "diffusion.eps": 0.1}, "diffusion.eps"),
        ({"diffusion.sigma_max": 2.0}, "diffusion.sigma_max"),
        ({"data.crop_scale": (0.5, 1.0)}, "data.crop_scale"),
        ({"sampler.name": "cl", "sampler.tolerance": 0.1}, "sampler.tolerance"),
    ],
)
def test_a_changed_setting_that_nothing_reads_is_an_error(changes, key):
    config = load("digits").unlock()
    for name, value in changes.items():
        config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=rf"config\.{key}: expected its default .* leave it out"):
        configuration.validate(config)


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "configs").glob("*.py"))])
def test_commands_that_are_shown_parse(path, monkeypatch):
    """Every `launch/main.py` line of the README and of the configs' docstrings, as it stands."""
    text = path.read_text().replace("\\\\\n", " ").replace("\\\n", " ")
    commands = re.findall(r"^(?: *|.*&& \S*)python (launch/main\.py .*)$", text, re.MULTILINE)
    assert commands, path
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(RunFolder, "find", stop)
    monkeypatch.setattr(report, "write", stop)
    monkeypatch.setattr(preflight, "run", stop)
    for command in commands:
        with pytest.raises(Parsed):
            main.main(shlex.split(command, comments=True))


class Parsed(Exception):
    """The command line was read, and what it says is valid."""


def stop(*_):
    raise Parsed
