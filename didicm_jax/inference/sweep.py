"""What a config says of its sampler, and which configs a list of choices stands for."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import ml_collections

from didicm_jax import config as configuration
from didicm_jax import diffusion
from didicm_jax.config import presets
from didicm_jax.errors import UserError

# Samplers that have a name of their own.
NAMED: dict[str, dict[str, Any]] = {"paper": presets.PAPER_SAMPLER}


def variations(
    config: ml_collections.ConfigDict, choices: Mapping[str, Sequence[Any]]
) -> list[ml_collections.ConfigDict]:
    """One config for each combination of the choices, leaving out what its sampler does not read.

    Combinations that mean the same, such as the grids `auto` and `original` of Euler, are one, in
    the place of the last of them.

    Args:
      config: of the run; what is not chosen stays as it says.
      choices: values for `name` and `configuration.SAMPLER_CHOICES`, or for some of them; the last
        varies fastest. A name may also be one of `NAMED`, whose settings hold where none are
        chosen.

    Raises:
      UserError: a choice that no sampler here reads, or a value that is not valid.
    """
    if not choices:
        return [config]
    names = choices.get("name", [config.sampler.name])
    if config.method != "didicm":
        unread = [key for key in choices if key not in _reads(config.method, {})]
        if unread:
            raise UserError(
                f"expected a run of method didicm, found {config.method}, which has no sampler; "
                "leave it out",
                about=_name(unread[0]),
            )
    bases = [NAMED.get(name, {"name": name}) for name in names]
    for key in choices:
        if key != "name" and not any(key in _reads(config.method, base) for base in bases):
            suited = "cp" if key in _reads(config.method, {"name": "cp"}) else "cl"
            raise UserError(
                f"expected a sampler that reads {key}, found {', '.join(map(str, names))}; leave "
                f"{key} out or name one that reads it, such as {suited}",
                about=key,
            )
    result: dict[tuple[tuple[str, object], ...], ml_collections.ConfigDict] = {}
    for base in bases:
        read = _reads(config.method, base)
        reads = [key for key in configuration.SAMPLER_CHOICES if key in choices and key in read]
        for values in itertools.product(*(choices[key] for key in reads)):
            chosen = base | dict(zip(reads, values, strict=True))
            if len(set(choices.get("grid", ()))) > 1 and not _walks(config, chosen):
                continue  # another of the grids is for this integrator
            found = changed(config, chosen)
            meaning = tuple(describe(found).items())
            result.pop(meaning, None)
            result[meaning] = found
    return list(result.values())


def describe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What `sampling.create` will do, for reports: the sampler and the settings that it reads."""
    settings = {key: config.sampler[key] for key in _reads(config.method, config.sampler)}
    settings["views"] = views(config)
    if "grid" in settings:
        settings["grid"] = grid(config)
    plain = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}
    return {"sampler": plain.get(config.method, config.sampler.name), "steps": 1} | settings


def has_trajectory(config: ml_collections.ConfigDict) -> bool:
    """Whether the sampler of `config` diffuses probabilities, so that there is a way to show."""
    return describe(config)["sampler"] == "cp"


def views(config: ml_collections.ConfigDict) -> int:
    """How many views of each image are asked about: a diffusion asks about one a step."""
    settings = config.sampler
    steps = "steps" in _reads(config.method, settings)
    return min(settings.views, settings.steps) if steps else settings.views


def grid(config: ml_collections.ConfigDict) -> diffusion.Grid:
    """The times that the sampler of `config.sampler` walks through, by name."""
    return own_grid(config) if config.sampler.grid == "auto" else config.sampler.grid


def own_grid(config: ml_collections.ConfigDict) -> diffusion.Grid:
    """The grid of the sampler of `config.sampler` where it is told none."""
    settings = config.sampler
    integrator = settings.integrator if settings.name == "cp" else "euler"
    return diffusion.INTEGRATORS[integrator].grids[0]


def label(config: ml_collections.ConfigDict) -> str:
    """A short name of the sampler without its steps, for tables and legends."""
    described = describe(config)
    words = [described[key] for key in ("sampler", "integrator") if key in described]
    defaults = configuration.default().sampler
    usual = {"grid": own_grid(config)}
    usual |= {key: defaults[key] for key in ("query", "tolerance", "min_time")}
    for key, value in usual.items():
        if described.get(key, value) != value:
            words.append(f"{key} {described[key]}")
    if described["sampler"] == "one_shot":
        words.append(f"at {described['time']:g}")
    if "chains" in described:
        words.append(f"{described['chains']} chains")
    if described["views"] != 1:
        words.append(f"{described['views']} views")
    if described["temperature"] != 1:
        words.append(f"temperature {described['temperature']:g}")
    return " ".join(words)


def changed(
    config: ml_collections.ConfigDict, values: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """A copy of the config with another sampler.

    Args:
      config: of the run.
      values: of `config.sampler`; what its sampler does not read, or cannot walk, has its default.

    Raises:
      UserError: a value that is not valid.
    """
    result = copy.deepcopy(config)
    defaults = configuration.default().sampler
    name = values.get("name", config.sampler.name)
    with result.unlocked(), result.ignore_type():  # `validate` says it better
        # What the run's sampler was told and this one does not read goes back to its default.
        for key in set(defaults) - {"name"} - set(_reads(config.method, {"name": name})):
            result.sampler[key] = defaults[key]
        result.sampler.update(values)
        # So does a grid that the run's integrator was told and this one cannot walk.
        if "grid" not in values and not _walks(result, result.sampler):
            result.sampler.grid = defaults.grid
    configuration.validate(result)
    return result


def _reads(method: str, values: Mapping[str, Any]) -> Sequence[str]:
    """What is read of `config.sampler`; of an unknown one little, `validate` says it better."""
    return configuration.sampler_reads(method, values.get("name", ""))


def _walks(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> bool:
    """Whether the integrator of these settings can walk their grid; what is unknown passes."""
    name = values.get("integrator", config.sampler.integrator)
    if values["name"] != "cp" or name not in diffusion.INTEGRATORS:
        return True
    foreign = set(get_args(diffusion.Grid)) - set(diffusion.INTEGRATORS[name].grids)
    return values["grid"] not in foreign


def _name(key: str) -> str:
    """What a choice of a key of `config.sampler` is called."""
    return "sampler" if key == "name" else key
