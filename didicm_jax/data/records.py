"""A source over serialized examples: reads, decodes and crops the images of a batch on threads.

Threads and not processes: reading, decoding and resizing release the GIL, the Python around them
takes about 15 µs an image against 600 to 1,100 µs of decoding, and every thread writes into the
batch itself, so that no image is copied or sent. `launch/bench.py loader` measures the decoders,
the Python around them and the scaling with threads.

Shapes: N examples, B rows of a batch, R the resolution.
"""

import copy
import hashlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
from google.protobuf import message
from tensorflow_datasets.proto import tf_example_pb2

from didicm_jax.data.crops import NUM_UNIFORMS, Box, center_box, random_box
from didicm_jax.data.decode import BrokenImage, decode_crop
from didicm_jax.data.draws import uniforms
from didicm_jax.data.options import PhotoOptions
from didicm_jax.data.shown import Shown
from didicm_jax.data.source import Batch, Labelled
from didicm_jax.errors import UserError, first_line

_LOG = logging.getLogger(__name__)

# Rows that a thread takes at a time: enough that handing them out costs nothing, few enough that
# the threads end together.
_ROWS_AT_A_TIME = 8
_NAME_KEYS = ("file_name", "filename", "image/filename", "id")


class Records(Protocol):
    """Random access to serialized `tf.train.Example`s, from several threads at once."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> bytes:
        """One of them."""


class RecordSource(Labelled):
    """Photos in records, cropped anew each time they are asked for.

    A row's crop is random where the request has a draw for it, and the centre where it has none.
    An image that cannot be decoded is replaced by the next one that can, with its label. What looks
    the same each time is kept in memory where the options have room for all of it.
    """

    def __init__(
        self,
        records: Records,
        labels: np.ndarray,
        *,
        image_key: str,
        name: str,
        options: PhotoOptions,
        identify: Callable[[np.ndarray], str] | None = None,
    ) -> None:
        """Takes what the records hold.

        Args:
          records: the examples, each with one encoded image.
          labels: integers [N], one for each record.
          image_key: the feature that holds the image.
          name: what the log and errors call these records.
          options: size and crops.
          identify: says what the records at i64[M] are, in this order, without reading them
            (`identity.digest`); None reads them.
        """
        self._records = records
        self._labels = labels.astype(np.int32, copy=False)
        self._kept = np.arange(len(labels))
        self._image_key = image_key
        self._name = name
        self._options = options
        self._lock = threading.Lock()
        self._identify = identify
        self._broken: set[int] = set()
        self._shown: dict[bool, Shown] = {}  # in training, and in evaluation
        self._pool: ThreadPoolExecutor | None = None
        if options.threads > 1:
            self._pool = ThreadPoolExecutor(options.threads, thread_name_prefix="decode")

    @property
    def replaced(self) -> int:
        """How many different examples `broken` names."""
        return len(self._broken)

    def broken(self) -> np.ndarray:
        """The examples found so far that cannot be decoded, i64[M], ascending, each once."""
        with self._lock:
            found = sorted(self._broken)
        return np.array(found, np.int64)

    def digest(self, indices: np.ndarray | None = None) -> str:
        """What the examples at `indices` i64[M] are, labels included; None for all."""
        chosen = slice(None) if indices is None else indices
        labels = self._labels[chosen].astype("<i4").tobytes()
        identify = self._identify or self._read_digest
        return hashlib.sha256(identify(self._kept[chosen]).encode() + labels).hexdigest()

    def _read_digest(self, kept: np.ndarray) -> str:
        each = (hashlib.sha256(self._records[int(record)]).digest() for record in kept)
        return hashlib.sha256(b"".join(each)).hexdigest()

    def take(self, kept: np.ndarray) -> "RecordSource":
        """The examples at `kept` i64[M], numbered anew; replacements come from among them."""
        part = copy.copy(self)
        part._labels, part._kept = self._labels[kept], self._kept[kept]
        part._broken, part._shown = set(), {}
        return part

    def with_labels(self, labels: np.ndarray) -> "RecordSource":
        """The same images under other labels, integers [N]."""
        result = copy.copy(self)
        result._labels = labels.astype(np.int32)
        result._broken, result._shown = set(), {}
        return result

    def batch(self, indices: np.ndarray, draws: np.ndarray | None = None) -> Batch:
        """The examples at `indices` i64[B]: `image` u8[B,R,R,3] and `label` i32[B].

        Args:
          indices: which examples.
          draws: u64[B], what each row's crop is made from; None shows the centre of each image.

        Raises:
          UserError: more broken images than `max_broken_share` of the examples.
        """
        shown = self._shown_before(random=draws is not None)
        if shown is None:
            return self._read(indices, draws)
        if (missing := shown.missing(indices)).size:
            # Which draws they are does not matter here.
            drawn = None if draws is None else missing.astype(np.uint64)
            shown.keep(missing, self._read(missing, drawn))
        return shown.batch(indices)

    def _shown_before(self, *, random: bool) -> Shown | None:
        """What was shown of the examples, where it is kept."""
        options, count = self._options, len(self)
        room = options.cache_gib * 2**30
        if count * options.image_bytes > room or (random and options.crops_at_random):
            return None
        with self._lock:
            if random not in self._shown:
                self._shown[random] = Shown(count, options.resolution)
            return self._shown[random]

    def _read(self, indices: np.ndarray, draws: np.ndarray | None) -> Batch:
        count, size = len(indices), self._options.resolution
        images = np.empty((count, size, size, 3), np.uint8)
        labels = np.empty(count, np.int32)
        if draws is not None and not self._options.crops_at_random:
            # Rounding may leave a crop one pixel of room: always the same, kept in memory or not.
            draws = np.zeros_like(draws)
        numbers = None if draws is None else uniforms(draws, NUM_UNIFORMS).tolist()

        def fill(start: int) -> None:
            for row in range(start, min(start + _ROWS_AT_A_TIME, count)):
                crop = None if numbers is None else numbers[row]
                labels[row] = self._show(int(indices[row]), crop, images[row])

        starts = range(0, count, _ROWS_AT_A_TIME)
        for _ in map(fill, starts) if self._pool is None else self._pool.map(fill, starts):
            pass
        return {"image": images, "label": labels}

    def name(self, index: int) -> str:
        """The name of its file, or, where the record has none, the number of the record."""
        record = int(self._kept[index])
        try:
            return _name(_features(self._records, record)) or str(record)
        except BrokenImage:
            return str(record)

    def _show(self, index: int, numbers: list[float] | None, out: np.ndarray) -> int:
        """Writes the image of example `index`, or of the next sound one, and gives its label."""
        options = self._options

        def choose_box(width: int, height: int) -> Box:
            if numbers is None:
                return center_box(
                    width, height, resolution=options.resolution, crop=options.eval_crop
                )
            return random_box(
                width, height, numbers, scale=options.crop_scale, ratio=options.crop_ratio
            )

        while True:
            features = {}
            try:
                features = _features(self._records, int(self._kept[index]))
                values = features[self._image_key].bytes_list.value
                if not values:
                    raise BrokenImage("the record holds no image")
                decode_crop(values[0], choose_box, out, max_pixels=options.max_pixels)
                return int(self._labels[index])
            except BrokenImage as error:
                self._note_broken(index, features, error)
            index = (index + 1) % len(self)

    def _note_broken(self, index: int, features: dict, error: BrokenImage) -> None:
        record = int(self._kept[index])
        name = _name(features)
        name = f" ({name})" if name else ""
        with self._lock:
            is_new = index not in self._broken
            self._broken.add(index)
            count = len(self._broken)
        if is_new:
            _LOG.warning(
                "%s[%d]%s cannot be decoded, the next image takes its place: %s",
                *(self._name, record, name, error),
            )
        if count > self._options.max_broken_share * len(self):
            raise UserError(
                f"expected at most {self._options.max_broken_share:.3%} of the {len(self):,} images"
                f" of {self._name} to be broken, found {count:,}, the last one [{record}]{name}:"
                " prepare the data again, or raise config.data.max_broken_share"
            )


def _features(records: Records, index: int) -> Any:
    """The features of an example, by name; BrokenImage where it cannot be read."""
    try:
        return tf_example_pb2.Example.FromString(records[index]).features.feature
    except (message.DecodeError, RuntimeError) as error:  # the latter by array_record's checksums
        raise BrokenImage(f"the record is damaged ({first_line(error)})") from error


def _name(features: Any) -> str:
    names = [features[key].bytes_list.value for key in _NAME_KEYS if key in features]
    return next((value[0].decode(errors="replace") for value in names if len(value)), "")


def read_label(records: Records, index: int, label_key: str) -> int:
    """The label of an example.

    Raises:
      BrokenImage: the record is damaged or has none.
    """
    features = _features(records, index)
    values = list(features[label_key].int64_list.value) if label_key in features else []
    if not values:
        raise BrokenImage(f"no {label_key}")
    return values[0]
