"""What can be asked of a ViT, checked before any parameter is made."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from didicm_jax.diffusion.parameterization import PARAMETERIZATIONS
from didicm_jax.errors import UserError
from didicm_jax.models.option_checks import (
    ImageSize,
    check_compute_dtype,
    check_image_size,
    check_positive_width,
    require_int,
    require_key,
)
from didicm_jax.models.vit_layers import ATTENTION_HEAD_WIDTH

POOLS = ("average", "token")


class Shape(NamedTuple):
    """Heads of the full width, and pixels a side of a patch."""

    heads: int
    patch: int


# By the last part of a model's name. Ti and S are DeiT's (arXiv 2012.12877), B is ViT's.
SHAPES = {
    f"{size}{patch}": Shape(heads, patch)
    for size, heads in {"ti": 3, "s": 6, "b": 12}.items()
    for patch in (16, 8, 4)
}


@dataclass(frozen=True)
class ViTOptions:
    """Options of the plain ViTs.

    in_channels: channels of the images.
    width: multiplier of the number of heads, and with it of all channel counts: heads have 64
      channels, so it must give a whole number of heads.
    depth: number of blocks.
    pool: what the classes are read from: `average`, the mean of the tokens, or `token`, a class
      token beside them.
    dtype: type that the layers of tokens compute in, float32 or bfloat16. What float32 means to
      them is left to `jax_default_matmul_precision`, by default bfloat16 products on TPUs and TF32
      on GPUs; parameters, norms, conditioning and heads are float32 in any case.
    """

    in_channels: int = 3
    width: float = 1.0
    depth: int = 12
    pool: str = "average"
    dtype: DTypeLike = "float32"

    @property
    def compute_dtype(self) -> jnp.dtype:
        """`dtype` as a NumPy type."""
        return jnp.dtype(self.dtype)

    def channels(self, heads: int) -> int:
        """The width of a model that has `heads` heads where `width` is 1."""
        return ATTENTION_HEAD_WIDTH * round(heads * self.width)

    def check(self, name: str, image_size: ImageSize) -> None:
        """Raises UserError unless model `name` can be built with these options."""
        shape = SHAPES[name.rpartition("_")[2]]
        require_int(f"{name}: in_channels", self.in_channels, 1)
        self._check_width(name, shape.heads)
        require_int(f"{name}: depth", self.depth, 1)
        require_key(f"{name}: pool", self.pool, POOLS)
        check_compute_dtype(name, self.dtype)
        check_grid(name, check_image_size(name, image_size), shape.patch)

    def _check_width(self, name: str, heads: int) -> None:
        width = self.width
        check_positive_width(name, width)
        nearest = max(1, round(heads * width))
        # Not exactly, for a third has to be written as 0.333 or so.
        if abs(heads * width - nearest) > 0.01:
            raise UserError(
                f"{name}: expected a width for which {heads} x width is a whole number of heads, "
                f"found width={width} ({heads * width:g} heads): "
                f"use for example width={round(nearest / heads, 4):g}"
            )


@dataclass(frozen=True)
class DiDiViTOptions(ViTOptions):
    """Options of DiDiViT: those of `ViTOptions` and

    conditioned_blocks: how many blocks see label and noise, counted from the end: None all of them,
      0 none (two small MLPs on the pooled feature see them). What comes before the first
      conditioned block runs once per image, however many steps are sampled.
    parameterization: what the output stands for, a key of `PARAMETERIZATIONS`: `ratio`, free
      log-ratios as in the paper; `bounded`, log-ratios held within what a score can be; or
      `posterior`, logits of the clean posterior.
    """

    conditioned_blocks: int | None = None
    parameterization: str = "ratio"

    @property
    def conditioned(self) -> int:
        """The number of conditioned blocks."""
        return self.depth if self.conditioned_blocks is None else self.conditioned_blocks

    def check(self, name: str, image_size: ImageSize) -> None:
        """Raises UserError unless model `name` can be built with these options."""
        super().check(name, image_size)
        require_int(f"{name}: conditioned_blocks", self.conditioned, 0, self.depth)
        require_key(f"{name}: parameterization", self.parameterization, PARAMETERIZATIONS)


def check_grid(name: str, sides: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches; UserError unless they fill the image."""
    if sides[0] % patch or sides[1] % patch:
        raise UserError(
            f"{name}: expected image sides that are multiples of its patch of {patch} pixels, "
            f"found {sides[0]}x{sides[1]}: resize the images or use a model of another patch size"
        )
    return sides[0] // patch, sides[1] // patch
