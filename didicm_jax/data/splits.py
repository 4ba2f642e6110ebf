"""Parts of splits, written as tensorflow-datasets writes them: `train[:90%]`, `train+test`."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Slice(NamedTuple):
    """Some examples of one split."""

    split: str
    total: int  # examples of the whole split
    rows: np.ndarray  # i64[M], which of them, in this order


def slices_of(spec: str, totals: Mapping[str, int]) -> list[Slice]:
    """What `spec` is made of, in its order.

    Args:
      spec: `train`, `train[:90%]`, `train[1000:]`, `train+test`, …, as
        https://www.tensorflow.org/datasets/splits describes.
      totals: how many examples each split has.

    Raises:
      ValueError: no such split, or no example, in a few words.
    """
    # Here and not above: it takes a second to import.
    import tensorflow_datasets as tfds

    infos = {
        split: tfds.core.SplitInfo(
            name=split, shard_lengths=[total], num_bytes=0, filename_template=None
        )
        for split, total in totals.items()
    }
    parts = [
        Slice(each.splitname, total, np.arange(total)[each.from_ : each.to])
        for each in tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
        for total in [totals[each.splitname]]
    ]
    if not any(len(part.rows) for part in parts):
        raise ValueError("no example in it")
    return parts
