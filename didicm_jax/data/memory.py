"""Sets that fit into memory: their source, parts of them, and other sizes of their images.

Shapes: N examples in a source, B indices in a request, HxW pixels of C channels.
"""

import functools
import hashlib
from dataclasses import replace

import numpy as np

from didicm_jax.data.source import Batch, Dataset, Labelled, Source
from didicm_jax.data.splits import check_mixed, slices_of
from didicm_jax.errors import UserError


class ArraySource(Labelled):
    """Images and labels held in memory; a batch is one gather, and nothing in it is random."""

    replaced = 0
    _BYTES = 16  # that tell one example from all others

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Takes `images` u8[N,H,W,C] (not copied) and integer `labels` [N]."""
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"expected images u8[N,H,W,C], found {images.dtype}{images.shape}")
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"expected integer labels [{len(images)}], found {labels.dtype}{labels.shape}"
            )
        self._images = images
        self._labels = labels.astype(np.int32)

    def batch(self, indices: np.ndarray, draws: np.ndarray | None = None) -> Batch:
        """The examples at `indices` i64[B]: `image` u8[B,H,W,C] and `label` i32[B]."""
        return {"image": self._images[indices], "label": self._labels[indices]}

    def name(self, index: int) -> str:
        """Its number."""
        return str(index)

    def broken(self) -> np.ndarray:
        """None: these need no decoding."""
        return np.empty(0, np.int64)

    def digest(self, indices: np.ndarray | None = None) -> str:
        """Of the pixels, as they were before `with_images`, and labels of the examples."""
        chosen = self._identities if indices is None else self._identities[indices]
        return hashlib.sha256(chosen.tobytes()).hexdigest()

    def with_images(self, images: np.ndarray) -> "ArraySource":
        """The same examples, shown as `images` u8[N,h,w,C], such as smaller ones."""
        result = ArraySource(images, self._labels)
        result._identities = self._identities
        return result

    def with_labels(self, labels: np.ndarray) -> "ArraySource":
        """The same images under other labels, integers [N]."""
        result = ArraySource(self._images, labels)
        identities = self._identities.copy()
        # Of the identity before, and not of the pixels, which may be those of `with_images`.
        for row in np.flatnonzero(result._labels != self._labels):
            both = identities[row].tobytes() + result._labels[row].astype("<i4").tobytes()
            found = hashlib.blake2b(both, digest_size=self._BYTES).digest()
            identities[row] = np.frombuffer(found, np.uint8)
        result._identities = identities
        return result

    @functools.cached_property
    def _identities(self) -> np.ndarray:
        """A digest of each example by itself, so that those of any part follow: u8[N,16]."""
        shape = repr(self._images.shape[1:]).encode()
        digests = (
            hashlib.blake2b(shape + label.tobytes() + image.tobytes(), digest_size=self._BYTES)
            for image, label in zip(self._images, self._labels.astype("<i4"), strict=True)
        )
        joined = b"".join(each.digest() for each in digests)
        return np.frombuffer(joined, np.uint8).reshape(len(self), self._BYTES)


def choose(dataset: Dataset, train_split: str | None, eval_split: str) -> Dataset:
    """The data set, held in memory, with these parts for training and for evaluation.

    Args:
      dataset: its `train` and `test` are the splits of these names.
      train_split: see `slices_of`; None is that for evaluation.
      eval_split: the same; empty is `test`.

    Raises:
      UserError: no such split, or an empty part.
    """
    sources = {"train": dataset.train, "test": dataset.test}
    train = None if train_split is None else _part(sources, train_split, "train_split")
    test = _part(sources, eval_split or "test", "eval_split")
    return replace(dataset, train=test if train is None else train, test=test)


def _part(sources: dict[str, Source], split: str, key: str) -> Source:
    if split in sources:
        return sources[split]
    try:
        parts = slices_of(split, {name: [len(source)] for name, source in sources.items()})
    except ValueError as error:
        raise UserError(
            f"config.data.{key}: expected a part of {' or '.join(sources)}, such as train[:90%], "
            f"found {split!r} ({str(error).splitlines()[-1]}); change it"
        ) from error
    for part in parts:
        check_mixed(part, sources[part.split].labels, part.split)
    batches = [sources[part.split].batch(part.rows) for part in parts]
    return ArraySource(
        *(np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    )


def resized(dataset: Dataset, name: str, resolution: int) -> Dataset:
    """The data set with images of another side.

    Args:
      dataset: of sources in memory.
      name: of the set, for errors.
      resolution: the side in pixels.

    Raises:
      UserError: its images are not square, or smaller.
    """
    height, width, channels = dataset.image_shape
    if height != width or resolution > height:
        raise UserError(
            f"expected config.data.resolution to be at most that of {name}, square images, found"
            f" {resolution} for {height}x{width}: lower it or leave it out"
        )
    if resolution == height:
        return dataset
    from didicm_jax.data.decode import resize_all

    def shrink(source: Source) -> ArraySource:
        assert isinstance(source, ArraySource)  # as every set that fits into memory
        images = source.batch(np.arange(len(source)))["image"]
        return source.with_images(resize_all(images, resolution))

    return Dataset(
        shrink(dataset.train),
        shrink(dataset.test),
        dataset.class_names,
        (resolution, resolution, channels),
    )
