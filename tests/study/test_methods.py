"""A method does what its title says, whatever the config that it is applied to holds."""

import importlib
from pathlib import Path

import pytest

from didicm_jax import config as configuration
from didicm_jax import models
from didicm_jax.errors import UserError
from didicm_jax.study import axes, methods

CONFIGS = Path(__file__).parents[2] / "configs"
OPTIONS = {
    "imagenet": (
        "",
        "recipe=weak",
        "method=classifier",
        "recipe=weak,method=classifier",
        "resolution=56,data_ratio=0.25",
        "smoke",
    ),
    "imagenet_vit": ("", "conditioned_blocks=0,draws=1", "method=classifier", "model=didivit_b16"),
}


def bases():
    found = []
    for path in sorted(CONFIGS.glob("*.py")):
        for options in OPTIONS.get(path.stem, ("",)):
            found.append(pytest.param(path.stem, options, id=f"{path.stem}:{options}"))
    return found


def make(name, options):
    module = importlib.import_module(name)
    return module.get_config(options) if options else module.get_config()


def conditioned(config):
    """What of the network sees label and noise, and whether the key of the others is untouched."""
    vit = "vit" in config.model.name
    own, other = ("blocks", "stages") if vit else ("stages", "blocks")
    assert config.model[f"conditioned_{other}"] == {"blocks": -1, "stages": 4}[other]
    found = config.model[f"conditioned_{own}"]
    return "every" if found == {"blocks": -1, "stages": 4}[own] else found


def is_score_model(config):
    return config.method == "didicm" and config.model.name in models.score_models()


def is_softmax(config):
    return config.method == "cross_entropy" and config.model.name in models.classifiers()


def first_sampler(config):
    keys = ("name", "steps", "integrator", "grid", "tolerance")
    return tuple(config.sampler[key] for key in keys)


# Every claim that a title may make, and where it is kept. "Soft" labels may also be mixed, by the
# recipe that all share; hard ones may not.
CLAIMS = {
    "softmax": is_softmax,
    "one sigmoid a class (A1)": lambda c: (
        c.method == "binary_cross_entropy" and c.model.name in models.classifiers()
    ),
    "hard labels": lambda c: c.augment.label_smoothing == c.augment.mixup == c.augment.cutmix == 0,
    "labels smoothed by 0.1": lambda c: c.augment.label_smoothing == 0.1,
    "ResNet with a stem of twice the total stride": lambda c: c.model.name.startswith("resnet"),
    "DiDiCM of the paper": lambda c: is_score_model(c) and c.sampler.query == "min",
    "DiDiCM encoded once": is_score_model,
    "every stage or block conditioned": lambda c: conditioned(c) == "every",
    "last stage or block conditioned": lambda c: conditioned(c) == 1,
    "head alone conditioned": lambda c: conditioned(c) == 0,
    "ratios": lambda c: c.model.parameterization == "ratio",
    "bounded ratios": lambda c: c.model.parameterization == "bounded",
    "log q_0": lambda c: c.model.parameterization == "posterior",
    "score entropy": lambda c: c.diffusion.loss == "score_entropy",
    "denoising cross-entropy": lambda c: c.diffusion.loss == "cross_entropy",
    "one draw": lambda c: c.diffusion.draws_per_image == 1,
    "4 draws": lambda c: c.diffusion.draws_per_image == 4,
    "independent times down to 1e-5": lambda c: (
        not c.diffusion.stratified and c.diffusion.min_time == c.sampler.min_time == 1e-5
    ),
    "first weights of a ResNet from PyTorch": lambda c: (
        c.model.init == ("torch" if c.model.name.startswith("didirn") else "zero")
    ),
    "stratified times": lambda c: c.diffusion.stratified,
    "told the label noise": lambda c: c.diffusion.label_noise == c.data.label_noise == 0.3,
    "8 Euler steps or others": lambda c: first_sampler(c) == ("cp", 8, "euler", "auto", 0.0),
    "few steps or one shot": lambda c: first_sampler(c) == ("cp", 8, "euler", "auto", 0.0),
}
# What some method claims, or sets so that a claim is whole: nothing else may differ.
CLAIMED = (
    "method",
    "model.name",
    "model.stem",
    "model.parameterization",
    "model.init",
    "model.conditioned_stages",
    "model.conditioned_blocks",
    "augment.label_smoothing",
    "augment.mixup",
    "augment.cutmix",
    "augment.switch_prob",
    "diffusion.",
    "sampler.",
)


@pytest.mark.parametrize(("name", "options"), bases())
def test_every_claim_of_a_title_holds_on_every_config(name, options):
    base = make(name, options)
    base.data.label_noise = 0.3
    for method, described in methods.METHODS.items():
        if not described.matched and "vit" in base.model.name:
            continue
        config = methods.apply(base, method)
        configuration.validate(config)
        for claim in described.title.split(", "):
            assert CLAIMS[claim](config), (method, claim)
        changed = configuration.differences(config, base)
        assert [key for key in changed if not key.startswith(CLAIMED)] == []
        # A title speaks of labels in every case, and of all that makes a score model.
        assert sum("labels" in claim for claim in described.title.split(", ")) == 1


