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
from didicm_jax.data import decode, records
from didicm_jax.data.options import PhotoOptions, cores
from didicm_jax.data.records import RecordSource

_SIZE = (500, 375)
_QUALITY = 90
_BATCH = 64


def run(
    *,
    resolutions: tuple[int, ...] = (224, 112, 56),
    images: int = 64,
    repeats: int = 10,
    num_workers: tuple[int, ...] = (1, 2, 4),
) -> Iterator[dict[str, Any]]:
    """Yields one record per measurement.

    Args:
      resolutions: sides of the output in pixels.
      images: how many are decoded in each round, a multiple of 64.
      repeats: how often each measurement is taken.
      num_workers: the numbers of threads to compare.
    """
    photos = _photos()
    for resolution in resolutions:
        yield from _decoders(photos, resolution, images, repeats)
    yield from _threads(photos, resolutions[0], images, repeats, num_workers)
    yield from _overheads(photos, repeats)


def _photos() -> list[bytes]:
    encoded = []
    for pixels in datasets.load_sample_images().images:
        buffer = io.BytesIO()
        photo = Image.fromarray(pixels).resize(_SIZE, Image.Resampling.BICUBIC)
        photo.save(buffer, "JPEG", quality=_QUALITY)
        encoded.append(buffer.getvalue())
    return encoded


def _records(photos: list[bytes], count: int) -> tuple[list[bytes], np.ndarray]:
    """Serialized examples as tfds stores them, and their labels."""
    serialized = []
    for label, photo in enumerate(photos):
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(photo)
        example.features.feature["label"].int64_list.value.append(label)
        serialized.append(example.SerializeToString())
    labels = np.arange(count) % len(photos)
    return [serialized[label] for label in labels], labels


def _source(photos: list[bytes], resolution: int, count: int, threads: int) -> RecordSource:
    options = PhotoOptions(resolution=resolution, num_workers=threads)
    examples, labels = _records(photos, count)
    return RecordSource(examples, labels, image_key="image", name="photos", options=options)


def _decoders(
    photos: list[bytes], resolution: int, images: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """A pipeline of Pillow alone, and ours with each decoder that this machine has."""
    source = _source(photos, resolution, images, threads=1)
    available = dict(decode.JPEG_DECODERS)

    def ours(decoder: str) -> Callable[[], None]:
        def batches() -> None:
            decode.JPEG_DECODERS.clear()
            if decoder in available:
                decode.JPEG_DECODERS[decoder] = available[decoder]
            for step in range(images // _BATCH):
                data.train_batch(source, step=step, batch_size=_BATCH, seed=0)

        return batches

    cases = {"pillow": lambda: _pillow(photos, resolution, images)}
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
            "images_per_cpu_second": round(images // _BATCH * _BATCH / statistics.median(each)),
        }
        if name != "pillow":
            record["versus"] = "Pillow, as many times as fast"
            record |= ratios(seconds["pillow"], each)
        yield record


def _pillow(photos: list[bytes], resolution: int, images: int) -> None:
    """As timm and torchvision do it: decode all, crop, resize; one process, into one array."""
    draw = random.Random(0)
    batch = np.empty((_BATCH, resolution, resolution, 3), np.uint8)
    for n in range(images // _BATCH * _BATCH):
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


def _threads(
    photos: list[bytes], resolution: int, images: int, rounds: int, num_workers: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """The same work on more threads of one process: how far decoding releases the GIL."""

    def batches(source: RecordSource) -> Callable[[], None]:
        def take() -> None:
            for step in range(images // _BATCH):
                data.train_batch(source, step=step, batch_size=_BATCH, seed=0)

        return take

    cases = {n: batches(_source(photos, resolution, images, threads=n)) for n in num_workers}
    seconds = in_turns(cases, repeats=rounds)
    for count, each in seconds.items():
        record = {
            "benchmark": "loader/threads",
            "resolution": resolution,
            "num_workers": count,
            "cores": cores(),
            "images_per_second": round(images // _BATCH * _BATCH / statistics.median(each)),
        }
        if count != num_workers[0]:
            record["versus"] = f"{num_workers[0]} thread, as many times as fast"
            record |= ratios(seconds[num_workers[0]], each)
        yield record


def _overheads(photos: list[bytes], rounds: int) -> Iterator[dict[str, Any]]:
    """What a batch costs with decoding replaced by a copy: order, records, crops, batching."""
    count, resolution = 2048, 56
    source = _source(photos, resolution, count, threads=1)
    arrays = data.ArraySource(
        np.zeros((count, resolution, resolution, 3), np.uint8), np.zeros(count, np.int64)
    )
    pixels = np.zeros((resolution, resolution, 3), np.uint8)

    def copy(
        data_: bytes, choose_box: decode.ChooseBox, out: np.ndarray, *, max_pixels: int
    ) -> None:
        del data_, max_pixels
        choose_box(*_SIZE)
        np.copyto(out, pixels)

    def batches(of: data.Source) -> Callable[[], None]:
        def take() -> None:
            for step in range(count // 256):
                data.train_batch(of, step=step, batch_size=256, seed=0, repeats=3)

        return take

    original = records.decode_crop
    records.decode_crop = copy  # type: ignore[assignment]
    try:
        cases = {"records": batches(source), "arrays": batches(arrays)}
        seconds = in_turns(cases, repeats=rounds, clock=time.process_time)
    finally:
        records.decode_crop = original
    for name, each in seconds.items():
        yield {
            "benchmark": f"loader/overhead/{name}",
            "resolution": resolution,
            "images_per_cpu_second": round(count / statistics.median(each)),
        }
