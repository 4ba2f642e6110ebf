"""Images that have been decoded, kept for the next time that they are asked for."""

import numpy as np

from didicm_jax.data.source import Batch


class Shown:
    """What N examples look like, as far as it is known; for several threads at once.

    Two threads that miss the same example both read it and write the same values.
    """

    def __init__(self, count: int, resolution: int) -> None:
        """Takes N and the side of the images; memory is taken as they come."""
        self._images = np.empty((count, resolution, resolution, 3), np.uint8)
        self._labels = np.empty(count, np.int32)
        self._known = np.zeros(count, bool)

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Those of `indices` i64[B] that are not known, each once, ascending."""
        return np.unique(indices[~self._known[indices]])

    def keep(self, indices: np.ndarray, batch: Batch) -> None:
        """Keeps the batch, which shows the examples at `indices` i64[B]."""
        self._images[indices], self._labels[indices] = batch["image"], batch["label"]
        self._known[indices] = True  # last: from here on other threads read them

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` i64[B], all of them known."""
        return {"image": self._images[indices], "label": self._labels[indices]}
