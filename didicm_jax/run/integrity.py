"""A list of the files of a folder with their sizes and digests, to find out later what is damaged.

Checkpoints need it: a bit that flips in the data of an array is not noticed by the file format.
"""

import hashlib
import json
from pathlib import Path

from didicm_jax import files as storage

NAME = "files.json"
# Written again when a checkpoint is committed or evaluated; the state is not read from them.
_NOT_LISTED = (NAME, "_CHECKPOINT_METADATA", "commit_success.txt", "metrics")


def seal(folder: Path) -> None:
    """Writes `files.json` into `folder`: every file in it, with size and BLAKE2b digest."""
    files = {
        str(path.relative_to(folder)): {"bytes": storage.size(path), "blake2b": _digest(path)}
        for path in storage.tree(folder)
        if path.name not in _NOT_LISTED
    }
    (folder / NAME).write_text(json.dumps(files, indent=1) + "\n")


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in words; None if nothing is.

    Files that are not in the list do not matter.
    """
    try:
        files = json.loads((folder / NAME).read_text())
        listed = [
            (folder / name, entry["bytes"], entry["blake2b"]) for name, entry in files.items()
        ]
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        return f"its list {NAME} cannot be read ({error})"
    try:
        # All sizes first: they are there at once, and a digest reads the whole file.
        for path, size, _ in listed:
            if not path.is_file():
                return f"{path.relative_to(folder)} is missing"
            if (found := storage.size(path)) != size:
                return f"{path.relative_to(folder)} has {found} bytes of {size}"
        for path, _, digest in listed:
            if _digest(path) != digest:
                return f"{path.relative_to(folder)} has changed since it was written"
    except OSError as error:  # a bad place on the disk, or it is gone since it was looked for
        return f"a file of it cannot be read ({error})"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
