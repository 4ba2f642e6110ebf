"""Files, written whole or not at all, and locks; on disks and, by `bucket`, in buckets."""

import contextlib
import csv
import fcntl
import io
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import IO, Any, cast

from didicm_jax import bucket
from didicm_jax.errors import UserError

_NAME_BYTES = 255  # of a name, that file systems allow


def place(path: str | os.PathLike, about: str = "run folder") -> Path:
    """The path of a folder, which may be in a bucket.

    Args:
      path: of a folder on a disk, or `gs://bucket/folder`.
      about: what it is, for the error.

    Raises:
      UserError: it is in another kind of store, or in a bucket that cannot be opened.
    """
    if bucket.holds(path):
        known = isinstance(path, PurePath)
        return cast(Path, path) if known else bucket.place(os.fspath(path), about)
    return local(path, about, expected="a folder or gs://bucket/folder")


def local(path: str | os.PathLike, about: str, *, expected: str = "a folder on a disk") -> Path:
    """The path of a folder on a disk.

    Raises:
      UserError: it is in a store of objects.
    """
    # `Path` makes one slash of two.
    if re.match(r"[a-z][a-z0-9]+:/", os.fspath(path), re.IGNORECASE):
        raise UserError(
            f"expected {expected}, found {path}; copy it to a disk, or mount the store", about=about
        )
    return Path(os.path.expanduser(path))  # a shell leaves the ~ of --flag=~/folder


def resolved(path: Path) -> Path:
    """A path that does not depend on the current folder."""
    # Not by `Path.resolve`, which before Python 3.13 raises where a link leads to itself.
    return path if bucket.holds(path) else Path(os.path.realpath(path))


def writable(path: Path) -> bool:
    """Whether a folder that exists can be written to."""
    return bucket.writable(path) if bucket.holds(path) else os.access(path, os.W_OK)


def size(path: Path) -> int:
    """Bytes of a file."""
    return bucket.size(path) if bucket.holds(path) else path.stat().st_size


def tree(folder: Path) -> list[Path]:
    """All files of a folder and of the folders in it, sorted."""
    if bucket.holds(folder):
        return bucket.tree(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def move(source: Path, target: Path) -> None:
    """Gives a folder another name, not there yet, in another folder, which is made if need be."""
    if bucket.holds(source):
        bucket.move(source, target)
        return
    target.parent.mkdir(exist_ok=True)
    shutil.move(source, target)  # by a copy, where either folder is a link to another disk


def spool(folder: Path) -> Path:
    """Where to write what can be written to disks alone: a folder itself, or one to `publish`."""
    if not bucket.holds(folder):
        return folder
    made = bucket.spool() / folder.name
    made.mkdir(exist_ok=True)
    return made


def publish(written: Path, target: Path) -> None:
    """Puts a file, or a folder of them, that was written to a `spool` where it belongs."""
    if written != target:
        bucket.upload(written, target)


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file so that `path` is never half of one: under another name first, or at once.

    It is on the disk, or in the bucket, when this returns: a host that dies then does not lose it.

    Args:
      path: of the file; what it held is replaced.
      write: writes the content into an open file.
    """
    if bucket.holds(path):
        content = io.BytesIO()
        write(content)
        bucket.put(path, content.getvalue())
        return
    # Two processes may write the same file: each has its own name for it until it is whole.
    own = f".{socket.gethostname()}.{os.getpid()}.partial"
    room = _NAME_BYTES - len(os.fsencode(own))
    partial = path.with_name(os.fsdecode(os.fsencode(path.name)[:room]) + own)
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # before the old one goes
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # of a full disk the system does not say which file
        raise
    _sync_names(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    write_whole(path, lambda file: file.write(content))


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
    folder = resolved(folder)
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
    folder = resolved(folder)  # "." has no name
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
    write_bytes(path, text.encode())


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file, the names of the columns first, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_bytes(path, text.getvalue().encode())


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


class Growing:
    """A file that grows at its end.

    It is opened for each append, so that a folder that comes back is written to.
    """

    interval = 0.0  # seconds to leave between two appends, where that is possible

    def __init__(self, path: Path) -> None:
        """Goes on with what is there."""
        self._path = path
        self._size = path.stat().st_size if path.exists() else 0

    def append(self, data: bytes) -> None:
        """Writes `data` at its end; doing it again after an OSError leaves them once."""
        with self._path.open("ab") as file:
            if file.tell() > self._size:
                file.truncate(self._size)  # half of it, of a write that failed
            file.write(data)
            file.flush()
            # Else a host that dies could lose lines before the checkpoint that follows them.
            os.fsync(file.fileno())
            self._size = file.tell()


def growing(path: Path) -> Growing | bucket.Growing:
    """The file at `path`, to append to."""
    return bucket.Growing(path) if bucket.holds(path) else Growing(path)


@contextlib.contextmanager
def lock(
    path: Path, lost: Callable[[str], Any] = print, say: Callable[[str], None] = print
) -> Iterator[bool]:
    """Holds the lock that a file stands for, until the process leaves or ends in any way.

    Args:
      path: of the file.
      lost: called, where a bucket has it and another process has taken it, with how.
      say: told of a wait.

    Yields:
      Whether it was free; where the file system has no locks, it always is.
    """
    if bucket.holds(path):
        with bucket.claim(path, lost, say) as free:
            yield free
        return
    with path.open("a") as file:
        free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        except OSError:
            pass
        yield free
