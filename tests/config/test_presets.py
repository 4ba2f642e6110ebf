"""The files of `configs/` and the recipes behind them, with every option that they document."""

import ast
import importlib
import itertools
import re
from pathlib import Path

import pytest

from didicm_jax import config as configuration
from didicm_jax.config import presets
from didicm_jax.errors import UserError
from didicm_jax.run import bundle
from didicm_jax.study import methods

ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))

# Of every option that a docstring names, values to combine.
OPTIONS = {
    "digits": [{}],
    "fashion_mnist": [{}],
    "cifar": [{"classes": ("10", "100"), "recipe": ("usual", "replication")}],
    "recommended": [
        {
            "name": ("cifar10", "birds"),
            "images": ("few", "many"),
            "method": ("didicm", "classifier"),
            "resolution": ("32", "8", "224"),
        }
    ],
    "imagenet": [
        {
            "recipe": ("strong", "weak"),
            "method": ("didicm", "classifier"),
            "model": ("didirn50", "didirn18", "didirn152"),
            "resolution": ("224", "56"),
            "data_ratio": ("1.0", "0.25"),
        },
        {"smoke": (None,)},
    ],
    "imagenet_vit": [
        {
            "method": ("didicm",),
            "model": ("didivit_s16", "didivit_ti16", "didivit_b16"),
            "resolution": ("224", "64"),
            "conditioned_blocks": ("2", "0"),
            "draws": ("8", "1"),
        },
        {
            "method": ("classifier",),
            "model": ("didivit_s16", "didivit_ti16", "didivit_b16"),
            "resolution": ("224", "64"),
        },
    ],
}


def docstring(name):
    return ast.get_docstring(ast.parse((ROOT / "configs" / f"{name}.py").read_text()))


def combinations():
    for name, tables in OPTIONS.items():
        yield name, ""
        for table in tables:
            for values in itertools.product(*table.values()):
                pairs = zip(table, values, strict=True)
                yield name, ",".join(k if v is None else f"{k}={v}" for k, v in pairs)


def test_every_file_and_every_documented_option_is_looked_at():
    assert sorted(OPTIONS) == FILES
    for name in FILES:
        # In its commands and in its list of options: `key=value` that is no flag.
        documented = set(re.findall(r"(?<![-\w.])([a-z_]+)=\w", docstring(name)))
        assert documented == {key for t in OPTIONS[name] for key in t} - {"smoke"}, name


@pytest.mark.parametrize(("name", "options"), sorted(set(combinations())))
def test_every_combination_of_documented_options_is_valid(name, options):
    module = importlib.import_module(name)
    config = module.get_config(options) if options else module.get_config()
    configuration.validate(config)
    with pytest.raises(AttributeError):
        config.batchsize = 3


@pytest.mark.parametrize("name", FILES)
def test_a_config_opens_with_its_command(name):
    text = docstring(name)
    assert "python launch/main.py" in text
    assert f"configs/{name}.py" in text


def test_the_two_cifars_differ_in_their_images_alone():
    get_config = importlib.import_module("cifar").get_config
    ten, hundred = get_config(), get_config("classes=100")
    assert configuration.differences(ten, hundred).keys() == {"data.name", "data.mean", "data.std"}
    assert (ten.data.name, hundred.data.name) == ("cifar10", "cifar100")


def test_few_images_are_recommended_the_form_that_was_measured():
    """The cells of the replication on 8 pixels, but for width, lengths, sampler and bookkeeping."""
    cifar = importlib.import_module("cifar").get_config("recipe=replication")
    cifar.data.resolution, cifar.model.stem, cifar.augment.shift = 8, "fine", 1
    for method, name in (("didicm", "paper_smoothed"), ("classifier", "smoothed")):
        measured = methods.apply(cifar, name)
        ours = presets.recommended(f"images=few,method={method},resolution=8")
        found = configuration.differences(ours, measured).keys()
        assert {key for key in found if key.split(".")[0] not in ("data", "evaluation")} == {
            *("model.width", "sampler.views", "train.duration", "train.log_every"),
            *("train.checkpoint_every", "optimizer.warmup"),
        } | ({"sampler.integrator"} if method == "didicm" else set())


def test_many_images_are_recommended_the_recipe_of_the_package_s_network():
    bundled = bundle.find("cifar10").config
    ours = presets.recommended("images=many")
    found = configuration.differences(ours, bundled).keys()
    assert {key for key in found if key.split(".")[0] not in ("data", "evaluation")} == {
        *("model.width", "train.log_every", "train.checkpoint_every"),
    }


def test_recipes_are_in_the_package_and_not_only_in_configs():
    """An installed wheel has no `configs/`."""
    get_config = importlib.import_module("imagenet").get_config
    options = "recipe=weak,method=classifier"
    assert presets.imagenet(options) == get_config(options)
    source = (ROOT / "didicm_jax" / "cli" / "convert.py").read_text()
    assert '"configs"' not in source


@pytest.mark.parametrize(
    "options",
    [
        "recipe=medium",
        "method=svm",
        "resolution=big",
        "resolution=-1",
        "resolution=1.5",
        "data_ratio=0",
        "data_ratio=nan",
        "foo=1",
        "strong",
        "smoke,recipe=weak",
        "recipe=weak,recipe=strong",
        "recipe=",
    ],
)
def test_bad_options_are_named(options):
    with pytest.raises(UserError, match=r"configs/imagenet\.py: expected .* found .*; ") as error:
        presets.imagenet(options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", ["method=svm", "draws=many", "foo=1", "didivit_s16"])
def test_bad_options_of_the_vit_recipe_are_named(options):
    with pytest.raises(UserError, match=r"configs/imagenet_vit\.py: expected .* found .*; "):
        presets.imagenet_vit(options)


@pytest.mark.parametrize("option", ["draws=8", "conditioned_blocks=3"])
def test_an_option_that_the_method_does_not_read_is_refused(option):
    with pytest.raises(UserError, match=f"expected {option.partition('=')[0]} to be left out"):
        presets.imagenet_vit(f"method=classifier,{option}")
