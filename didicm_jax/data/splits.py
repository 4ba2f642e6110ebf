"""Parts of splits, written as tensorflow-datasets writes them: `train[:90%]`, `train+test`."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from didicm_jax.errors import UserError


class Slice(NamedTuple):
    """Some examples of one split."""

    split: str
    total: int  # examples of the whole split
    rows: np.ndarray  # i64[M], which of them, in this order


def slices_of(spec: str, shards: Mapping[str, Sequence[int]]) -> list[Slice]:
    """What `spec` is made of, in its order.

    Args:
      spec: `train`, `train[:90%]`, `train[1000:]`, `train[:2shard]`, `train+test`, …, as
        https://www.tensorflow.org/datasets/splits describes.
      shards: how many examples each file of each split has: parts may be counted in files.

    Raises:
      ValueError: no such split, or no example, in a few words.
    """
    # Here and not above: it takes a second to import.
    import tensorflow_datasets as tfds

    infos = {
        split: tfds.core.SplitInfo(
            name=split, shard_lengths=list(lengths), num_bytes=0, filename_template=None
        )
        for split, lengths in shards.items()
    }
    parts = [
        Slice(each.splitname, total, np.arange(total)[each.from_ : each.to])
        for each in tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
        for total in [sum(shards[each.splitname])]
    ]
    if not any(len(part.rows) for part in parts):
        raise ValueError("no example in it")
    return parts


def check_mixed(part: Slice, labels: np.ndarray, what: str) -> None:
    """Refuses a part of a split that is stored class by class, for it lacks classes.

    Args:
      part: nothing is asked of one that is the whole split.
      labels: [N], of the split or, where those are not known, of the part.
      what: the split, for the error.

    Raises:
      UserError: those of each class stand together, in whatever order the classes are, and not by
        a chance of more than one in a billion.
    """
    if len(part.rows) == part.total:
        return
    counts = np.unique(labels, return_counts=True)[1]
    # Of the N! / (n_1! n_2! ...) orders of such labels K! have each of the K classes in one piece.
    log_orders = math.lgamma(len(labels) + 1) - sum(math.lgamma(count + 1) for count in counts)
    log_odds = log_orders - math.lgamma(len(counts) + 1)
    changes = np.count_nonzero(labels[1:] != labels[:-1])
    if log_odds > math.log(1e9) and changes == len(counts) - 1:
        raise UserError(
            f"expected {what} to be stored in random order, for a part of it stands for the whole, "
            "found its classes one after the other: prepare it again with launch/prepare.py, which "
            "spreads the classes evenly, or set config.data.train_split and config.data.eval_split "
            "to whole splits"
        )
