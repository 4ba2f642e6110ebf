"""The images that a user names: found, read, and predicted by one network or two."""

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from didicm_jax import files
from didicm_jax.cli.command_line import counted, paths, printable
from didicm_jax.data import tree
from didicm_jax.errors import UserError
from didicm_jax.inference.predictor import Prediction, Predictor

CHUNK = 256


class Chunk(NamedTuple):
    """Some of the images, n of them, that all networks can take."""

    paths: list[Path]
    shown: list[np.ndarray]  # for each network u8[n, H, W, C], at its own size
    answers: list[Prediction]  # of each network


def find(given: Sequence[str], without: Collection[Path] = ()) -> list[Path]:
    """The files that are named, and all files in the folders that are named, in order.

    Args:
      given: paths, or several with commas between them.
      without: files and folders within those to leave out, such as what is about to be written.

    Raises:
      UserError: one is not there or in a store of objects, or there is no file.
      OSError: a folder cannot be read.
    """
    found: list[Path] = []
    left_out = {files.resolved(path) for path in without}
    # Images are read from disks alone.
    place = partial(files.local, about="--images", expected="files or folders on a disk")
    for path in paths(list(given), place):
        if path.is_dir():
            found += [
                each
                for each in tree.below(path)
                if (each.is_file() or each.is_symlink())  # a bad link is named when it is read
                and not (left_out and any(map(files.resolved(each).is_relative_to, left_out)))
            ]
        elif path.exists():
            found.append(path)
        else:
            raise UserError(
                f"--images: expected a file or a folder, found no {printable(str(path))}; check it"
            )
    if not found:
        where = printable(f" in {', '.join(given)}" if given else "")
        raise UserError(
            f"--images: expected files or folders of images, found no file{where}; name them with "
            "--images=FOLDER"
        )
    return found


def chunks(predictors: Sequence[Predictor], named: Sequence[Path]) -> Iterator[Chunk]:
    """The images and what the networks say of them, so many in memory at a time as is well.

    Files that cannot be read are named on stderr and left out. What a sampler draws for an image is
    a function of its place among the others.

    Raises:
      UserError: none can be read.
    """
    done = 0
    for start in range(0, len(named), CHUNK):
        part = named[start : start + CHUNK]
        loaded = [each.load(part) for each in predictors]
        faults = {row: fault for _, found in loaded for row, fault in found.items()}
        for row in sorted(faults):
            print(f"skipped {printable(str(part[row]))}: {faults[row]}", file=sys.stderr)
        usable = [row for row in range(len(part)) if row not in faults]
        if not usable:
            continue
        shown = [pixels[usable] for pixels, _ in loaded]
        answers = [
            each.predict(pixels, first=done) for each, pixels in zip(predictors, shown, strict=True)
        ]
        done += len(usable)
        yield Chunk([part[row] for row in usable], shown, answers)
    if not done:
        raise UserError(
            f"--images: expected at least one image, found {counted(len(named), 'file')} that "
            "cannot be read as one; name others"
        )


def draw(path: Path, write: Callable[[Path], None]) -> bool:
    """Writes a figure; one that fails is told on stderr, and costs nothing but itself and the older
    one in its place, which is of something else."""
    try:
        write(path)
    except Exception as error:  # whatever drawing an odd name, or a full disk, may raise
        found = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        print(f"warning: {path.name} could not be drawn: {found}", file=sys.stderr)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return False
    return True
