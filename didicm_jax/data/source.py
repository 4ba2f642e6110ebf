"""What a source of labelled images is, and a stratified part of any.

Shapes: N examples in a source, B indices in a request, HxW pixels of C channels.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from didicm_jax.errors import UserError

Batch = dict[str, np.ndarray]


class Source(Protocol):
    """Random access to N labelled images, a batch at a time."""

    @property
    def labels(self) -> np.ndarray:
        """All labels, i32[N], known without reading an image."""

    def __len__(self) -> int:
        """The number of examples N."""

    @property
    def replaced(self) -> int:
        """How many different examples `broken` names."""

    def broken(self) -> np.ndarray:
        """The examples found so far that cannot be decoded, i64[M], ascending, each once.

        In evaluation, where nothing is random, a row that `batch` has given shows another image
        exactly where its index is among them.
        """

    def digest(self, indices: np.ndarray | None = None) -> str:
        """What the examples at `indices` i64[M] are, in this order, as hexadecimal digits.

        Two sources that hold the same examples of the same set have the same digest, whatever crop
        and resolution they show them at; other examples, other labels or another order have
        another. No image of a stored set is read for it.

        Args:
          indices: which examples; None for all.
        """

    def batch(self, indices: np.ndarray, draws: np.ndarray | None = None) -> Batch:
        """The examples at `indices` i64[B]: `image` u8[B,H,W,C] and `label` i32[B].

        Called from several threads at once.

        Args:
          indices: which examples.
          draws: u64[B], all the randomness of each row (see `draws.py`); None in evaluation, where
            nothing is random.
        """

    def name(self, index: int) -> str:
        """What the example at `index` is called where it comes from; reads its record."""

    def with_labels(self, labels: np.ndarray) -> "Source":
        """The same images under other labels, integers [N]: to `digest` other examples."""


class Labelled:
    """What sources have in common: labels in memory, one for each example."""

    _labels: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """All labels, i32[N]."""
        return self._labels

    def __len__(self) -> int:
        """The number of examples N."""
        return len(self._labels)


class Part(Labelled):
    """Some examples of another source, numbered anew from 0."""

    def __init__(self, source: Source, kept: np.ndarray) -> None:
        """Takes the source and which of its examples to keep, i64[N], in this order."""
        self._source = source
        self._kept = kept
        self._labels = source.labels[kept]

    @property
    def replaced(self) -> int:
        """How many different examples `broken` names."""
        return len(self.broken())

    def broken(self) -> np.ndarray:
        """The examples found so far that cannot be decoded, i64[M], ascending, each once."""
        return np.flatnonzero(np.isin(self._kept, self._source.broken()))

    def digest(self, indices: np.ndarray | None = None) -> str:
        """That of the same examples of the other source."""
        return self._source.digest(self._kept if indices is None else self._kept[indices])

    def batch(self, indices: np.ndarray, draws: np.ndarray | None = None) -> Batch:
        """The examples at `indices` i64[B]: `image` u8[B,H,W,C] and `label` i32[B]."""
        return self._source.batch(self._kept[indices], draws)

    def name(self, index: int) -> str:
        """What the example at `index` is called."""
        return self._source.name(int(self._kept[index]))

    def with_labels(self, labels: np.ndarray) -> "Part":
        """The same images under other labels, integers [N]."""
        others = self._source.labels.copy()
        others[self._kept] = labels
        return Part(self._source.with_labels(others), self._kept)


def subset(
    source: Source,
    *,
    count: int | None = None,
    ratio: float | None = None,
    seed: int,
    classes: np.ndarray | None = None,
    about: str = "",
) -> Source:
    """Keeps `count` examples, or the share `ratio` of them, the same share of every class.

    Nested: with one seed, a smaller choice lies within every larger one. The examples keep their
    relative order.

    Args:
      source: what to choose from.
      count: how many examples to keep, 1..N. Give either this or `ratio`.
      ratio: the share to keep, in (0, 1]; rounded to a whole number of examples.
      seed: chooses which ones, ≥ 0.
      classes: integers [N]; None: the labels of the source.
      about: what asks for so many, for errors.

    Raises:
      UserError: a number outside these ranges.
    """
    total = kept_of(len(source), count=count, ratio=ratio, about=about)
    classes = source.labels if classes is None else classes
    kept = np.sort(stratified_order(classes, seed)[:total])
    # A source that replaces broken images does so from within the part.
    return source.take(kept) if hasattr(source, "take") else Part(source, kept)


def kept_of(total: int, *, count: int | None, ratio: float | None, about: str) -> int:
    """How many of `total` examples `subset` keeps; arguments and errors are its own."""
    if (count is None) == (ratio is None):
        raise ValueError("subset takes either count or ratio")
    given = f"{count}"
    if ratio is not None:
        if not 0.0 < ratio <= 1.0:
            raise UserError(
                f"expected a share of the images in (0, 1], found {ratio}:"
                " give a number such as 0.25",
                about=about,
            )
        count = round(ratio * total)
        given = f"{count}, the share {ratio} of them"
    assert count is not None
    if not 1 <= count <= total:
        raise UserError(
            f"expected to keep between 1 and all {total} images, found {given}:"
            " ask for a number in that range",
            about=about,
        )
    return count


def fixed_subset(source: Source, count: int) -> Source:
    """The `count` examples that stand for all where an evaluation is of a part.

    A function of the data alone, not of a run's seed, so that runs of other seeds are judged on the
    same images. As with `subset`, every class has its share, and fewer lie within more.

    Args:
      source: what to choose from.
      count: how many examples to keep, 1..N.

    Raises:
      UserError: a number outside this range.
    """
    return subset(source, count=count, seed=0)


def stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order i64[N] of the examples, every prefix of which is stratified by class.

    Within a class the order is random. Example j of the n in its class is due at (j + 1/2) / n, and
    the examples are taken as they fall due, so any prefix holds the same share of every class to
    the nearest example, and prefixes are nested by construction.
    """
    shuffled = frozen_permutation(len(labels), seed, 0)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.unique(labels, return_counts=True)[1]
    first = np.repeat(np.cumsum(counts) - counts, counts)
    due = (np.arange(len(labels)) - first + 0.5) / np.repeat(counts, counts)
    # Classes of one size fall due together; they take turns in random order, not in label order.
    turn = np.repeat(frozen_permutation(len(counts), seed, 1), counts)
    return by_class[np.lexsort((turn, due))]


