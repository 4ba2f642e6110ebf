"""What `prepare` keeps about a set beside its records, and whether a set is the one asked for."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from didicm_jax.data import labels as label_files
from didicm_jax.data.listing import Listing
from didicm_jax.errors import UserError

_FILE = "metadata.json"  # as tfds calls it


@dataclass(frozen=True)
class Prepared:
    """What `prepare` has written, or found.

    `unknown` says of a set that was found what it does not tell about itself; empty if nothing.
    """

    folder: Path
    counts: dict[str, int]
    broken: tuple[str, ...]
    is_new: bool
    unknown: str = ""


def describe(listing: Listing, shorter_side: int) -> dict[str, Any]:
    """What is kept to recognise the set of `listing` by."""
    return {
        "listed": {split: len(items) for split, items in listing.splits.items()},
        "shorter_side": shorter_side,
        "digest": listing.digest(),
    }


def read(folder: Any) -> dict[str, Any]:
    """What is kept about the set in `folder`, an etils path or another; nothing where none is."""
    try:
        made = json.loads((folder / _FILE).read_bytes())
    except (OSError, ValueError):
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


def found(folder: Path, listing: Listing, shorter_side: int) -> Prepared:
    """The set in `folder`, if it was made from `listing`.

    Sets that were prepared before digests were kept are compared by what they have: the counts, the
    names of the classes and the labels.

    Raises:
      UserError: it was made from something else.
    """
    made, wanted = read(folder), describe(listing, shorter_side)
    difference = _difference(folder, listing, made, wanted)
    if difference:
        raise UserError(
            f"expected {folder} to be free, or made from these"
            f" {sum(wanted['listed'].values()):,} images with shorter_side={shorter_side}, found"
            f" a set {difference}: delete it or choose another data_dir"
        )
    unknown = ""
    if "digest" not in made:
        unknown = "it does not tell the names and sizes of the files that it was made from"
    return Prepared(folder, made["counts"], tuple(made["broken"]), is_new=False, unknown=unknown)


def _difference(
    folder: Path, listing: Listing, made: dict[str, Any], wanted: dict[str, Any]
) -> str:
    """How the set differs from what is wanted, as the end of a sentence; empty if in nothing."""
    if not {"listed", "shorter_side", "counts", "broken"} <= made.keys() or any(
        made[key] != wanted[key] for key in ("listed", "shorter_side")
    ):
        return f"from {made.get('listed')} with shorter_side={made.get('shorter_side')}"
    classes = read_classes(folder / classes_file("label"))
    if classes != listing.class_names:
        return f"of {_unlike(classes, listing.class_names)}"
    if "digest" in made:
        same = made["digest"] == wanted["digest"]
    else:
        same = all(_has_labels(folder, listing, split, made["broken"]) for split in listing.splits)
    return "" if same else "from files of other names, sizes or labels"


def _unlike(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    if len(found) != len(wanted):
        return f"{len(found)} classes instead of {len(wanted)}"
    place = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
    return f"other classes, such as {found[place]!r} instead of {wanted[place]!r}"


def _has_labels(folder: Path, listing: Listing, split: str, broken: list[str]) -> bool:
    """Whether the labels kept for a split are those listed, images left out as broken aside."""
    items = listing.splits[split]
    # A line of `broken` is the split, the file and, after a colon, what is wrong with it.
    left_out = {line[: end.start()] for line in broken for end in re.finditer(": ", line)}
    listed = np.array(
        [item.label for item in items if f"{split}/{item.name}" not in left_out], np.int32
    )
    path = folder / label_files.labels_file(listing.name, split)
    stored = label_files.load(path, len(listed))
    return stored is not None and np.array_equal(stored, listed)
