"""Writes a listing of images as a tensorflow-datasets set of array_record, without TensorFlow.

The writer is tfds's shard by shard one: its usual one shuffles through temporary files, for which
it needs TensorFlow as soon as a split exceeds 1 GB. So the images are read in the order that they
are stored in, in which every part of a split, such as `train[95%:]`, has its share of every class.
"""

import contextlib
import functools
import io
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from didicm_jax import files
from didicm_jax.data import LOADERS, prepared
from didicm_jax.data import labels as label_files
from didicm_jax.data.decode import BrokenImage, check_bytes
from didicm_jax.data.listing import Item, Listing
from didicm_jax.data.options import MAX_PIXELS, check_max_pixels, cores
from didicm_jax.data.prepared import Prepared
from didicm_jax.data.progress import show_progress
from didicm_jax.data.repair import to_stored
from didicm_jax.errors import UserError, first_line

_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Of a shard. tfds holds the one that it writes in memory.
_SHARD_BYTES = 256 << 20
# Images in work ahead of the writer, per thread.
_AHEAD = 8


class BrokenFiles(UserError):
    """More broken files than allowed; `names` lists them all."""

    def __init__(self, message: str, names: tuple[str, ...]) -> None:
        """Takes the line to show and the files, each with its split and what is wrong with it."""
        super().__init__(message)
        self.names = names


def check(name: str, *, shorter_side: int, max_bad: int, max_pixels: int, workers: int) -> None:
    """Refuses what `prepare` cannot be asked for, before anything is listed.

    Raises:
      UserError: `name` cannot be that of a set, or a number is out of range.
    """
    if min(shorter_side, max_bad, workers) < 0:
        raise UserError(
            "expected shorter_side, max_bad and workers to be 0 or more, found"
            f" {shorter_side}, {max_bad} and {workers}: raise the negative one"
        )
    check_max_pixels(max_pixels)
    if not _NAME.fullmatch(name) or name in LOADERS:
        raise UserError(
            f"expected the name to be lower-case letters, digits and _, starting with a letter, and"
            f" not {' or '.join(LOADERS)}, found {name!r}: choose another"
        )


def prepare(
    listing: Listing,
    data_dir: Path,
    *,
    shorter_side: int = 0,
    max_bad: int = 0,
    max_pixels: int = MAX_PIXELS,
    workers: int = 0,
) -> Prepared:
    """Stores the images of `listing` as `data_dir`/NAME/VERSION, or finds that they are there.

    Atomic: the folder gets its name when everything in it is written. What an interrupted run left
    behind is deleted by the next one, which starts over.

    Args:
      listing: the images.
      data_dir: a local folder; made where it is missing.
      shorter_side: shrink larger images to so many pixels, and store them as JPEG; 0 does not.
      max_bad: broken files beyond this number are an error, and nothing is stored.
      max_pixels: an image of more pixels counts as broken.
      workers: threads that check and encode images; 0 is one per core.

    Raises:
      BrokenFiles: more than `max_bad` broken files.
      UserError: another run is at work on this set, the set is there but made from something else,
        or the disk does not take it.
    """
    check(
        listing.name,
        shorter_side=shorter_side,
        max_bad=max_bad,
        max_pixels=max_pixels,
        workers=workers,
    )
    described = prepared.describe(listing, shorter_side, max_pixels)
    parent = data_dir / listing.name
    folder = parent / listing.version
    try:
        if folder.exists():  # Then nothing is written, and it may be where nothing can be.
            return prepared.found(folder, listing, described)
        with _only_run(parent):
            if folder.exists():
                return prepared.found(folder, listing, described)
            for stale in parent.glob(f"{tfds.core.constants.INCOMPLETE_PREFIX}*"):
                shutil.rmtree(stale)
            encode = functools.partial(
                _encode, listing=listing, shorter_side=shorter_side, max_pixels=max_pixels
            )
            return _write(listing, data_dir, encode, described, max_bad, workers)
    except (OSError, RuntimeError) as error:  # the latter where array_record's writer fails
        raise UserError(
            f"expected to read the source and to write to {parent}, found"
            f" {first_line(error)}: check permissions, space and data_dir"
        ) from error


@contextlib.contextmanager
def _only_run(parent: Path) -> Iterator[None]:
    """Holds the lock of the set in `parent`, which the system frees when the process ends."""
    parent.mkdir(parents=True, exist_ok=True)
    with files.lock(parent / ".prepare.lock") as free:
        if not free:
            raise UserError(
                f"expected to be alone at work on {parent}, found another run that prepares it:"
                " wait for it to end or stop it"
            )
        yield


