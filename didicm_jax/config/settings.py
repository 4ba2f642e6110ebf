"""What the table of settings says: defaults, mistakes, what may change, what a run folder held.

Keys are fixed: a name that is not in the table is an error wherever it comes from.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from didicm_jax.config import rules
from didicm_jax.config.setting import Change
from didicm_jax.config.table import BY_KEY, SETTINGS
from didicm_jax.errors import UserError

Values = dict[str, Any]  # by dotted key

# Settings of `config.sampler`, besides its name, that a trained network is tried with.
SAMPLER_CHOICES = ("integrator", "grid", "query", "chains", "steps", "views", "temperature")


def default() -> ml_collections.ConfigDict:
    """A config with every key at its default."""
    config = ml_collections.ConfigDict()
    for setting in SETTINGS:
        if setting.section and setting.section not in config:
            config[setting.section] = ml_collections.ConfigDict()
        (config[setting.section] if setting.section else config)[setting.name] = setting.default
    return config.lock()


def flatten(config: ml_collections.ConfigDict) -> Values:
    """Dotted keys and their values."""
    flat: Values = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every key and value, before anything expensive starts.

    Raises:
      UserError: a key is unknown or missing, a value has the wrong type or range or does not go
        with another, or a setting was changed that nothing would read.
    """
    values = flatten(config)
    _refuse_keys("unknown", values.keys() - BY_KEY.keys(), "leave them out")
    _refuse_keys("missing", BY_KEY.keys() - values.keys(), "start from config.default()")
    _check_values(values)
    for key, value in values.items():
        setting = BY_KEY[key]
        when = setting.unread(values) if value != setting.default else None
        if when is not None:
            raise UserError(
                f"config.{key}: expected its default {setting.default!r} with {when.key}="
                f"{values[when.key]}, which does not read it, found {value!r}; leave it out"
            )
    rules.check(values)


def may_change(key: str, *, evaluates: bool) -> bool:
    """Whether a setting may differ from what a run was started with.

    Args:
      key: dotted.
      evaluates: to look at the run, and not to go on training it.
    """
    setting = BY_KEY.get(key)
    allowed = {Change.ALWAYS, Change.EVALUATING} if evaluates else {Change.ALWAYS}
    return setting is not None and setting.change in allowed


def sampler_reads(method: str, name: str) -> tuple[str, ...]:
    """The settings of `config.sampler`, but for its name, that a method and its sampler read."""
    values = {"method": method, "sampler.name": name}
    return tuple(
        setting.name
        for setting in SETTINGS
        if setting.section == "sampler"
        and setting.name != "name"
        and setting.unread(values) is None
    )


def from_json(stored: Any) -> ml_collections.ConfigDict:
    """The config that a run's `config.json` holds, valid.

    A key that is younger than the run stands for what was done before, which mostly is its default.
    A changed setting that nothing read goes back to its default: earlier versions let some pass.

    Raises:
      UserError: it holds no settings, an unknown one, or a value that is not valid.
    """
    found = _flat_of_json(stored)
    _refuse_keys("unknown", found.keys() - BY_KEY.keys(), "leave them out")
    values = {key: setting.former for key, setting in BY_KEY.items()} | found
    _check_values(values)
    for setting in SETTINGS:
        if setting.unread(values) is not None:
            values[setting.key] = setting.default
    values = _spelled(values)
    rules.check(values)
    config = default()
    with config.unlocked():
        config.update_from_flattened_dict(values)
    return config


def differences(
    ours: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values; None stands for a missing key."""
    a, b = (_spelled(flatten(each)) for each in (ours, theirs))
    return {k: (a.get(k), b.get(k)) for k in sorted(a | b) if a.get(k) != b.get(k)}


def _spelled(values: Values) -> Values:
    """The values in the one of their spellings in which they are read again and compared."""
    # It was the default, and stood for `linear` with `exact` and `heun`: always what `auto` stands
    # for, with whichever integrator the run is evaluated next.
    same = {"sampler.grid": "auto"} if values.get("sampler.grid") == "original" else {}
    return values | same


def _flat_of_json(stored: Any) -> Values:
    """Dotted keys and their values, lists as the tuples that they were."""
    if not isinstance(stored, dict):
        raise UserError(
            f"config: expected sections of settings, found {_shown(stored)}; restore them"
        )
    sections = {setting.section for setting in SETTINGS} - {""}
    flat: Values = {}
    for name, inner in stored.items():
        if name not in sections:
            flat[name] = inner
        elif isinstance(inner, dict):
            flat |= {f"{name}.{key}": value for key, value in inner.items()}
        else:
            raise UserError(
                f"config.{name}: expected a section of settings, found {_shown(inner)}; restore it"
            )
    tuples = {key for key, setting in BY_KEY.items() if isinstance(setting.default, tuple)}
    return {
        key: tuple(value) if key in tuples and isinstance(value, list) else value
        for key, value in flat.items()
    }


def _check_values(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        expected = BY_KEY[key].fault(value)
        if expected:
            raise UserError(f"config.{key}: expected {expected}, found {_shown(value)}; change it")


def _refuse_keys(word: str, keys: set[str], advice: str) -> None:
    if keys:
        raise UserError(
            f"config: expected the keys of docs/settings.md, found {word} keys "
            f"{', '.join(sorted(keys))}; {advice}"
        )


def _shown(value: Any) -> str:
    """A value in an error, which is one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
