"""The methods that a study compares, each on the trunk, stem and recipe of the config given.

A method sets all that its title says; whatever else the config holds, all methods share. But that
labels are wrong at random (`diffusion.label_noise`) only those assume that are told so: as many as
the config says, or, where it does not, as `data.label_noise` makes wrong.
"""

import copy
from typing import Any, NamedTuple

import ml_collections

from didicm_jax import config as configuration
from didicm_jax import models
from didicm_jax.errors import UserError
from didicm_jax.inference import sweep

# With this after its name, a method trains for the operations of `MATCHED[0]` instead of its
# epochs.
EQUAL_COMPUTE = "@compute"


class _Family(NamedTuple):
    """Networks on one kind of trunk."""

    plain: str  # how the names of its classifiers begin
    score: str  # and of its score models
    conditioned: str  # key of `config.model`: how much of a score model sees label and noise


_FAMILIES = (
    _Family("resnet", "didirn", "conditioned_stages"),
    _Family("vit_", "didivit_", "conditioned_blocks"),
)


class Method(NamedTuple):
    """What a method changes in a config, and which posteriors it is asked for."""

    title: str  # its claims, with commas between them
    settings: dict[str, Any]  # dotted keys
    # Settings of `config.sampler`, of a score model; a classifier has one posterior and no sampler.
    samplers: tuple[dict[str, Any], ...] = ()
    # Stages of a ResNet or blocks of a ViT, from the end, that see label and noise; None: all.
    conditioned: int | None = None
    # The first sampler is reported; or, of those that cost at most so many passes of the plain
    # network, the one of the least NLL on the held-out examples.
    passes: float | None = None
    told: bool = False  # what share of the labels is drawn anew at random
    # Whether its stem is not that of the config, but the one of twice the total stride.
    coarser: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is a classifier."""
        return not self.samplers

    @property
    def matched(self) -> bool:
        """Whether it stands on the same trunk and stem as the others."""
        return not self.coarser


def _cp(steps: int, integrator: str = "euler", **others: Any) -> dict[str, Any]:
    """Class probabilities, all steps of them; `original` are times that Euler alone reads."""
    chosen = {"name": "cp", "steps": steps, "integrator": integrator, "grid": "auto"}
    return chosen | {"tolerance": 0.0} | others


_FEW_STEPS = (
    *(_cp(8), _cp(4), _cp(2, "heun")),
    *(_cp(steps, "exact") for steps in (1, 2, 4, 8)),
)
# The first is the paper's; the others are all that it tries, and the same by exact steps.
_OF_THE_PAPER = (
    *(_cp(steps, query="min") for steps in (8, 2, 4, 16)),
    *(_cp(steps, "exact", query="min") for steps in (8, 2, 4, 16)),
    {"name": "cl", "steps": 2, "chains": 16, "grid": "auto"},
)

_INIT = "model.init"  # which a ViT, for want of an original, does not have
_SMOOTHED = {"augment.label_smoothing": 0.1}
# A mixed label is a soft one, and without mixing nobody reads what switches between its two kinds.
_HARD = {
    "augment.label_smoothing": 0.0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
    "augment.switch_prob": configuration.default().augment.switch_prob,
}


def _didicm(parameterization: str, loss: str, draws: int, *, stratified: bool) -> dict[str, Any]:
    return {
        "method": "didicm",
        "model.parameterization": parameterization,
        "diffusion.loss": loss,
        "diffusion.draws_per_image": draws,
        "diffusion.stratified": stratified,
    }


# Times and weights as the original's script leaves them: the range of times that is sampled is
# trained, and PyTorch initialises.
_PAPER = _didicm("ratio", "score_entropy", 1, stratified=False) | {
    "diffusion.min_time": 1e-5,
    _INIT: "torch",
}
_PAPER_TITLE = (
    "DiDiCM of the paper, every stage or block conditioned, ratios, score entropy, one draw, "
    "independent times down to 1e-5, first weights of a ResNet from PyTorch, {}, "
    "8 Euler steps or others"
)

_METHODS = {
    "softmax": Method("softmax, hard labels", {"method": "cross_entropy"} | _HARD),
    "smoothed": Method("softmax, labels smoothed by 0.1", {"method": "cross_entropy"} | _SMOOTHED),
    # timm's A1 recipe smooths too (arXiv 2110.00476, table 2).
    "binary": Method(
        "one sigmoid a class (A1), labels smoothed by 0.1",
        {"method": "binary_cross_entropy"} | _SMOOTHED,
    ),
    # What the paper compares with: total stride 32 against the 16 of DiDiRN. timm smooths labels by
    # default; the weak recipe is also read without.
    "unmatched": Method(
        "softmax, labels smoothed by 0.1, ResNet with a stem of twice the total stride",
        {"method": "cross_entropy"} | _SMOOTHED,
        coarser=True,
    ),
    "unmatched_weak": Method(
        "softmax, hard labels, ResNet with a stem of twice the total stride",
        {"method": "cross_entropy"} | _HARD,
        coarser=True,
    ),
    "paper": Method(_PAPER_TITLE.format("hard labels"), _PAPER | _HARD, _OF_THE_PAPER),
    "paper_smoothed": Method(
        _PAPER_TITLE.format("labels smoothed by 0.1"), _PAPER | _SMOOTHED, _OF_THE_PAPER
    ),
    "late": Method(
        "DiDiCM encoded once, last stage or block conditioned, bounded ratios, score entropy, "
        "one draw, stratified times, labels smoothed by 0.1, few steps or one shot",
        _didicm("bounded", "score_entropy", 1, stratified=True) | _SMOOTHED,
        samplers=(*_FEW_STEPS, {"name": "one_shot", "time": 0.6}),
        conditioned=1,
        passes=2.0,
    ),
    "head": Method(
        "DiDiCM encoded once, head alone conditioned, log q_0, denoising cross-entropy, "
        "4 draws, stratified times, labels smoothed by 0.1, few steps or one shot",
        _didicm("posterior", "cross_entropy", 4, stratified=True) | _SMOOTHED,
        samplers=(*_FEW_STEPS, {"name": "one_shot", "time": 0.3}),
        conditioned=0,
        passes=2.0,
    ),
}


def _told(name: str) -> Method:
    method = _METHODS[name]
    return method._replace(title=f"{method.title}, told the label noise", told=True)


METHODS = _METHODS | {
    "corrected": _told("softmax"),  # the forward correction of Patrini et al. (arXiv 1609.03683)
    "late-corrected": _told("late"),
    "head-corrected": _told("head"),
}
# The classifiers to beat; the first of them is the measure of compute.
MATCHED = tuple(name for name, each in METHODS.items() if each.plain and each.matched)
# The paper's own baselines, whose maps are half as large a side as its networks'.
UNMATCHED = tuple(name for name, each in METHODS.items() if each.plain and not each.matched)


def find(name: str) -> Method:
    """The method called `name`, which may end in `@compute`.

    Raises:
      UserError: there is none.
    """
    method = METHODS.get(name.removesuffix(EQUAL_COMPUTE))
    if method is None:
        raise UserError(
            f"axes: expected methods among {', '.join(METHODS)}, each also with "
            f"{EQUAL_COMPUTE} behind it, found {name!r}; correct it"
        )
    return method


def apply(config: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """A copy of the config that trains by this method and is evaluated by its first sampler.

    Raises:
      UserError: there is no such method, it is none for this network, or the result is not valid.
    """
    method, result = find(name), copy.deepcopy(config)
    family, model = _on_the_trunk(config.model.name, plain=method.plain)
    defaults = configuration.default()
    with result.unlocked():
        result.model.name = model
        cleared = ["conditioned_stages", "conditioned_blocks"]
        if method.plain or method.conditioned == 0:  # there is no GroupNorm
            cleared.append("group_elements")
        if method.plain:
            cleared += ["parameterization", "init"]
            result.diffusion, result.sampler = defaults.diffusion, defaults.sampler
            for key in configuration.sampler_reads(method.settings["method"], ""):
                result.sampler[key] = config.sampler[key]
        for key in cleared:
            result.model[key] = defaults.model[key]  # of the conditioned parts: all
        if method.conditioned is not None:
            result.model[family.conditioned] = method.conditioned
        if method.coarser:
            result.model.stem = _coarser(config, name)
        left_out = {_INIT} if "init" not in models.options_of(model) else set()
        result.update_from_flattened_dict(
            {key: value for key, value in method.settings.items() if key not in left_out}
        )
        noise = config.diffusion.label_noise or config.data.label_noise
        result.diffusion.label_noise = noise if method.told else 0.0
    if method.samplers:
        return sweep.changed(result, method.samplers[0])
    configuration.validate(result)
    return result


def _coarser(config: ml_collections.ConfigDict, name: str) -> str:
    """The stem of twice the total stride of the config's."""
    if "stem" not in models.options_of(config.model.name):
        raise UserError(
            f"method {name}: expected a ResNet, found {config.model.name}, which has no stem; "
            "leave the method out"
        )
    stems = {stem.total_stride: key for key, stem in models.STEMS.items()}
    own = models.STEMS[config.model.stem].total_stride
    if 2 * own not in stems:
        raise UserError(
            f"method {name}: expected a stem with one of twice its total stride, found "
            f"{config.model.stem}, whose {own} is the largest; use another or leave the method out"
        )
    return stems[2 * own]


def _on_the_trunk(name: str, *, plain: bool) -> tuple[_Family, str]:
    """The family of a network, and its classifier or score model of the same size."""
    for family in _FAMILIES:
        for prefix in (family.plain, family.score):
            if name.startswith(prefix):
                chosen = family.plain if plain else family.score
                return family, chosen + name.removeprefix(prefix)
    raise UserError(
        f"config.model.name: expected one of {', '.join(models.names())}, found {name!r}; "
        "choose one"
    )
