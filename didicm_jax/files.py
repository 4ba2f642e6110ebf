"""Small files, written whole or not at all, and locks."""

import contextlib
import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from didicm_jax.errors import UserError


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file under another name first, so that `path` is never half of one.

    It is on the disk when this returns: a host that dies then does not lose it.

    Args:
      path: of the file; what it held is replaced.
      write: writes the content into an open file.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # before the old one goes
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_names(path.parent)


def _sync_names(folder: Path) -> None:
    """Puts the names of a folder's files on the disk, where its file system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_new(folder: Path, about: str) -> None:
    """Refuses a folder that is to be made and holds something.

    Args:
      folder: to make.
      about: what it is, for the error.

    Raises:
      UserError: it does, or its unfinished twin is there, or it is the current folder.
    """
    folder = folder.resolve()
    if folder == Path.cwd():
        raise UserError(
            f"expected a new folder, found the current one, {folder}; name one to make",
            about=about,
        )
    held = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if held or _partial(folder).exists():
        raise UserError(
            f"expected a new folder, found something in {folder if held else _partial(folder)}; "
            "name another or remove it",
            about=about,
        )


@contextlib.contextmanager
def new_folder(folder: Path, about: str) -> Iterator[Path]:
    """Makes a folder that is there as a whole or not at all.

    Args:
      folder: not there yet, or empty.
      about: what it is, for the error.

    Yields:
      Another folder, to put it together in.

    Raises:
      UserError: as for `check_new`, or the folder cannot be written.
    """
    check_new(folder, about)
    folder = folder.resolve()  # "." has no name
    partial = _partial(folder)
    try:
        partial.mkdir(parents=True)
        try:
            yield partial
            if folder.exists():
                folder.rmdir()  # empty, as was checked
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # there if something went wrong
    except OSError as error:
        raise UserError(
            f"expected a folder that can be written, found {error}; make room or choose another",
            about=about,
        ) from error


def _partial(folder: Path) -> Path:
    """Where a folder is put together."""
    return folder.with_name(folder.name + ".partial")


def write_json(path: Path, values: Any) -> None:
    """Writes a JSON file whole or not at all."""
    text = json.dumps(values, indent=2) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file, the names of the columns first, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: it is not there, not JSON, or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    # A RecursionError is of brackets within brackets.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: expected a JSON file, found {error}; restore it from a copy"
        ) from error
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: expected a JSON file with an object, found {str(values)[:100]!r}; restore it "
            "from a copy"
        )
    return values


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Holds the lock that a file stands for, until the process leaves or ends in any way.

    Yields:
      Whether it was free; where the file system has no locks, it always is.
    """
    with path.open("a") as file:
        free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:
            pass
        yield free
