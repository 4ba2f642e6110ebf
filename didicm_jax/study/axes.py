"""The axes of a study and its cells."""

import copy
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from didicm_jax import config as configuration
from didicm_jax.config import durations
from didicm_jax.errors import UserError
from didicm_jax.study import methods
from didicm_jax.study.coordinates import METHOD, SEED, Values

# Of these a method takes what is its own: the network of the trunk, a stem coarser than this one.
_RELATIVE = ("model.name", "model.stem")
# Of the name of a cell, so that it and what its log adds stay within the 255 of file systems.
_NAME_BYTES = 251


class Cell(NamedTuple):
    """One run of a study."""

    values: Values
    config: ml_collections.ConfigDict  # evaluates on what is held out of the training split
    plain: ml_collections.ConfigDict  # of the classifier that measures compute
    test_split: str

    @property
    def name(self) -> str:
        """Its folder."""
        return ",".join(f"{axis}={value}" for axis, value in self.values.items())

    @property
    def equal_compute(self) -> bool:
        """Whether it trains for as many operations as the classifier that measures compute."""
        return self.values.get(METHOD, "").endswith(methods.EQUAL_COMPUTE)

    @property
    def told_of_nothing(self) -> bool:
        """Whether its method is told of label noise where there is none."""
        told = METHOD in self.values and methods.find(self.values[METHOD]).told
        return told and not self.config.diffusion.label_noise


