"""The images that a user names: found, read, and predicted by one network or two."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from didicm_jax.errors import UserError
from didicm_jax.inference.predictor import Prediction, Predictor

# Images in memory at a time.
_CHUNK = 256


def find(given: Sequence[str]) -> list[Path]:
    """The files that are named, and all files in the folders that are named, in order.

    Raises:
      UserError: one is not there, or there is no file.
    """
    if not given:
        raise UserError("--images: expected files or folders, found none; add --images=FOLDER")
    found: list[Path] = []
    for word in given:
        path = Path(word)
        if path.is_dir():
            found += sorted(
                each
                for each in path.rglob("*")
                if each.is_file()
                and not any(p.startswith(".") for p in each.parts[len(path.parts) :])
            )
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"--images: expected a file or a folder, found no {path}; check it")
    if not found:
        raise UserError(
            f"--images: expected images in {', '.join(given)}, found no file; name another folder"
        )
    return found


def chunks(
    predictor: Predictor, paths: Sequence[Path]
) -> Iterator[tuple[list[Path], np.ndarray, Prediction]]:
    """Some files at a time: those that can be read, what is shown of them u8[n,H,W,C], and answers.

    Those that cannot are named on stderr and left out.
    """
    for start in range(0, len(paths), _CHUNK):
        part = list(paths[start : start + _CHUNK])
        pixels, faults = predictor.load(part)
        for row, fault in faults.items():
            print(f"skipped {part[row]}: {fault}", file=sys.stderr)
        usable = [row for row in range(len(part)) if row not in faults]
        if usable:
            shown = pixels[usable]
            yield [part[row] for row in usable], shown, predictor.predict(shown)


def predict_all(
    predictors: Sequence[Predictor], paths: Sequence[Path]
) -> tuple[list[Path], list[np.ndarray], list[np.ndarray]]:
    """The files that can be read; for each predictor what it is shown, and its posteriors f32[N,K].

    Raises:
      UserError: none can be read.
    """
    usable: list[Path] = []
    shown, probs = [], []
    for number, predictor in enumerate(predictors):
        parts = list(chunks(predictor, paths if number == 0 else usable))
        check_any(len(parts), paths)
        usable = [path for part in parts for path in part[0]]
        shown.append(np.concatenate([part[1] for part in parts]))
        probs.append(np.concatenate([part[2].probs for part in parts]))
    return usable, shown, probs


def check_any(count: int, paths: Sequence[Path]) -> None:
    """Refuses a folder in which nothing is an image.

    Raises:
      UserError: `count` is 0.
    """
    if not count:
        raise UserError(
            f"--images: expected at least one image, found {len(paths)} files that cannot be read "
            "as one; name other files"
        )
