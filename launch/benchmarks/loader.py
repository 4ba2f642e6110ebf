"""How fast photos become batches on this host: `taskset -c 0 python launch/bench.py loader`.

Photos are scikit-learn's two, 500x375 JPEG of quality 90. Everything is measured in turns within
one run. As neighbours on a shared machine slow a round, figures per core are per second of
processor time. Expected, as multiples of Pillow at 224, 112 and 56 pixels: simplejpeg 1.8, 2.0,
2.1; TurboJPEG 3 2.3, 2.6, 2.7.
"""

import io
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from benchmarks.timing import in_turns, ratios
from PIL import Image
from sklearn import datasets
from tensorflow_datasets.proto import tf_example_pb2

from didicm_jax import data
from didicm_jax.data import decode
from didicm_jax.data.options import PhotoOptions, cores
from didicm_jax.data.records import RecordSource

_SIZE = (500, 375)
_QUALITY = 90
_BATCH = 64
_RESOLUTIONS = (224, 112, 56)  # sides of the output in pixels
_IMAGES = 64  # that are decoded in a round, a multiple of the batch
_THREADS = (1, 2, 4)


def run(repeats: int = 10) -> Iterator[dict[str, Any]]:
    """Yields one record per measurement, of which each is the median of so many rounds."""
    photos = _photos()
    for resolution in _RESOLUTIONS:
        yield from _decoders(photos, resolution, repeats)
    yield from _threads(photos, _RESOLUTIONS[0], repeats)


def _photos() -> list[bytes]:
    encoded = []
    for pixels in datasets.load_sample_images().images:
        buffer = io.BytesIO()
        photo = Image.fromarray(pixels).resize(_SIZE, Image.Resampling.BICUBIC)
        photo.save(buffer, "JPEG", quality=_QUALITY)
        encoded.append(buffer.getvalue())
    return encoded


def _records(photos: list[bytes]) -> tuple[list[bytes], np.ndarray]:
    """Serialized examples as tfds stores them, and their labels."""
    serialized = []
    for label, photo in enumerate(photos):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(photo)
        example.features.feature["label"].int64_list.value.append(label)
        serialized.append(example.SerializeToString())
    labels = np.arange(_IMAGES) % len(photos)
    return [serialized[label] for label in labels], labels


def _source(photos: list[bytes], resolution: int, threads: int) -> RecordSource:
    options = PhotoOptions(resolution=resolution, num_workers=threads)
    examples, labels = _records(photos)
    return RecordSource(examples, labels, image_key="image", name="photos", options=options)


def _decoders(photos: list[bytes], resolution: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A pipeline of Pillow alone, and ours with each decoder that this machine has."""
    source = _source(photos, resolution, threads=1)
    available = dict(decode.JPEG_DECODERS)

    def ours(decoder: str) -> Callable[[], None]:
        def batches() -> None:
            decode.JPEG_DECODERS.clear()
            if decoder in available:
                decode.JPEG_DECODERS[decoder] = available[decoder]
            for step in range(_IMAGES // _BATCH):
                data.train_batch(source, step=step, batch_size=_BATCH, seed=0)

        return batches

    cases = {"pillow": lambda: _pillow(photos, resolution)}
    cases |= {name: ours(name) for name in (*available, "pillow_draft")}
    try:
        seconds = in_turns(cases, repeats=rounds, clock=time.process_time)
    finally:
        decode.JPEG_DECODERS.clear()
        decode.JPEG_DECODERS.update(available)
    for name, each in seconds.items():
        record = {
            "benchmark": f"loader/crop/{name}",
            "resolution": resolution,
            "images_per_cpu_second": round(_IMAGES / statistics.median(each)),
        }
        if name != "pillow":
            record["versus"] = "Pillow, as many times as fast"
            record |= ratios(seconds["pillow"], each)
        yield record


def _pillow(photos: list[bytes], resolution: int) -> None:
    """As timm and torchvision do it: decode all, crop, resize; one process, into one array."""
    draw = random.Random(0)
    batch = np.empty((_BATCH, resolution, resolution, 3), np.uint8)
    for n in range(_IMAGES):
        image = Image.open(io.BytesIO(photos[n % len(photos)])).convert("RGB")
        left, top, width, height = _pillow_box(draw, *image.size)
        crop = image.crop((left, top, left + width, top + height))
        small = crop.resize((resolution, resolution), Image.Resampling.BILINEAR)
        batch[n % _BATCH] = np.asarray(small)


def _pillow_box(draw: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * draw.uniform(0.08, 1)
        aspect = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= width and h <= height:
            return draw.randint(0, width - w), draw.randint(0, height - h), w, h
    return 0, 0, width, height


def _threads(photos: list[bytes], resolution: int, rounds: int) -> Iterator[dict[str, Any]]:
    """The same work on more threads of one process: how far decoding releases the GIL."""

    def batches(source: RecordSource) -> Callable[[], None]:
        def take() -> None:
            for step in range(_IMAGES // _BATCH):
                data.train_batch(source, step=step, batch_size=_BATCH, seed=0)

        return take

    cases = {n: batches(_source(photos, resolution, threads=n)) for n in _THREADS}
    seconds = in_turns(cases, repeats=rounds)
    for count, each in seconds.items():
        record = {
            "benchmark": "loader/threads",
            "resolution": resolution,
            "num_workers": count,
            "cores": cores(),
            "images_per_second": round(_IMAGES / statistics.median(each)),
        }
        if count != _THREADS[0]:
            record["versus"] = f"{_THREADS[0]} thread, as many times as fast"
            record |= ratios(seconds[_THREADS[0]], each)
        yield record
