"""What a run's folder needs of a bucket of Google Cloud Storage, `gs://bucket/folder`.

Paths are `etils.epath` ones, which read and list like `pathlib`'s; orbax writes checkpoints to
them by itself. An object is there as a whole or not at all and cannot be appended to, a folder is
but the beginning of names, and nothing can be locked: what is written here makes the best of that.
"""

import contextlib
import errno
import functools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from didicm_jax.errors import UserError, first_line

SCHEME = "gs://"
# Orbax writes it last into a checkpoint, which it can give no other name when it is whole.
COMMITTED = "commit_success.txt"
# Of one object that is rewritten; the store takes one version a second.
_INTERVAL = 10.0
_SHARE = 0.05  # of the time at most, for rewriting what grows
# Seconds of trying again what may pass: of what must be written now, and of what is kept for later.
_PATIENCE, _LATER = 30.0, 3.0


def holds(path: str | os.PathLike) -> bool:
    """Whether a path is of a bucket."""
    return os.fspath(path).startswith(SCHEME)


def place(path: str, about: str) -> Path:
    """The path of a folder in a bucket that can be reached.

    It has those methods of `pathlib.Path` that this package uses, and stands in for one.

    Raises:
      UserError: the client is not installed, there is no such bucket, or it may not be read.
    """
    # By the plain API for all kinds of buckets: the other one needs more permissions.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec
        import gcsfs  # noqa: F401
        from etils import epath
        from google.api_core.exceptions import Forbidden, NotFound
    except ImportError as error:
        raise UserError(
            f"expected the client of buckets to open {path}, found none ({first_line(error)}); pip "
            "install 'didicm-jax[gcs]'",
            about=about,
        ) from error
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # tracebacks of what is told in a line
    # Others write there too, orbax among them: what was listed once may have changed.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    name = path.removeprefix(SCHEME).partition("/")[0]
    if not path.removeprefix(f"{SCHEME}{name}").strip("/"):
        raise UserError(
            f"expected a folder in a bucket, found {path}; write gs://bucket/folder", about=about
        )
    try:
        _store().get_bucket(name, timeout=_PATIENCE)
    except Exception as error:  # whatever credentials, names and networks may raise
        if isinstance(error, NotFound):
            found = f"no bucket {name}; make it or name another"
        elif isinstance(error, Forbidden):
            found = (
                f"{name} closed to this account; give it the roles Storage Object User and Storage "
                "Legacy Bucket Reader"
            )
        else:
            found = f"{type(error).__name__}: {first_line(error)[:200]}; log in or connect"
        raise UserError(
            f"expected a bucket that can be read for {path}, found {found}", about=about
        ) from error
    return cast(Path, epath.Path(path.rstrip("/")))


def writable(path: Path) -> bool:
    """Whether the account may write there; also where the store does not tell."""
    from google.api_core.exceptions import GoogleAPIError

    wanted = ["storage.objects.create", "storage.objects.delete"]
    try:
        allowed = _store().bucket(split(path)[0]).test_iam_permissions(wanted, timeout=_PATIENCE)
    except GoogleAPIError:
        return True
    return set(wanted) <= set(allowed)


def reachable(path: Path) -> bool:
    """Whether the store answers at once."""
    with contextlib.suppress(OSError), faults(path):
        return bool(_store().bucket(split(path)[0]).exists(timeout=_LATER, retry=None))
    return False


def put(path: Path, content: bytes, *, later: bool = False) -> None:
    """Writes an object, which takes the place of an older one when it is whole.

    Args:
      path: of the object.
      content: of it.
      later: if it cannot be written soon, it will be tried again.

    Raises:
      OSError: it could not be written, after some trying.
    """
    timeout = (_LATER, _PATIENCE)  # to connect, and to be answered
    with faults(path):
        _blob(path).upload_from_string(
            content, _type(path), timeout=timeout, retry=_patient(_LATER if later else _PATIENCE)
        )


def size(path: Path) -> int:
    """Bytes of an object."""
    return int(cast(Any, path.stat()).length)


def tree(folder: Path) -> list[Path]:
    """All objects under a folder, by name."""
    name, prefix = split(folder)
    with faults(folder):
        found = _store().list_blobs(name, prefix=f"{prefix}/", retry=_patient())
        return [folder / each.name.removeprefix(f"{prefix}/") for each in found]


def move(source: Path, target: Path) -> None:
    """Moves a folder, object by object; one that is half gone is no checkpoint any more."""
    found = tree(source)
    for each in found:
        bucket = _store().bucket(split(source)[0])
        with faults(each):
            bucket.copy_blob(
                _blob(each), bucket, split(target / each.relative_to(source))[1], retry=_patient()
            )
    for each in sorted(found, key=lambda path: path.name != COMMITTED):
        with faults(each):
            _blob(each).delete(retry=_patient())


def upload(source: Path, target: Path) -> None:
    """Copies a local file, or all files of a folder."""
    for each in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if each.is_file():
            place = target / each.relative_to(source) if each != source else target
            put(place, each.read_bytes(), later=True)


@functools.cache
def spool() -> Path:
    """A local folder of this process, for what libraries write to disks alone."""
    import atexit

    folder = tempfile.mkdtemp(prefix="didicm_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class Growing:
    """An object that grows at its end: it is written anew each time, so not too often."""

    def __init__(self, path: Path) -> None:
        """Goes on with what is there."""
        self._path = path
        self._content = path.read_bytes() if path.exists() else b""
        self.interval = _INTERVAL  # seconds to leave between two appends, where that is possible

    def append(self, data: bytes) -> None:
        """Writes it with `data` at its end; doing it again after an OSError leaves them once."""
        began = time.monotonic()
        try:
            put(self._path, self._content + data, later=True)
            self._content += data
        finally:
            self.interval = max(_INTERVAL, (time.monotonic() - began) / _SHARE)


def split(path: Path) -> tuple[str, str]:
    """The bucket, and the name in it."""
    name, _, rest = os.fspath(path).removeprefix(SCHEME).partition("/")
    return name, rest


def connect() -> Any:
    """A client of the store with connections of its own."""
    from google.cloud import storage

    return storage.Client()


_store = functools.cache(connect)


def _blob(path: Path) -> Any:
    name, rest = split(path)
    return _store().bucket(name).blob(rest)


def _type(path: Path) -> str:
    """What a browser is told that an object is."""
    import mimetypes

    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def _patient(seconds: float = _PATIENCE) -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(seconds)


@contextlib.contextmanager
def faults(path: Path) -> Iterator[None]:
    """What the client raises as what a disk would."""
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    kinds: dict[type[Exception], type[OSError]] = {
        exceptions.NotFound: FileNotFoundError,
        exceptions.Forbidden: PermissionError,
        exceptions.PreconditionFailed: FileExistsError,
    }
    try:
        yield
    except (exceptions.GoogleAPIError, GoogleAuthError, OSError) as error:
        kind = kinds.get(type(error), OSError)
        said = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise kind(errno.EIO, said, os.fspath(path)) from error
