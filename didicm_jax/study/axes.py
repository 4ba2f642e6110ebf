"""The axes of a grid and its cells."""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from didicm_jax import config as configuration
from didicm_jax.errors import UserError
from didicm_jax.study import methods

METHOD, SEED = "method", "seed"
RESULT = "cell.json"  # in the folder of a cell that is done
STOPPED = 75  # the exit status of a cell that was asked to stop and can go on (EX_TEMPFAIL)

Values = dict[str, Any]  # of each axis


class Cell(NamedTuple):
    """One run of a grid."""

    values: Values
    config: ml_collections.ConfigDict  # evaluates on what is held out of the training split
    plain: ml_collections.ConfigDict  # of the classifier that measures compute
    test_split: str

    @property
    def name(self) -> str:
        """Its folder."""
        return ",".join(f"{axis}={value}" for axis, value in self.values.items())


def parse(text: str) -> dict[str, list[Any]]:
    """The axes of `resolution=28,14;method=softmax,paper;seed=0,1`.

    An axis is a key of the config, or the end of one that no other key has.

    Raises:
      UserError: it does not read as axes, or names a key, method or value that is none.
    """
    defaults = configuration.flatten(configuration.default())
    axes: dict[str, list[Any]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, words = part.partition("=")
        values = [word.strip() for word in words.split(",") if word.strip()]
        if not equals or not values:
            raise _wrong(f"axes like 'resolution=28,14;seed=0,1', found {part!r}")
        if name in axes or len(set(values)) < len(values):
            raise _wrong(f"each axis and each of its values once, found {part!r}")
        if name == METHOD:
            for value in values:
                methods.find(value)
            axes[name] = values
        else:
            axes[name] = [_value(word, name, defaults[_key(name, defaults)]) for word in values]
    if not axes:
        raise _wrong("axes like 'resolution=28,14;seed=0,1', found none")
    return axes


def cells(
    config: ml_collections.ConfigDict, axes: Mapping[str, Sequence[Any]], held_out: int
) -> list[Cell]:
    """Every combination, all of one seed before the next, so that a grid cut short is whole.

    Args:
      config: what the cells have in common.
      axes: of `parse`.
      held_out: per cent of the training split on which settings are chosen.

    Raises:
      UserError: the config of a cell is not valid.
    """
    order = sorted(axes, key=lambda axis: axis != SEED)  # the first varies slowest
    result = []
    for combination in itertools.product(*(axes[axis] for axis in order)):
        chosen = dict(zip(order, combination, strict=True))
        values = {axis: chosen[axis] for axis in axes}
        own = _config(config, values, held_out)
        plain = methods.apply(own, methods.MATCHED[0])
        plain.model.stem = config.model.stem
        result.append(Cell(values, own, plain, config.data.eval_split))
    return result


def coordinates(values: Values) -> Values:
    """Where a cell lies, whatever its method and seed."""
    return {axis: value for axis, value in values.items() if axis not in (METHOD, SEED)}


def _config(
    base: ml_collections.ConfigDict, values: Values, held_out: int
) -> ml_collections.ConfigDict:
    defaults = configuration.flatten(configuration.default())
    config = methods.apply(base, values[METHOD]) if METHOD in values else copy.deepcopy(base)
    split = 100 - held_out
    with config.unlocked():
        config.update_from_flattened_dict(
            {"data.train_split": f"train[:{split}%]", "data.eval_split": f"train[{split}%:]"}
        )
        # After the method: an axis may vary what the method sets.
        config.update_from_flattened_dict(
            {_key(axis, defaults): value for axis, value in values.items() if axis != METHOD}
        )
    configuration.validate(config)
    return config


def _key(name: str, keys: Mapping[str, Any]) -> str:
    found = [key for key in keys if key == name or key.endswith(f".{name}")]
    exact = [key for key in found if key == name]
    if len(found) != 1 and not exact:
        raise _wrong(
            f"'method' or a key of the config, found {name!r}, which is "
            + (f"the end of {' and '.join(found)}" if found else "none")
        )
    return (exact or found)[0]


def _value(word: str, axis: str, like: Any) -> Any:
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[word.lower()]
        if isinstance(like, int | float):
            value = type(like)(word)
            if not math.isfinite(value):
                raise ValueError
            return value
        if isinstance(like, str):
            return word
    except (ValueError, KeyError):
        pass
    raise _wrong(f"values of {axis} of type {type(like).__name__}, like {like!r}, found {word!r}")


def _wrong(text: str) -> UserError:
    return UserError(f"--axes: expected {text}; correct it")