def parse(text: str) -> dict[str, list[Any]]:
    """The axes of `resolution=28,14;method=softmax,paper;seed=0,1`.

    An axis is a key of the config, or the end of one that no other key has.

    Raises:
      UserError: it does not read as axes, or names a key, method or value that is none.
    """
    axes: dict[str, list[Any]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, words = part.partition("=")
        values = [_value(word.strip(), name) for word in words.split(",") if word.strip()]
        if not equals or not values:
            raise _wrong(f"axes like 'resolution=28,14;seed=0,1', found {part!r}")
        # By key and by value: `data_ratio=0.1` and `data.data_ratio=0.10` are the same cells.
        if _key(name) in map(_key, axes) or len(set(map(_meaning, values))) < len(values):
            raise _wrong(f"each axis and each of its values once, found {part!r}")
        axes[name] = values
    if not axes:
        raise _wrong("axes like 'resolution=28,14;seed=0,1', found none")
    return axes


def identity(name: str) -> frozenset[tuple[str, Any]] | None:
    """What a cell of this name varies, whatever the order and the spelling of the axes.

    None for a name that is no cell's.
    """
    try:
        found = parse(name.replace(",", ";"))
    except UserError:
        return None
    return frozenset((_key(axis), _meaning(value)) for axis, (value,) in found.items())


def cells(
    config: ml_collections.ConfigDict, axes: Mapping[str, Sequence[Any]], held_out: int
) -> list[Cell]:
    """Every combination, all of one seed before the next, so that a study cut short is whole.

    Without label noise there is no cell of a method that is told it.

    Args:
      config: what the cells have in common.
      axes: of `parse`.
      held_out: per cent of the training split on which settings are chosen.

    Raises:
      UserError: the config of a cell is not valid, an axis varies what a method sets, or two cells
        are the same run.
    """
    if config.data.train_split != "train":
        raise UserError(
            f"config.data.train_split: expected 'train', found {config.data.train_split!r}; a "
            "study holds a part of it out itself"
        )
    judged = configuration.evaluation_sets(config)[0].split
    # To tfds `all` is every split, training too.
    if {"train", "all"} & {part.partition("[")[0].strip() for part in judged.split("+")}:
        setting = "config.evaluation.sets" if config.evaluation.sets else "config.data.eval_split"
        raise UserError(
            f"{setting}: expected images that no cell trains or chooses on, found {judged!r}; name "
            "another part, such as test"
        )
    order = sorted(axes, key=lambda axis: axis != SEED)  # the first varies slowest
    result: list[Cell] = []
    seen: dict[tuple[str, bool], str] = {}
    for combination in itertools.product(*(axes[axis] for axis in order)):
        chosen = dict(zip(order, combination, strict=True))
        cell = _cell(config, {axis: chosen[axis] for axis in axes}, held_out)
        if cell.told_of_nothing:
            continue  # it is the run of the method that is not told
        run = (cell.config.to_json(), cell.equal_compute)
        if len(cell.name.encode()) > _NAME_BYTES:
            raise _wrong(
                f"names of cells, which name their folders, of at most {_NAME_BYTES} bytes, found "
                f"{cell.name}; what the cells have in common belongs in the config"
            )
        if run in seen:
            raise _wrong(f"cells that differ, found {seen[run]} and {cell.name} to be the same run")
        seen[run] = cell.name
        result.append(cell)
    if not result:
        raise _wrong("label noise for methods that are told it, found none")
    return result


def union(products: Sequence[Sequence[Cell]]) -> list[Cell]:
    """The cells of several starts of `cells` as one study, each once, seed by seed.

    Raises:
      UserError: their axes are not the same, in the same order.
    """
    names = {tuple(cell.values): None for product in products for cell in product}
    if len(names) > 1:
        found = " and ".join(", ".join(each) for each in names)
        raise _wrong(f"the same axes in the same order each time, found {found}")
    each = {identity(cell.name): cell for product in products for cell in product}
    return sorted(each.values(), key=lambda cell: cell.values.get(SEED, 0))


def _cell(base: ml_collections.ConfigDict, values: Values, held_out: int) -> Cell:
    split = 100 - held_out
    varied = {_key(axis): value for axis, value in values.items() if axis != METHOD}
    shared = copy.deepcopy(base)
    with shared.unlocked():
        shared.update_from_flattened_dict(
            varied
            | {"data.train_split": f"train[:{split}%]", "data.eval_split": f"train[{split}%:]"}
            | {"evaluation.sets": ()}
        )
    config = methods.apply(shared, values[METHOD]) if METHOD in values else shared
    configuration.validate(config)
    found = configuration.flatten(config)
    for key, value in varied.items():
        # The method comes last: an axis over what it sets would vary the name of the cell alone.
        if found[key] != value and key not in _RELATIVE:
            setter = "study" if key.startswith("data.") else f"method {values[METHOD]}"
            raise _wrong(
                f"axes over what its methods leave alone, found {key}={value}, which the {setter} "
                f"sets to {found[key]!r}"
            )
    plain = methods.apply(shared, methods.MATCHED[0])
    return Cell(values, config, plain, configuration.evaluation_sets(base)[0].split)


def _key(name: str) -> str:
    """The dotted key of an axis; `method` is the study's own and not that of the config."""
    if name == METHOD:
        return name
    keys = _defaults()
    found = [key for key in keys if key == name or key.endswith(f".{name}")]
    exact = [key for key in found if key == name]
    if len(found) != 1 and not exact:
        raise _wrong(
            f"'method' or a key of the config, found {name!r}, which is "
            + (f"the end of {' and '.join(found)}" if found else "none")
        )
    return (exact or found)[0]


@functools.cache
def _defaults() -> Mapping[str, Any]:
    return configuration.flatten(configuration.default())


def _value(word: str, axis: str) -> Any:
    if axis == METHOD:
        methods.find(word)
        return word
    like = _defaults()[_key(axis)]
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[word.lower()]
        if isinstance(like, int | float):
            value = type(like)(word)
            if not math.isfinite(value):
                raise ValueError
            return value
        if isinstance(like, str) and "/" not in word:  # it becomes a part of the name of a folder
            return word
    except (ValueError, KeyError):
        pass
    raise _wrong(f"values of {axis} of type {type(like).__name__}, like {like!r}, found {word!r}")


def _meaning(value: Any) -> Any:
    """A value whatever its spelling: `1 epoch` and `1.0 epochs` are one duration."""
    return (isinstance(value, str) and durations.parse(value, zero=True)) or value


def _wrong(text: str) -> UserError:
    return UserError(f"axes: expected {text}; correct it")
