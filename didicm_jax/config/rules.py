"""What settings must be to each other, beside the values that each may have."""

from collections.abc import Mapping
from typing import Any

from didicm_jax.errors import UserError

# The loss is weighted by the growth of the noise: of noise that stands still nothing is left.
_LEAST_GROWTH = 1.01


def check(values: Mapping[str, Any]) -> None:
    """Checks the values of all settings, by dotted key, each of them valid by itself.

    Raises:
      UserError: two do not go together.
    """
    for rule in (_model_of_method, _images, _diffusion, _sampler, _views):
        rule(values)


def _model_of_method(values: Mapping[str, Any]) -> None:
    from didicm_jax import models  # it brings flax

    method, name = values["method"], values["model.name"]
    kind = models.score_models() if method == "didicm" else models.classifiers()
    if name not in kind:
        raise UserError(
            f"config.model.name: expected one of {', '.join(kind)} for method {method}, "
            f"found {name!r}; change one of the two"
        )


def _images(values: Mapping[str, Any]) -> None:
    count, ratio = values["data.train_examples"], values["data.data_ratio"]
    if count and ratio != 1:
        raise UserError(
            f"config.data.data_ratio: expected its default 1.0 with data.train_examples={count}, "
            f"found {ratio}; leave one out"
        )
    repeats, batch = values["data.repeats"], values["train.batch_size"]
    if repeats > batch:
        raise UserError(
            f"config.data.repeats: expected at most the {batch} of config.train.batch_size, found "
            f"{repeats}; lower it"
        )
    mean, std = values["data.mean"], values["data.std"]
    if len(mean) != len(std):
        raise UserError(
            f"config.data.std: expected one number above 0 for each of the {len(mean)} in "
            f"config.data.mean, found {std}; change one"
        )


def _diffusion(values: Mapping[str, Any]) -> None:
    low, high = values["diffusion.sigma_min"], values["diffusion.sigma_max"]
    if high < _LEAST_GROWTH * low:
        raise UserError(
            "config.diffusion.sigma_max: expected sigma_min < sigma_max, by a factor of "
            f"{_LEAST_GROWTH} at least, found {low:g} and {high:g}; change one"
        )
    output = values["model.parameterization"]
    if values["diffusion.loss"] == "cross_entropy" and output != "posterior":
        raise UserError(
            "config.diffusion.loss: expected cross_entropy with model.parameterization=posterior, "
            f"found {output}; change one"
        )


def _sampler(values: Mapping[str, Any]) -> None:
    if values["sampler.name"] != "cp":
        return  # chains walk through either grid
    from didicm_jax import diffusion  # it brings jax

    grid, integrator = values["sampler.grid"], values["sampler.integrator"]
    grids = diffusion.INTEGRATORS[integrator].grids
    if grid not in ("auto", *grids):
        raise UserError(
            f"config.sampler.grid: expected auto or {' or '.join(grids)} with sampler.integrator="
            f"{integrator}, which asks for scores where its steps start, found {grid!r}; leave it "
            "out"
        )


def _views(values: Mapping[str, Any]) -> None:
    if values["augment.shift"] > 0:
        return
    most = 2 if values["augment.flip"] else 1
    if values["sampler.views"] > most:
        raise UserError(
            f"config.sampler.views: expected at most {most} with augment.flip="
            f"{values['augment.flip']} and augment.shift=0, which say how an image may be shown "
            f"again, found {values['sampler.views']}; lower it"
        )