def frozen_permutation(size: int, *seeds: int) -> np.ndarray:
    """A random order i64[size], the same for the same `seeds` with every release of NumPy.

    `RandomState` is the one stream that NumPy promises never to change (NEP 19): a run that is
    resumed, or a part of the data that is chosen again, after an upgrade sees the same order.
    """
    if min(seeds) < 0:
        raise UserError(f"expected a seed of 0 or more, found {min(seeds)}: set config.seed to one")
    bits = np.random.MT19937(np.random.SeedSequence(seeds))
    return np.random.RandomState(bits).permutation(size).astype(np.int64, copy=False)


@dataclass(frozen=True)
class Dataset:
    """A training and a test source over the same classes, K = `len(class_names)`.

    They are one and the same where nothing to train on was opened.

    Raises:
      UserError: fewer than two classes, an empty source, or a label outside 0..K-1.
    """

    train: Source
    test: Source
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Checks the labels once, so that nothing downstream has to."""
        if self.num_classes < 2:
            raise UserError(
                "expected images of 2 classes or more, to tell them apart, found"
                f" {self.num_classes}: use a data set of several, or check its labels"
            )
        for split, source in (("test", self.test), ("training", self.train)):
            if not len(source):
                raise UserError(
                    f"expected at least one {split} image, found none: check config.data.data_dir"
                )
            low, high = int(source.labels.min()), int(source.labels.max())
            if low < 0 or high >= self.num_classes:
                raise UserError(
                    f"expected {split} labels within the {self.num_classes} classes"
                    f" 0..{self.num_classes - 1}, found labels from {low} to {high}:"
                    " check that the label files belong to these images"
                )

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)