def _write(
    listing: Listing,
    data_dir: Path,
    encode: Callable[[Item], bytes],
    described: dict[str, Any],
    max_bad: int,
    workers: int,
) -> Prepared:
    threads = workers or cores()
    with ThreadPoolExecutor(threads) as pool:
        work = _Work(
            listing, lambda item: pool.submit(encode, item), _AHEAD * threads, described, max_bad
        )
        cls = type(
            "Prepared",
            (_Builder,),
            {"name": listing.name, "VERSION": tfds.core.Version(listing.version)},
            skip_registration=True,
        )
        builder = cls(work=work, data_dir=str(data_dir))
        tfds.disable_progress_bar()  # Ours counts images, theirs would count shards beside it.
        # tfds prints that it downloads a set of unknown size; it downloads nothing.
        # It also insists on a folder for downloads.
        with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as empty:
            builder.download_and_prepare(file_format="array_record", download_dir=empty)
    counts = {split: len(labels) for split, labels in work.labels.items()}
    folder = data_dir / listing.name / listing.version
    return Prepared(folder, counts, tuple(work.broken), is_new=True)


def _encode(item: Item, listing: Listing, shorter_side: int, max_pixels: int) -> bytes:
    check_bytes(item.size, max_pixels)
    return to_stored(
        item.read(),
        keep_png=listing.keep_png,
        upright=listing.upright,
        shorter_side=shorter_side,
        max_pixels=max_pixels,
    )


class _Work:
    """Encodes the images of a listing on a pool, in order, and keeps the books."""

    def __init__(
        self,
        listing: Listing,
        submit: Callable[[Item], Future[bytes]],
        ahead: int,
        described: dict[str, Any],
        max_bad: int,
    ) -> None:
        self.listing = listing
        self.described = described
        self.max_bad = max_bad
        self.labels: dict[str, list[int]] = {split: [] for split in listing.splits}
        self.broken: list[str] = []
        self._submit = submit
        self._ahead = ahead

    def shards(self, split: str) -> list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]:
        """A generator for each shard of `split`; to be used one after the other."""
        items = prepared.stored_order(self.listing.splits[split])
        size = sum(item.size for item in items)
        count = max(1, min(len(items), size // _SHARD_BYTES))
        bounds = [len(items) * n // count for n in range(count + 1)]
        what = f"{self.listing.name} {split}"
        results = show_progress(self._results(items), total=len(items), what=what)
        return [
            functools.partial(self._shard, split, results, end - start)
            for start, end in pairwise(bounds)
        ]

    def _shard(
        self, split: str, results: Iterator[tuple[Item, Future[bytes]]], count: int
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for _ in range(count):
            item, future = next(results)
            try:
                image = future.result()
            except BrokenImage as error:
                self.broken.append(f"{split}/{item.name}: {error}")
                continue
            self.labels[split].append(item.label)
            yield item.name, {"image": image, "label": item.label, "file_name": item.name}

    def _results(self, items: list[Item]) -> Iterator[tuple[Item, Future[bytes]]]:
        waiting: deque[tuple[Item, Future[bytes]]] = deque()
        for item in items:
            waiting.append((item, self._submit(item)))
            if len(waiting) > self._ahead:
                yield waiting.popleft()
        yield from waiting

    def check(self) -> None:
        """Raises what makes the result unfit to be kept."""
        if len(self.broken) > self.max_bad:
            raise BrokenFiles(
                f"expected at most {self.max_bad} broken files, found {len(self.broken)}, the first"
                f" {self.broken[0]}: repair or remove them, or allow them with"
                f" max_bad={len(self.broken)}",
                tuple(self.broken),
            )
        for split, labels in self.labels.items():
            if not labels:
                raise UserError(
                    f"expected at least one sound image for {split}, found none: check the source"
                )
        lost = {item.label for item in self.listing.splits["train"]} - set(self.labels["train"])
        if lost:
            raise UserError(
                "expected a sound image or more of each class to train on, found none of"
                f" {self.listing.class_names[min(lost)]!r}: repair some, or take the class away"
            )


class _Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The tfds builder of a listing; `name` and `VERSION` are set in a subclass for each."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, work: _Work, **kwargs: Any) -> None:
        self._work = work
        self._made = tfds.core.MetadataDict(work.described)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # The features of tfds's own imagenet2012, so that anything that reads that reads these.
        encoding = None if self._work.listing.keep_png else "jpeg"
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format=encoding),
                    "label": tfds.features.ClassLabel(names=list(self._work.listing.class_names)),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            metadata=self._made,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        del dl_manager  # Nothing is downloaded.
        return {split: self._work.shards(split) for split in self._work.listing.splits}

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Within the temporary folder that gets its name when this returns."""
        super()._download_and_prepare(dl_manager, download_config)
        work = self._work
        work.check()
        for split, labels in work.labels.items():
            written = self.info.splits[split].num_examples
            listed = len(work.listing.splits[split])
            lost = sum(name.startswith(f"{split}/") for name in work.broken)
            if not written == len(labels) == listed - lost:
                raise AssertionError(f"{split}: {written} written of {listed}, {lost} broken")
            path = Path(self.data_dir) / label_files.labels_file(self.name, split)
            path.write_bytes(label_files.encode(np.asarray(labels)))
        self._made["counts"] = {split: len(labels) for split, labels in work.labels.items()}
        self._made["broken"] = list(work.broken)
