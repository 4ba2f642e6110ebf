"""Where the cells of a study lie, and in which order coordinates stand."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from didicm_jax.config import durations

METHOD, SEED = "method", "seed"  # the axes that are no coordinates

Values = dict[str, Any]  # of each axis
Place = tuple[tuple[str, Any], ...]  # where a cell lies, whatever its method and seed


def of(values: Values) -> Values:
    """Where a cell lies, whatever its method and seed."""
    return {axis: value for axis, value in values.items() if axis not in (METHOD, SEED)}


def following(places: Sequence[Values]) -> set[str]:
    """The axes that tell no places apart that the axes before them do not.

    Such as a stem that goes with the resolution: it is a part of what a place is, and no
    coordinate of it.
    """
    names = list(places[0])
    result: set[str] = set()
    for number, name in enumerate(names[1:], start=1):
        pairs = [
            {(place[before], place[name]) for place in places}
            for before in names[:number]
            if before not in result
        ]
        varies = len({place[name] for place in places}) > 1
        if varies and any(len({key for key, _ in each}) == len(each) for each in pairs):
            result.add(name)
    return result


def in_order(places: Iterable[Place]) -> list[Place]:
    """Each place once: numbers in the direction in which they begin, names as they come."""
    found = list(dict.fromkeys(places))
    values = [list(dict.fromkeys(column)) for column in zip(*found, strict=True)]
    ranks = [{value: i for i, value in enumerate(_ranked(column))} for column in values]
    return sorted(found, key=lambda place: [r[v] for r, v in zip(ranks, place, strict=True)])


def _ranked(column: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
    """The coordinates of an axis: numbers ascend, or descend where the second is less."""
    numbers = numbers_of(value for _, value in column)
    if numbers is None or len(column) < 2:
        return column
    values = numbers.values
    down = values[column[1][1]] < values[column[0][1]]
    return sorted(column, key=lambda each: values[each[1]], reverse=down)


class Numbers(NamedTuple):
    """Coordinates that are numbers of one unit."""

    values: dict[Any, float]
    unit: str  # "" of bare ones


def numbers_of(coordinates: Iterable[Any]) -> Numbers | None:
    """Coordinates as numbers; None where one of them is none, or of another unit."""
    found = {each: _number(each) for each in coordinates}
    units = {unit for _, unit in found.values()}
    unit = units.pop()
    if units or unit is None:
        return None
    return Numbers({each: number for each, (number, _) in found.items()}, unit)


def _number(value: Any) -> tuple[float, str | None]:
    """A coordinate as a number and its unit, "" for a bare one and None for what is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), ""
    return (isinstance(value, str) and durations.parse(value)) or (0.0, None)
