"""All labels of a split without reading its images: the stratified `data_ratio` needs them.

Sets that `prepare` made carry them in a file of 4 bytes per example. For any other set they are
read from the records once, which costs one pass over the data (ImageNet: 140 GB, minutes from a
fast disk, most of an hour from a slow one), and kept in the user's cache folder.
"""

import hashlib
import io
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from didicm_jax import files
from didicm_jax.data.decode import BrokenImage
from didicm_jax.data.identity import size_and_time
from didicm_jax.data.progress import show_progress
from didicm_jax.data.splits import Slice, check_mixed
from didicm_jax.errors import UserError

_LOG = logging.getLogger(__name__)
_CHUNK = 512
_HEADER_BYTES = 1024  # at most, of a file of labels


def labels_file(name: str, split: str) -> str:
    """What the file of labels is called, next to the records."""
    return f"{name}-{split}.labels.npy"


def encode(labels: np.ndarray) -> bytes:
    """The content of a file of `labels` i32[N]."""
    buffer = io.BytesIO()
    np.save(buffer, labels.astype("<i4"))
    return buffer.getvalue()


def find_labels(
    folder: Any,
    name: str,
    split: str,
    parts: Sequence[Slice],
    count: int,
    read: Callable[[int], int],
    threads: int,
) -> np.ndarray:
    """The labels i32[N] of all records of a split.

    Args:
      folder: etils path of the prepared set, on any file system.
      name: of the set, as its files have it.
      split: as tfds understands it, `train` or `train[:90%]`.
      parts: what that is made of.
      count: N.
      read: gives the label in one of its records, or raises `BrokenImage`.
      threads: how many read records where that is needed.

    Raises:
      UserError: a record without a label, or a part of a split that is stored class by class.
    """
    labels = _find_beside(folder, name, parts)
    if labels is not None:
        return labels
    cached = _cache_path(folder, split)
    labels = None if cached is None else load(cached, count)
    if labels is None:
        labels = _read_all(count, read, f"{name} {split}", threads)
        if cached is not None:
            _store(cached, labels)
    start = 0
    for part in parts:
        end = start + len(part.rows)
        check_mixed(part, labels[start:end], f"{name} {part.split}")
        start = end
    return labels


def _find_beside(folder: Any, name: str, parts: Sequence[Slice]) -> np.ndarray | None:
    """The labels in the files next to the records, which hold those of whole splits."""
    found = []
    for part in parts:
        whole = load(folder / labels_file(name, part.split), part.total)
        if whole is None:
            return None
        check_mixed(part, whole, f"{name} {part.split}")
        found.append(whole[part.rows])
    return np.concatenate(found) if found else None


def load(path: Any, count: int) -> np.ndarray | None:
    """The labels i32[N] in a file of them; None where it does not hold N = `count`."""
    try:
        with path.open("rb") as file:
            content = file.read(_HEADER_BYTES + 4 * count)
        stream = io.BytesIO(content)
        # NumPy's own reader would allocate what the header promises, before it looks further.
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        labels = np.frombuffer(content, "<i4", offset=stream.tell())
    # Not there, cut off or damaged, which costs a pass and not the run: what NumPy raises of a
    # header is whatever Python's own parser runs into.
    except Exception:
        return None
    return labels if labels.shape == shape == (count,) and dtype == labels.dtype else None


def _cache_path(folder: Any, split: str) -> Path | None:
    """Where the labels are cached; None without a description to tell the set apart by, or a home.

    Some containers run as a user that has none.
    """
    info = folder / "dataset_info.json"
    try:
        # The place, the description (with the size of every shard) and when it was written.
        identity = f"{folder}|{split}|{size_and_time(info)[1]}|".encode() + info.read_bytes()
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except (OSError, RuntimeError):  # the latter where nobody knows of a home
        return None
    digest = hashlib.sha256(identity).hexdigest()[:32]
    return Path(root) / "didicm_jax" / "labels" / f"{digest}.npy"


def _store(path: Path, labels: np.ndarray) -> None:
    # Several processes of one host may do this at once; the last one wins with the same content.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, encode(labels))
    except OSError as error:
        _LOG.warning("the labels are not cached in %s: %s", path, error.strerror or error)


def _read_all(total: int, read: Callable[[int], int], what: str, threads: int) -> np.ndarray:
    labels = np.empty(total, np.int32)

    def fill(first: int) -> None:
        for row in range(first, min(first + _CHUNK, total)):
            try:
                labels[row] = read(row)
            except BrokenImage as error:
                raise UserError(
                    f"expected a label in every record of {what}, found record {row} wrong"
                    f" ({error}): copy or prepare the set again"
                ) from error

    with ThreadPoolExecutor(max(threads, 4)) as pool:  # Mostly waits for the disk.
        chunks = pool.map(fill, range(0, total, _CHUNK))
        for _ in show_progress(chunks, total=-(-total // _CHUNK), what=f"reading labels of {what}"):
            pass
    return labels
