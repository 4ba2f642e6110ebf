"""What `load` is told about photos: which part is shown, how large, and from which split."""

import math
import os
from dataclasses import dataclass

from didicm_jax.errors import UserError

# Pillow's own: 256 MiB of RGB.
MAX_PIXELS = 89_478_485


@dataclass(frozen=True)
class PhotoOptions:
    """Which splits a set is read from, and how images that need decoding become batches.

    resolution: the side of the images in pixels.
    crop_scale: in training, the random crop's smallest and largest share of the area.
    crop_ratio: its smallest and largest width / height.
    eval_crop: in evaluation, how much of the shorter side the centred square shows.
    train_split: as tfds understands it, `train` or `train[:90%]`; None opens nothing to train on.
    eval_split: the same for evaluation; empty is `validation`, or `test` where that is missing.
    max_broken_share: more broken images than this share of a split end the run.
    max_pixels: an image of more pixels is not decoded, it counts as broken.
    num_workers: threads that decode for each split; 0 is one per core.
    cache_gib: GiB of decoded images that a split may keep in memory, where they look the same each
      time.

    Raises:
      UserError: a value outside its range.
    """

    resolution: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    eval_crop: float = 0.875
    train_split: str | None = "train"
    eval_split: str = ""
    max_broken_share: float = 0.001
    max_pixels: int = MAX_PIXELS
    num_workers: int = 0
    cache_gib: float = 1.0

    def __post_init__(self) -> None:
        """Checks every value, before anything is opened."""
        _check_range("crop_scale", self.crop_scale, most=1.0)
        _check_range("crop_ratio", self.crop_ratio, most=math.inf)
        if self.resolution < 1:
            raise _wrong("resolution", "1 pixel or more", self.resolution, 224)
        if not 0 < self.eval_crop <= 1:
            raise _wrong(
                "eval_crop", "a share of the shorter side in (0, 1]", self.eval_crop, 0.875
            )
        if not 0 <= self.max_broken_share < 1:
            raise _wrong("max_broken_share", "a share in [0, 1)", self.max_broken_share, 0.001)
        check_max_pixels(self.max_pixels)
        if self.num_workers < 0:
            raise _wrong("num_workers", "0 (one per core) or more", self.num_workers, 0)
        if not 0 <= self.cache_gib < math.inf:
            raise _wrong("cache_gib", "0 (nothing is kept) or more", self.cache_gib, 1)
        if self.train_split == "":
            raise _wrong("train_split", "the name of a split", "''", "train")

    @property
    def crops_at_random(self) -> bool:
        """Whether training shows an image in different crops."""
        return self.crop_scale != (1, 1) or self.crop_ratio[0] != self.crop_ratio[1]

    @property
    def image_bytes(self) -> int:
        """Of an image as it is shown."""
        return 3 * self.resolution**2

    @property
    def threads(self) -> int:
        """How many images are decoded at once."""
        return self.num_workers or cores()


def cores() -> int:
    """How many cores this process may use, which containers and taskset lower."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_max_pixels(max_pixels: int) -> None:
    """Raises UserError where `max_pixels` is no number of pixels that an image can have."""
    if max_pixels < 1:
        raise _wrong("max_pixels", "1 pixel or more", max_pixels, MAX_PIXELS)


def _check_range(key: str, values: tuple[float, float], *, most: float) -> None:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= most or values[1] == math.inf:
        upper = "" if most == math.inf else f" up to {most:g}"
        raise _wrong(key, f"a smallest and a largest number above 0{upper}", values, (0.08, 1))


def _wrong(key: str, expected: str, found: object, example: object) -> UserError:
    return UserError(
        f"expected config.data.{key} to be {expected}, found {found}: set it to one, such as"
        f" {example}"
    )
