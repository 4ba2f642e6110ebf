"""Posteriors on disk: as they come, and as `predictions.npz`. Memory holds a batch of them.

Shapes: N examples, K classes, S steps of the sampler.
"""

import contextlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Self

import numpy as np

from didicm_jax import files
from didicm_jax.inference.sampling import Posterior


class Predictions:
    """Posteriors that are added batch after batch, in files without a name until they are written.

    A context: what was not written is gone at its end, and also when the process is killed.
    """

    def __init__(self, folder: Path) -> None:
        """Holds them on the disk of `folder`, which is made for the first of them."""
        self._kept = files.spool(folder)
        self._open = contextlib.ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._rows: dict[str, np.ndarray] = {}  # of each array an empty part, for shape and type
        self._total = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, posterior: Posterior) -> None:
        """Appends the posteriors of the next examples, NumPy arrays [n, ...]."""
        self._total += len(posterior.probs)
        for name, values in posterior._asdict().items():
            if values is not None:
                if name not in self._files:
                    self._kept.mkdir(parents=True, exist_ok=True)
                    self._files[name] = self._open.enter_context(
                        tempfile.TemporaryFile(dir=self._kept)  # noqa: SIM115
                    )
                    self._rows[name] = values[:0].copy()
                self._files[name].write(np.ascontiguousarray(values).data)

    @property
    def probs(self) -> np.ndarray:
        """Those added so far, f32[N,K], read from the disk where they are looked at."""
        file, like = self._files["probs"], self._rows["probs"]
        file.flush()
        return np.memmap(file, like.dtype, "r", shape=(self._total, *like.shape[1:]))

    def write(self, path: Path, **arrays: np.ndarray) -> None:
        """Writes an NPZ file: `probs` f32[N,K], `trajectory` f32[N,S+1,K] and `steps_used` i32[N]
        where there are any, and the other `arrays`."""
        files.write_whole(path, lambda file: self._write(file, arrays))

    def _write(self, file: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
        # Stored as they are: compressing posteriors takes ten times as long and saves little.
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in self._files.items():
                like = self._rows[name]
                header = {
                    "descr": np.lib.format.dtype_to_descr(like.dtype),
                    "fortran_order": False,
                    "shape": (self._total, *like.shape[1:]),
                }
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    content.seek(0)
                    shutil.copyfileobj(content, member, 2**20)
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)
