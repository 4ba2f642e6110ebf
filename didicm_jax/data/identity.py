"""What examples a part of a stored set holds, told without reading them.

A set is its name, its version and what `prepare` keeps of the files that it was made from, or, for
a set of other origin, its shards. An example is its split and its number there: the same whichever
part it is asked for by.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from didicm_jax.data import prepared
from didicm_jax.data.splits import Slice

_THREADS = 16  # for sizes of files, which remote file systems are slow to tell


def digest(builder: Any, parts: Sequence[Slice], rows: np.ndarray) -> str:
    """A digest of the examples at `rows` i64[M] of these parts of splits, in this order.

    Args:
      builder: of tfds, of a set that is prepared.
      parts: of its splits, one after the other.
      rows: places in them.
    """
    names = np.repeat([part.split for part in parts], [len(part.rows) for part in parts])
    numbers = np.concatenate([part.rows for part in parts])
    used, ranks = np.unique(names[rows], return_inverse=True)
    made = prepared.read(epath.Path(builder.data_dir))
    if "digest" in made:
        origin: Any = [made["digest"], made.get("shorter_side"), made.get("broken")]
    else:
        origin = [_shards(builder, name) for name in used.tolist()]
    config = builder.builder_config
    stored = [builder.name, config.name if config else "", str(builder.version), origin]
    joined = hashlib.sha256(json.dumps([stored, used.tolist()]).encode())
    joined.update(np.stack([ranks, numbers[rows]]).astype("<i8").tobytes())
    return joined.hexdigest()


def size_and_time(path: Any) -> tuple[int, int]:
    """Bytes of a file and the second that it was written in; etils path on any file system.

    Raises:
      OSError: it is not there.
    """
    try:
        # etils asks for the name of a file's owner too, and fails where nobody has told the system.
        local = os.stat(path)
        return local.st_size, int(local.st_mtime)
    except FileNotFoundError:  # as what is in a bucket
        remote = path.stat()
        return remote.length, remote.mtime


def _shards(builder: Any, split: str) -> list[tuple[str, int, int]]:
    """Name, number of examples and bytes of each shard of a whole split."""
    info = builder.info.splits[split]
    folder = epath.Path(builder.data_dir)
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = pool.map(lambda name: size_and_time(folder / name)[0], info.filenames)
        return list(zip(info.filenames, info.shard_lengths, sizes, strict=True))
