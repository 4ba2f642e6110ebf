"""Where images come from and how they are ordered and batched: host side, NumPy and Grain, no jax.

`load` gives a `Dataset` by name; `train_batches` and `eval_batches` turn its sources into batches.
"""

from collections.abc import Callable
from dataclasses import replace

from didicm_jax.data.digits import load_digits
from didicm_jax.data.idx import load_idx, read_idx
from didicm_jax.data.pipeline import (
    eval_batches,
    num_eval_batches,
    train_batch,
    train_batches,
    train_indices,
)
from didicm_jax.data.source import ArraySource, Batch, Dataset, Source, subset
from didicm_jax.errors import UserError

__all__ = [
    "ArraySource",
    "Batch",
    "Dataset",
    "Source",
    "eval_batches",
    "load",
    "num_eval_batches",
    "read_idx",
    "subset",
    "train_batch",
    "train_batches",
    "train_indices",
]

# Each loader takes the value of `config.data.data_dir`, or None where it is not set.
_LOADERS: dict[str, Callable[[str | None], Dataset]] = {"digits": load_digits, "idx": load_idx}


def load(
    name: str,
    *,
    data_dir: str | None = None,
    train_examples: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads the dataset called `name`, optionally with fewer training images.

    Args:
      name: `digits` (scikit-learn's scans, embedded) or `idx` (MNIST-family files).
      data_dir: the folder of the files; None or empty is the dataset's own default.
      train_examples: keep this many training images, the same share of every class (see `subset`).
      seed: chooses which ones.

    Raises:
      UserError: unknown name, files that are missing or damaged, labels outside the classes, or
        more training images asked for than there are.
    """
    if name not in _LOADERS:
        raise UserError(
            f"expected config.data.name to be one of {', '.join(sorted(_LOADERS))}, found {name!r}:"
            " choose one of these"
        )
    dataset = _LOADERS[name](data_dir or None)
    if train_examples is None:
        return dataset
    return replace(dataset, train=subset(dataset.train, count=train_examples, seed=seed))
