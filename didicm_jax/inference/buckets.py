"""Rows of images of any length in batches of a few sizes, each of which is compiled once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

BUCKETS = (1, 8, 64)


class Part(NamedTuple):
    """Neighbouring images that are predicted together."""

    start: int
    images: int
    size: int  # of the batch: these, and padding


def batches(total: int, buckets: Sequence[int]) -> Iterator[Part]:
    """Cuts `total` images into batches of the sizes in `buckets`, which ascend.

    A rest that fills no bucket is padded to the smallest bucket that holds it, if that one is then
    at least half full: padding never more than doubles the work, except for a rest below half of
    the smallest bucket. No images at all still make one batch of padding, whose results have the
    right shapes without any row.
    """
    start = 0
    while start < max(total, 1):
        left = total - start
        full = [size for size in buckets if size <= left]
        holding = [size for size in buckets if size >= left]
        if holding and (2 * left >= holding[0] or not full):
            size, images = holding[0], left
        else:
            size = images = full[-1]
        yield Part(start, images, size)
        start += max(images, 1)
