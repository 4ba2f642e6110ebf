"""Data sets that are described and not there: classes, size of the images, number of examples."""

from dataclasses import dataclass, replace

import ml_collections
import numpy as np

from didicm_jax import data
from didicm_jax.config import build
from didicm_jax.data import splits
from didicm_jax.data.source import kept_of
from didicm_jax.errors import UserError


@dataclass(frozen=True)
class Described:
    """What a plan must know of a data set."""

    classes: int
    image_shape: tuple[int, int, int]
    examples: int  # for training


# imagenet2012: the ILSVRC 2012 paper (arXiv 1409.0575), table 2; of photos the side is a setting.
# idx: MNIST and Fashion-MNIST as they are published.
_KNOWN = {
    "imagenet2012": Described(1000, (224, 224, 3), 1_281_167),
    "cifar10": Described(10, (224, 224, 3), 50_000),
    "cifar100": Described(100, (224, 224, 3), 50_000),
    "idx": Described(10, (28, 28, 1), 60_000),
}


class _Unseen:
    """As many examples as are said to be there; nothing else is asked of them."""

    def __init__(self, count: int, classes: int) -> None:
        self.labels = np.arange(count, dtype=np.int32) % classes

    def __len__(self) -> int:
        return len(self.labels)


def dataset(
    config: ml_collections.ConfigDict,
    *,
    classes: int | None = None,
    image_size: int | None = None,
    examples: int | None = None,
) -> data.Dataset:
    """The data set of a config, in numbers.

    Where `config.data.data_dir` is set, or the set is part of the package, it is opened; others are
    described here, or by the arguments, which go before.

    Args:
      config: a valid one.
      classes: K.
      image_size: the side of the images that the network takes, in pixels.
      examples: for training, after `config.data.data_ratio` and the like.

    Raises:
      UserError: nothing says what the set is.
    """
    settings = config.data
    if None not in (classes, image_size, examples):
        known: Described | None = Described(1, (0, 0, len(settings.mean)), 1)
    elif settings.name == "digits" or settings.data_dir:
        found = build.dataset(config)
        known = Described(found.num_classes, found.image_shape, len(found.train))
    else:
        known = _of_config(_KNOWN.get(settings.name), settings)
    if known is None:
        raise UserError(
            f"expected a set that is there or one of {', '.join(_KNOWN)}, which are described, "
            f"found {settings.name!r}; give classes, image_size and examples",
            about="classes",
        )
    if image_size is not None:
        known = replace(known, image_shape=(image_size, image_size, known.image_shape[2]))
    known = replace(known, classes=classes or known.classes, examples=examples or known.examples)
    source = _Unseen(known.examples, known.classes)
    names = tuple(str(index) for index in range(known.classes))
    return data.Dataset(source, source, names, known.image_shape)  # type: ignore[arg-type]


def _of_config(known: Described | None, settings: ml_collections.ConfigDict) -> Described | None:
    """That with the size and the share of the images that the config asks for."""
    if known is None:
        return None
    side, channels = settings.resolution or known.image_shape[0], known.image_shape[2]
    total = known.examples
    if settings.train_split != "train":
        try:
            parts = splits.slices_of(settings.train_split, {"train": [total]})
        except ValueError as error:
            raise UserError(
                f"config.data.train_split: expected a part of train, such as train[:90%], found "
                f"{settings.train_split!r}; change it, or give classes, image_size and examples"
            ) from error
        total = sum(len(part.rows) for part in parts)
    count = settings.train_examples or None
    ratio = None if count else settings.data_ratio
    about = "config.data.train_examples" if count else "config.data.data_ratio"
    kept = kept_of(total, count=count, ratio=ratio, about=about)
    return replace(known, image_shape=(side, side, channels), examples=kept)
