"""The methods that a grid compares, each on the trunk, stem and recipe of the config given."""

import copy
from typing import Any, NamedTuple

import ml_collections

from didicm_jax import config as configuration
from didicm_jax.errors import UserError

# With this after its name, a method trains for the operations of `MATCHED[0]` instead of its
# epochs.
EQUAL_COMPUTE = "@compute"


# Stands for `model.conditioned_stages` of a ResNet and `model.conditioned_blocks` of a ViT.
CONDITIONED = "conditioned"


class Method(NamedTuple):
    """What a method changes in a config, and which posteriors it is asked for."""

    title: str
    settings: dict[str, Any]  # dotted keys
    samplers: tuple[dict[str, Any], ...] = ({},)  # settings of `config.sampler`
    # The first sampler is reported; or, of those that cost at most so many passes of the plain
    # network, the one of the least NLL on the held-out examples.
    passes: float | None = None
    plain: bool = False  # a classifier
    matched: bool = True  # on the same trunk and stem


def _cp(steps: int, **others: Any) -> dict[str, Any]:
    return {"name": "cp", "steps": steps} | others


_FEW_STEPS = (_cp(8), _cp(4), _cp(2, integrator="heun"), _cp(1, integrator="exact"))

METHODS = {
    "softmax": Method(
        "softmax", {"method": "cross_entropy", "augment.label_smoothing": 0.0}, plain=True
    ),
    "smoothed": Method(
        "softmax, labels smoothed by 0.1",
        {"method": "cross_entropy", "augment.label_smoothing": 0.1},
        plain=True,
    ),
    # timm's A1 recipe smooths too (arXiv 2110.00476, table 2).
    "binary": Method(
        "one sigmoid a class (A1)",
        {"method": "binary_cross_entropy", "augment.label_smoothing": 0.1},
        plain=True,
    ),
    # What the paper compares with: total stride 32 against the 16 of DiDiRN.
    "unmatched": Method(
        "softmax with the 7x7/2 stem",
        {
            "method": "cross_entropy",
            "augment.label_smoothing": 0.1,
            "model.stem": "imagenet",
        },
        plain=True,
        matched=False,
    ),
    "paper": Method(
        "DiDiCM of the paper: every stage conditioned, ratios, one draw, hard labels",
        {
            "model.parameterization": "ratio",
            "diffusion.stratified": False,
            "augment.label_smoothing": 0.0,
        },
        samplers=(_cp(8), _cp(2)),
    ),
    "late": Method(
        "DiDiCM encoded once: last stage conditioned, bounded ratios, one draw, smoothed labels",
        {
            CONDITIONED: 1,
            "model.parameterization": "bounded",
            "augment.label_smoothing": 0.1,
        },
        samplers=(*_FEW_STEPS, {"name": "one_shot", "time": 0.6}),
        passes=2.0,
    ),
    "head": Method(
        "DiDiCM encoded once: head conditioned, log q_0, 4 draws, denoising cross-entropy",
        {
            CONDITIONED: 0,
            "model.parameterization": "posterior",
            "diffusion.loss": "cross_entropy",
            "diffusion.draws_per_image": 4,
            "augment.label_smoothing": 0.1,
        },
        samplers=(*_FEW_STEPS, {"name": "one_shot", "time": 0.3}),
        passes=2.0,
    ),
}
# The classifiers to beat; the first of them is the measure of compute.
MATCHED = tuple(name for name, method in METHODS.items() if method.plain and method.matched)


def find(name: str) -> Method:
    """The method called `name`, which may end in `@compute`.

    Raises:
      UserError: there is none.
    """
    method = METHODS.get(name.removesuffix(EQUAL_COMPUTE))
    if method is None:
        raise UserError(
            f"--axes: expected methods among {', '.join(METHODS)}, each also with "
            f"{EQUAL_COMPUTE} behind it, found {name!r}; correct it"
        )
    return method


def apply(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """A copy of the config that trains by this method."""
    method = find(name)
    result = copy.deepcopy(config)
    defaults = configuration.default()
    with result.unlocked():
        if method.plain:
            for plain, score in (("resnet", "didirn"), ("vit_", "didivit_")):
                result.model.name = result.model.name.replace(score, plain)
            for key in ("parameterization", "conditioned_stages", "conditioned_blocks"):
                result.model[key] = defaults.model[key]
            result.diffusion, result.sampler = defaults.diffusion, defaults.sampler
        settings = dict(method.settings)
        if CONDITIONED in settings:
            part = "blocks" if "vit" in result.model.name else "stages"
            settings[f"model.conditioned_{part}"] = settings.pop(CONDITIONED)
        result.update_from_flattened_dict(settings)
    return result
