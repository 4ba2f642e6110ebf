"""What `prepare` keeps about a set beside its records, and whether a set is the one asked for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from didicm_jax.data.listing import Item, Listing
from didicm_jax.data.source import stratified_order
from didicm_jax.errors import UserError

_FILE = "metadata.json"  # as tfds calls it
_ORDER = "stratified by class"


@dataclass(frozen=True)
class Prepared:
    """What `prepare` has written, or found."""

    folder: Path
    counts: dict[str, int]
    broken: tuple[str, ...]
    is_new: bool


def describe(listing: Listing, shorter_side: int, max_pixels: int) -> dict[str, Any]:
    """What is kept to recognise the set of `listing` by."""
    return {
        "listed": {split: len(items) for split, items in listing.splits.items()},
        "shorter_side": shorter_side,
        "max_pixels": max_pixels,
        "digest": listing.digest(),
        "order": _ORDER,
    }


def stored_order(items: Sequence[Item]) -> list[Item]:
    """The images of a split as they are stored: in random order, every class evenly spread."""
    order = stratified_order(np.asarray([item.label for item in items], np.int32), seed=0)
    return [items[place] for place in order]


def read(folder: Any) -> dict[str, Any]:
    """What is kept about the set in `folder`, an etils path or another; nothing where none is."""
    try:
        made = json.loads((folder / _FILE).read_bytes())
    except (OSError, ValueError, RecursionError):  # the last of brackets within brackets
        return {}
    return made if isinstance(made, dict) else {}


def classes_file(label_key: str) -> str:
    """What tfds calls the file of the names of classes, next to the records."""
    return f"{label_key}.labels.txt"


def read_classes(path: Any) -> tuple[str, ...]:
    """The names in a file of classes as tfds reads them; none where it cannot be read."""
    try:
        text = path.read_bytes().decode()
    except (OSError, ValueError):
        return ()
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def found(folder: Path, listing: Listing, wanted: dict[str, Any]) -> Prepared:
    """The set in `folder`, if it was made from `listing`, as `wanted` describes it.

    Raises:
      UserError: it was made from something else.
    """
    made = read(folder)
    difference = _difference(folder, listing, made, wanted)
    if difference:
        raise UserError(
            f"expected {folder} to be free, or made from these"
            f" {sum(wanted['listed'].values()):,} images with"
            f" shorter_side={wanted['shorter_side']}, found a set {difference}: delete it or choose"
            " another data_dir"
        )
    return Prepared(folder, made["counts"], tuple(made["broken"]), is_new=False)


def _difference(
    folder: Path, listing: Listing, made: dict[str, Any], wanted: dict[str, Any]
) -> str:
    """How the set differs from what is wanted, as the end of a sentence; empty if in nothing."""
    whole = isinstance(made.get("counts"), dict) and isinstance(made.get("broken"), list)
    if not whole or any(made.get(key) != wanted[key] for key in ("listed", "shorter_side")):
        return f"from {made.get('listed')} with shorter_side={made.get('shorter_side')}"
    classes = read_classes(folder / classes_file("label"))
    if classes != listing.class_names:
        return f"of {_unlike(classes, listing.class_names)}"
    if made.get("order") != wanted["order"]:
        return "that is stored class by class, so that parts of its splits lack classes"
    if "digest" not in made:
        return "that does not tell the names and sizes of the files that it was made from"
    if made["digest"] != wanted["digest"]:
        return "from files of other names, sizes or labels"
    limit = made.get("max_pixels", wanted["max_pixels"])
    if made["broken"] and limit != wanted["max_pixels"]:
        return f"that lacks {len(made['broken'])} of them, made with max_pixels={limit}"
    return ""


def _unlike(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    if len(found) != len(wanted):
        return f"{len(found)} classes instead of {len(wanted)}"
    place = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
    return f"other classes, such as {found[place]!r} instead of {wanted[place]!r}"
