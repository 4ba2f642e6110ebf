"""Where images come from and how they are ordered and batched: host side, NumPy and Grain, no jax.

`load` gives a `Dataset` by name, `trained_on` what a run trains on; `train_batches` and
`eval_batches` turn its sources into batches.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from didicm_jax.data import memory
from didicm_jax.data.digits import load_digits
from didicm_jax.data.idx import load_idx, read_idx
from didicm_jax.data.label_noise import redraw
from didicm_jax.data.memory import ArraySource
from didicm_jax.data.options import PhotoOptions
from didicm_jax.data.pipeline import (
    eval_batches,
    num_eval_batches,
    train_batch,
    train_batches,
)
from didicm_jax.data.source import Batch, Dataset, Source, fixed_subset, subset
from didicm_jax.errors import UserError

__all__ = [
    "LOADERS",
    "ArraySource",
    "Batch",
    "Dataset",
    "Source",
    "eval_batches",
    "fixed_subset",
    "load",
    "num_eval_batches",
    "read_idx",
    "shows_whole",
    "subset",
    "train_batch",
    "train_batches",
    "trained_on",
]

# Sets that fit into memory, by name; what others add here is known too. Each loader takes the value
# of `config.data.data_dir`, or None where it is not set.
LOADERS: dict[str, Callable[[str | None], Dataset]] = {"digits": load_digits, "idx": load_idx}


def load(
    name: str, *, data_dir: str | None = None, resolution: int | None = None, **options: Any
) -> Dataset:
    """Loads the dataset called `name`, as it is stored.

    Args:
      name: `digits` (scikit-learn's scans, embedded), `idx` (MNIST-family files), or a set of
        tensorflow-datasets or `launch/prepare.py`, as tfds writes it.
      data_dir: the folder of the files; None or empty is the dataset's own default.
      resolution: the side of the images in pixels: the same crop, resized to that many. None is
        224 for photos, and as they are for `digits` and `idx`, which are resized once, here.
      **options: those of `PhotoOptions`, of which `digits` and `idx` heed the splits alone.

    Raises:
      UserError: an option outside its range, unknown name, files that are missing or damaged, or
        labels outside the classes.
    """
    settings = PhotoOptions(resolution=224 if resolution is None else resolution, **options)
    if name not in LOADERS:
        # Here and not above: tensorflow-datasets takes a second to import.
        from didicm_jax.data.tfds import load_tfds

        return load_tfds(name, data_dir or None, settings)
    whole = LOADERS[name](data_dir or None)
    parts = memory.choose(whole, settings.train_split, settings.eval_split)
    return parts if resolution is None else memory.resized(parts, name, resolution)


def trained_on(
    dataset: Dataset,
    *,
    train_examples: int | None = None,
    data_ratio: float = 1.0,
    label_noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """The data set with fewer training images, or wrong labels on some; `test` is not touched.

    Args:
      dataset: as it is stored.
      train_examples: keep this many training images, the same share of every class (see `subset`).
      data_ratio: keep this share of the training images, in (0, 1], the same of every class.
      label_noise: draw the labels of this share of the training images anew, in [0, 1)
        (`label_noise.redraw`). What becomes of an image depends on the seed and its place in the
        training split, and not on how many are kept. The test source is not touched, also where it
        is a part of the same split.
      seed: chooses which images are kept, and the labels that are drawn.

    Raises:
      UserError: a number outside its range, or more training images asked for than there are.
    """
    if train_examples is not None and data_ratio != 1.0:
        raise UserError(
            "expected either config.data.train_examples or config.data.data_ratio, found both"
            f" ({train_examples} and {data_ratio}): leave one out"
        )
    train = dataset.train
    classes = train.labels  # with wrong labels the same images are kept
    if label_noise:
        noisy = redraw(classes, dataset.num_classes, share=label_noise, seed=seed)
        train = train.with_labels(noisy)
    choice: dict[str, Any] = {"seed": seed, "classes": classes}
    if train_examples is not None:
        train = subset(train, count=train_examples, about="config.data.train_examples", **choice)
    elif data_ratio != 1.0:
        train = subset(train, ratio=data_ratio, about="config.data.data_ratio", **choice)
    return replace(dataset, train=train)


def shows_whole(name: str) -> bool:
    """Whether the images of the dataset called `name` are shown whole, or a crop of each."""
    return name in LOADERS
