"""A tree of class folders: what is in it, which are splits and classes, and what is refused."""

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from didicm_jax.errors import UserError

# Unicode's categories of control characters, of what is not UTF-8, and of ends of lines.
_NO_CLASS = ("Cc", "Cs", "Zl", "Zp")
# How the folders of a tree may be called, and the split that each becomes.
_FOLDERS = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
# Beside class folders these are images that somebody means; notes and litter are called otherwise.
_IMAGES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".jp2", ".avif"),
)


def split_folders(source: Path) -> dict[str, Path | None]:
    """The folder of each split in `source`; None where there is none.

    Raises:
      UserError: there are several for one split.
    """
    return {split: _split_folder(source, names) for split, names in _FOLDERS.items()}


def _split_folder(source: Path, names: Iterable[str]) -> Path | None:
    found = [name for name in names if (source / name).is_dir()]
    if len(found) > 1:
        raise UserError(
            f"expected one folder for each split in {source}, found {' and '.join(found)}, names"
            " of the same: join them, or take one away"
        )
    return source / found[0] if found else None


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders in the folder of a split, sorted."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def below(folder: Path) -> Iterator[Path]:
    """All but folders that lies in it, at any depth, sorted, without what is hidden.

    Not `rglob`, which passes over a folder that it may not read: its images would be missing.

    Raises:
      OSError: a folder cannot be read.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from below(path)
        else:
            yield path


def check(folders: Iterable[Path]) -> None:
    """Refuses folders of splits of which a data set would lack something, or have it otherwise.

    Raises:
      UserError: names of classes that cannot be told apart, or an image that is in no class folder.
    """
    folders = list(folders)
    _check_class_names(folders)
    for folder in folders:
        loose = [
            path.name
            for path in folder.iterdir()
            if path.suffix.lower() in _IMAGES
            and not path.name.startswith(".")
            and not path.is_dir()
        ]
        if loose:
            raise UserError(
                f"expected the images of {folder} in folders of their classes, found {min(loose)!a}"
                " in none: put it into one, or take it away"
            )


def _check_class_names(folders: Iterable[Path]) -> None:
    """Refuses names that are not the same when they are read back as the lines of a text file.

    Two folders are also refused whose names differ in what nobody sees: white space, characters
    without a shape, and how accents are encoded.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        for name in class_folders(folder):
            if name != name.strip() or any(unicodedata.category(c) in _NO_CLASS for c in name):
                raise UserError(
                    "expected names of classes without control characters and white space at"
                    f" their ends, in UTF-8, found {name!a} in {folder}: rename the folder"
                )
            seen_as = "".join(c for c in name if unicodedata.category(c) != "Cf")
            alike = " ".join(unicodedata.normalize("NFC", seen_as).split())
            other, where = seen.setdefault(alike, (name, folder))
            if other != name:
                raise UserError(
                    f"expected classes whose names look different, found {name!a} in {folder} and"
                    f" {other!a} in {where}: rename or join the folders"
                )
