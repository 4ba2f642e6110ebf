"""What can be asked of a ResNet, checked before any parameter is made.

Everything here raises `UserError` with one line: what was expected, what was found, what to do.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from didicm_jax.diffusion.parameterization import PARAMETERIZATIONS
from didicm_jax.errors import UserError
from didicm_jax.models.conditioning import INITS
from didicm_jax.models.option_checks import (
    ImageSize,
    check_compute_dtype,
    check_image_size,
    check_positive_width,
    require_int,
    require_key,
)

STAGES = 4
STAGE_STRIDE = 8  # of the four stages together: all but the first halve the image
BASE_CHANNELS = 64


class Stem(NamedTuple):
    """The first convolution and whether a 3x3 max pool with stride 2 follows.

    size, stride: of the convolution.
    repeats: each pixel becomes so many a side before it.
    """

    size: int
    stride: int
    pools: bool
    repeats: int = 1

    @property
    def total_stride(self) -> int:
        """Pixels of the image, a side, for each of the last feature map."""
        return STAGE_STRIDE * self.stride * (2 if self.pools else 1) // self.repeats

    def map_size(self, sides: tuple[int, int], stage: int) -> int:
        """Pixels of the feature map in a stage, 0 the first, for images of these sides."""
        stride = self.stride * (2 if self.pools else 1) * 2**stage
        return math.prod(math.ceil(side * self.repeats / stride) for side in sides)


# By total stride, each twice that of the one before.
STEMS = {
    "fine": Stem(3, 1, False, repeats=2),  # for images of a few pixels: 4
    "small": Stem(3, 1, False),  # for thumbnails: 8
    "didirn": Stem(3, 1, True),  # the original's: 16
    "imagenet": Stem(7, 2, True),  # ResNet's: 32
}


@dataclass(frozen=True)
class ResNetOptions:
    """Options of the plain ResNets.

    in_channels: channels of the images.
    width: multiplier of all channel counts (64 in the first stage).
    stem: a key of `STEMS`.
    dtype: type that the convolutions compute in, float32 or bfloat16. What float32 means to them
      is left to `jax_default_matmul_precision`, by default bfloat16 products on TPUs and TF32 on
      GPUs; parameters, norms, conditioning and heads are float32 in any case.
    norm_axis_name: mapped axis over which BatchNorm shares its batch statistics; None keeps them
      to each device.
    """

    in_channels: int = 3
    width: float = 1.0
    stem: str = "didirn"
    dtype: DTypeLike = "float32"
    norm_axis_name: str | None = None

    @property
    def base_channels(self) -> int:
        """Channels of the stem and, inside its blocks, of the first stage."""
        return round(BASE_CHANNELS * self.width)

    @property
    def compute_dtype(self) -> jnp.dtype:
        """`dtype` as a NumPy type."""
        return jnp.dtype(self.dtype)

    def check(self, name: str, image_size: ImageSize) -> None:
        """Raises UserError unless model `name` can be built with these options."""
        require_int(f"{name}: in_channels", self.in_channels, 1)
        if not isinstance(self.stem, str) or self.stem not in STEMS:
            raise UserError(
                f"{name}: expected a stem out of {', '.join(STEMS)}, found {self.stem!r}: "
                "set stem to one of them"
            )
        self._check_width(name)
        check_compute_dtype(name, self.dtype)
        axis = self.norm_axis_name
        if axis is not None and (not isinstance(axis, str) or not axis):
            raise UserError(
                f"{name}: expected norm_axis_name to be the name of a mapped axis or None, found "
                f"{axis!r}: leave it out for per-device statistics"
            )
        self._check_image_size(name, image_size)

    def _check_width(self, name: str) -> None:
        width = self.width
        check_positive_width(name, width)
        # Even, because the GroupNorm of the conditioned blocks pairs the channels.
        if (
            self.base_channels < 2
            or self.base_channels != BASE_CHANNELS * width
            or (self.base_channels % 2)
        ):
            nearest = max(2, 2 * round(BASE_CHANNELS * width / 2)) / BASE_CHANNELS
            raise UserError(
                f"{name}: expected a width for which {BASE_CHANNELS} x width is an even number of "
                f"channels, found width={width} ({BASE_CHANNELS * width:g} channels): "
                f"use for example width={nearest}"
            )

    def _check_image_size(self, name: str, image_size: ImageSize) -> None:
        sides = check_image_size(name, image_size)
        stem = STEMS[self.stem]
        stride = stem.total_stride
        # At half the stride the last halving would find a single pixel, and see only padding.
        if min(sides) <= stride // 2:
            finest = next(iter(STEMS))
            other = f" or a stem of smaller stride (stem={finest!r})" if self.stem != finest else ""
            raise UserError(
                f"{name}: expected images of at least {stride // 2 + 1} pixels a side for the "
                f"stem {self.stem!r} (total stride {stride}), found {sides[0]}x{sides[1]}: "
                f"use larger images{other}"
            )


@dataclass(frozen=True)
class ScoreOptions(ResNetOptions):
    """Options of DiDiRN: those of `ResNetOptions` and

    conditioned_stages: how many stages see label and noise, counted from the end: 4 is the paper,
      1 the last stage, 0 none (two small MLPs on the pooled feature see them). What comes before
      the first conditioned block runs once per image, however many steps are sampled.
    parameterization: what the output stands for, a key of `PARAMETERIZATIONS`: `ratio`, free
      log-ratios as in the paper; `bounded`, log-ratios held within what a score can be; or
      `posterior`, logits of the clean posterior.
    init: a key of `INITS`: `zero`, where training starts from the score of pure noise, or `torch`,
      the original's.
    group_elements: values that a group of a GroupNorm has at least, its channels times the pixels
      of the map, where there are so many. Two values normalise to their sign.
    """

    conditioned_stages: int = STAGES
    parameterization: str = "ratio"
    init: str = "zero"
    group_elements: int = 16

    def check(self, name: str, image_size: ImageSize) -> None:
        """Raises UserError unless model `name` can be built with these options."""
        super().check(name, image_size)
        require_int(f"{name}: conditioned_stages", self.conditioned_stages, 0, STAGES)
        require_key(f"{name}: parameterization", self.parameterization, PARAMETERIZATIONS)
        require_key(f"{name}: init", self.init, INITS)
        require_int(f"{name}: group_elements", self.group_elements, 1)