@pytest.mark.parametrize(("name", "options"), bases())
def test_what_no_title_claims_all_methods_share(name, options):
    base = make(name, options)
    if base.method == "didicm":
        base.diffusion.min_time = 2e-3
        base.sampler.min_time = 3e-5
        if "vit" not in base.model.name:
            base.model.group_elements = 32
    base.optimizer.learning_rate = 0.125
    for method, described in methods.METHODS.items():
        if described.matched:
            config = methods.apply(base, method)
            assert config.model.stem == base.model.stem
            assert config.model.dtype == base.model.dtype
            assert config.optimizer == base.optimizer
            if not described.plain:
                if "1e-5" not in described.title:
                    assert config.diffusion.min_time == base.diffusion.min_time
                assert config.sampler.min_time == base.sampler.min_time
                if described.conditioned != 0:  # else there is no group
                    assert config.model.group_elements == base.model.group_elements


@pytest.mark.parametrize(
    ("stem", "coarser"), [("fine", "small"), ("small", "didirn"), ("didirn", "imagenet")]
)
def test_the_papers_baseline_has_maps_of_half_the_size(stem, coarser):
    """As the 7x7/2 stem of the paper's has beside the stem of its DiDiRN: 32 against 16."""
    base = make("digits", "")
    base.model.stem = stem
    for method in methods.UNMATCHED:
        assert methods.apply(base, method).model.stem == coarser
        for matched in methods.MATCHED:
            assert methods.apply(base, matched).model.stem == stem


def test_no_stem_is_coarser_than_the_coarsest():
    base = make("digits", "")
    base.model.stem = "imagenet"
    with pytest.raises(UserError, match=r"^method unmatched: .* found imagenet, whose 32") as error:
        methods.apply(base, "unmatched")
    assert "\n" not in str(error.value)


def test_the_paper_is_asked_for_as_many_steps_by_both_integrators():
    for method in ("paper", "paper_smoothed"):
        samplers = methods.METHODS[method].samplers
        for integrator in ("euler", "exact"):
            steps = {each["steps"] for each in samplers if each.get("integrator") == integrator}
            assert steps == {2, 4, 8, 16}
        chains = [each for each in samplers if each["name"] == "cl"]
        assert [(each["steps"], each["chains"]) for each in chains] == [(2, 16)]


def test_only_methods_that_are_told_assume_label_noise_and_all_train_on_it():
    text = "data.label_noise=0,0.4;method=softmax,corrected,late,late-corrected,head-corrected"
    found = {
        (cell.values["method"], cell.config.data.label_noise): cell.config.diffusion.label_noise
        for cell in axes.cells(make("digits", ""), axes.parse(text), 5)
    }
    assert found == {
        ("softmax", 0.0): 0.0,
        ("late", 0.0): 0.0,  # without noise those that are told of it are the same runs
        ("softmax", 0.4): 0.0,
        ("late", 0.4): 0.0,
        ("corrected", 0.4): 0.4,
        ("late-corrected", 0.4): 0.4,
        ("head-corrected", 0.4): 0.4,
    }


def test_an_axis_over_the_assumed_share_is_what_methods_are_told():
    text = "data.label_noise=0.4;diffusion.label_noise=0.2,0.4;method=corrected,head-corrected"
    found = axes.cells(make("digits", ""), axes.parse(text), 5)
    assert [cell.config.diffusion.label_noise for cell in found] == [0.2, 0.2, 0.4, 0.4]
    assert {cell.config.data.label_noise for cell in found} == {0.4}
    assert {cell.plain.diffusion.label_noise for cell in found} == {0.0}


def test_methods_that_are_told_of_no_noise_are_refused_in_one_line():
    with pytest.raises(UserError, match="label noise for methods that are told it, found none"):
        axes.cells(make("digits", ""), axes.parse("method=corrected"), 5)


def test_a_vit_has_no_stem_to_be_unmatched():
    with pytest.raises(UserError, match=r"^method unmatched: expected a ResNet") as error:
        methods.apply(make("imagenet_vit", ""), "unmatched")
    assert "\n" not in str(error.value)


def test_samplers_say_all_that_they_are_told_apart_by():
    """Nothing of the sampler of the config, such as another integrator, is left in them."""
    for described in methods.METHODS.values():
        for sampler in described.samplers:
            wanted = {
                "one_shot": {"time"},
                "cp": {"steps", "integrator", "grid", "tolerance"},
                "cl": {"steps", "grid", "chains"},
            }
            assert wanted[sampler["name"]] <= sampler.keys()
            # The times that the integrator walks, and not those of the config.
            assert sampler.get("grid", "auto") == "auto"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("method=softmax,smoothed;label_smoothing=0.05", "label_smoothing=0.05, which the method"),
        ("method=paper,late;draws_per_image=1,2", "draws_per_image=2, which the method paper sets"),
        ("method=late;sampler.steps=2,4", "sampler.steps=2, which the method late sets to 8"),
        ("method=softmax;diffusion.min_time=0.01", "the method softmax sets to 0.001"),
        ("method=late;diffusion.label_noise=0.2", "label_noise=0.2, which the method late sets"),
        ("method=softmax;eval_split=test", "data.eval_split=test, which the study sets"),
        ("eval_split=test", "data.eval_split=test, which the study sets"),
    ],
)
def test_an_axis_over_what_a_method_sets_is_refused(text, found):
    with pytest.raises(
        UserError, match=r"^axes: expected axes over what its methods leave"
    ) as error:
        axes.cells(make("digits", ""), axes.parse(text), 5)
    assert found in str(error.value)
    assert "\n" not in str(error.value)


def test_an_axis_of_networks_goes_with_the_methods():
    text = "method=softmax,late;model.name=didirn18,didirn34"
    found = axes.cells(make("digits", ""), axes.parse(text), 5)
    assert [cell.config.model.name for cell in found] == [
        *("resnet18", "resnet34"),
        *("didirn18", "didirn34"),
    ]
