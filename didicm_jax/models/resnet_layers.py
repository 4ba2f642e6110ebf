"""The layers of PyTorch's ResNet in channels-last order: convolution and blocks.

Shape symbols: `B` images, `H`, `W` the size of a feature map, `C` its channels, `E` the width of
the label-and-time embedding. Convolutions are NHWC and HWIO, the order that TPUs and GPUs prefer.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax.models.conditioning import EMBEDDING_WIDTH, Init
from didicm_jax.models.convolution import convolve
from didicm_jax.models.feature_maps import (
    Moments,
    Scaled,
    apply,
    join,
    moments,
    moments_of_product,
    same,
)
from didicm_jax.models.float32_layers import (
    LINEAR_INIT,
    ONES,
    ZEROS,
    BatchNorm,
    GroupNorm,
    float32_linear,
)
from didicm_jax.models.placement import with_rows_of

# He et al. 2015, as in timm and torchvision: the variance of the gradient is kept through ReLUs.
CONV_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Compute(NamedTuple):
    """How a network computes.

    dtype: of the convolutions; parameters and normalisation are float32 in any case.
    norm_axis_name: mapped axis over which BatchNorm shares its statistics, or None.
    """

    dtype: jnp.dtype
    norm_axis_name: str | None


def conv(
    in_channels: int, channels: int, size: int, stride: int, compute: Compute, rngs: nnx.Rngs
) -> nnx.Conv:
    """PyTorch's unbiased `size x size` convolution: it pads `size // 2` on every side."""
    return nnx.Conv(
        in_channels,
        channels,
        (size, size),
        strides=stride,
        # Not "SAME": with stride 2 that pads more on the right than on the left.
        padding=((size // 2, size // 2),) * 2,
        use_bias=False,
        dtype=compute.dtype,
        kernel_init=CONV_INIT,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def normed(layer: nnx.Conv, norm: BatchNorm, x: chex.Array) -> Scaled:
    """A convolution of `[B, H, W, C]` and its BatchNorm, of which something is still to be done."""
    if not widens(layer):
        y = layer(x)
        return Scaled(y, *norm.factors(y.shape, lambda: moments(y, per_image=False)))
    kernel = layer.kernel[...]
    scale, bias = norm.factors(
        (*x.shape[:3], kernel.shape[3]),
        lambda: moments_of_product(x, kernel[0, 0]),
    )
    # What is known before the product can be a part of it.
    return Scaled(with_kernel(layer, kernel * scale[None, None], x), None, bias)


def with_kernel(layer: nnx.Conv, kernel: chex.Array, x: chex.Array) -> chex.Array:
    """A convolution of `conv` with another kernel, which was computed from its own."""
    # Else XLA computes the gradient of the kernel once for each number that follows from it.
    kernel = jax.lax.optimization_barrier(kernel.astype(layer.dtype))
    stride: Any = layer.strides
    pads = [(kernel.shape[0] // 2,) * 2] * 2
    dims = ("NHWC", "HWIO", "NHWC")
    return convolve(x, kernel, (stride, stride), pads, dimension_numbers=dims)


def widens(layer: nnx.Conv) -> bool:
    """Whether a convolution is 1x1, in bfloat16, and gives at least four times the channels.

    The moments of its result are then taken from its input. In float32 they would lose bits.
    """
    return (
        layer.dtype == jnp.bfloat16
        and layer.kernel_size == (1, 1)
        and layer.strides == 1
        and 4 * layer.in_features <= layer.out_features
    )


class Projection(nnx.Module):
    """The shortcut of a block that changes the number of channels or the stride."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, compute: Compute, rngs: nnx.Rngs
    ) -> None:
        self.conv = conv(in_channels, channels, 1, stride, compute, rngs)
        self.norm = BatchNorm(channels, compute.norm_axis_name)

    def __call__(self, x: chex.Array) -> Scaled:
        """`[B, H, W, C]` to the shape of the residual branch, still to be normalised."""
        return normed(self.conv, self.norm, x)


class Seen(NamedTuple):
    """What is known of the branches of a conditioned block, float32.

    scale, bias: `[B, C]`, what the BatchNorm of the residual does.
    mean, variance: of each channel after it, `[B, C]`.
    shortcut_scale, shortcut_bias: `[B, C]`, what is to be done to the shortcut; None: nothing.
    """

    scale: chex.Array
    bias: chex.Array
    mean: chex.Array
    variance: chex.Array
    shortcut_scale: chex.Array | None
    shortcut_bias: chex.Array | None


class Branches(NamedTuple):
    """The two branches of a conditioned block before they meet; the label has not been seen yet.

    residual: the result of the last convolution, before its BatchNorm, `[B, H, W, C]`.
    shortcut: `[B, H, W, C]`, of a projection before its BatchNorm.
    seen: what is known of the two.
    """

    residual: chex.Array
    shortcut: chex.Array
    seen: Seen


class Block(nnx.Module):
    """The residual block of ResNet (basic or bottleneck, stride in its 3x3 convolution)."""

    # Zeroes the scale of the last BatchNorm, as timm does: each block starts as the identity (Goyal
    # et al. 2017, sec. 5.1), and deep networks train from the first step.
    _last_scale_init = staticmethod(ZEROS)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        bottleneck: bool,
        compute: Compute,
        rngs: nnx.Rngs,
    ) -> None:
        axis, out = compute.norm_axis_name, 4 * channels if bottleneck else channels
        if bottleneck:
            self.conv1 = conv(in_channels, channels, 1, 1, compute, rngs)
            self.bn1 = BatchNorm(channels, axis)
            self.conv2 = conv(channels, channels, 3, stride, compute, rngs)
            self.bn2 = BatchNorm(channels, axis)
            self.conv3 = conv(channels, out, 1, 1, compute, rngs)
            self.bn3 = BatchNorm(out, axis, self._last_scale_init)
        else:
            self.conv1 = conv(in_channels, channels, 3, stride, compute, rngs)
            self.bn1 = BatchNorm(channels, axis)
            self.conv2 = conv(channels, out, 3, 1, compute, rngs)
            self.bn2 = BatchNorm(out, axis, self._last_scale_init)
        self.bottleneck = bottleneck
        self.out_channels = out
        self.projects = stride != 1 or in_channels != out
        if self.projects:
            self.skip = Projection(in_channels, out, stride, compute, rngs)

    def _last(self, x: chex.Array) -> tuple[nnx.Conv, BatchNorm, chex.Array]:
        """The last convolution of the residual branch, its norm, and what it is of."""
        x = apply(jax.nn.relu, normed(self.conv1, self.bn1, x))
        if not self.bottleneck:
            return self.conv2, self.bn2, x
        return self.conv3, self.bn3, apply(jax.nn.relu, normed(self.conv2, self.bn2, x))

    def _shortcut(self, x: chex.Array) -> Scaled:
        return self.skip(x) if self.projects else Scaled(x)

    def __call__(self, x: chex.Array) -> chex.Array:
        """`relu(residual + shortcut)`, `[B, H, W, C]`."""
        residual = normed(*self._last(x))
        return join(same, residual, self._shortcut(x))


class ConditionedBlock(Block):
    """A block that sees label and noise (arXiv 2511.20263, DiDiRN).

    `relu(silu(GroupNorm(residual + Linear(silu(e)))) + shortcut)`, where e is the embedding. Groups
    have `group_channels` channels at least.
    """

    # Zeros here would leave the GroupNorm nothing but the embedding to normalise: it would be blown
    # up to unit size and the image shut out.
    _last_scale_init = staticmethod(ONES)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        bottleneck: bool,
        compute: Compute,
        rngs: nnx.Rngs,
        group_channels: int,
        init: Init,
    ) -> None:
        super().__init__(
            in_channels,
            channels,
            stride=stride,
            bottleneck=bottleneck,
            compute=compute,
            rngs=rngs,
        )
        out = self.out_channels
        width = EMBEDDING_WIDTH
        self.condition = float32_linear(width, out, LINEAR_INIT, rngs, init.bias(width))
        self.group_norm = GroupNorm(out, group_channels, init.scale)

    def branches(self, x: chex.Array) -> Branches:
        """Both branches of `[B, H, W, C]`, up to where the label enters."""
        layer, norm, x_last = self._last(x)
        residual = layer(x_last)
        # Both norms are computed from them, in one pass.
        each = moments(residual, per_image=True)
        whole = Moments(*(m.mean(0)[None] for m in each))
        scale, bias = norm.factors(residual.shape, lambda: whole)
        mean = scale * each.mean + bias
        variance = jnp.maximum(each.mean_square - jnp.square(each.mean), 0)
        variance = jnp.square(scale) * variance
        shortcut = self._shortcut(x)
        # For each image, as features are: they may be repeated, or asked for one by one.
        scale, bias, *others = (
            None
            if factor is None
            else jnp.broadcast_to(factor, mean.shape, out_sharding=with_rows_of(mean, 2))
            for factor in (scale, bias, *shortcut[1:])
        )
        return Branches(residual, shortcut.x, Seen(scale, bias, mean, variance, *others))

    def join(self, branches: Branches, activated: chex.Array) -> chex.Array:
        """Lets the label in and joins the branches.

        Args:
          branches: of this block.
          activated: `silu(e)`, float32 `[B, E]`, which all blocks share.

        Returns:
          `[B, H, W, C]` in the compute type.
        """
        x, shortcut, seen = branches
        shift = self.condition(activated)
        scale, bias = self.group_norm.factors(seen.mean + shift, seen.variance)
        residual = Scaled(x, seen.scale * scale, (seen.bias + shift) * scale + bias)
        shortcut = Scaled(shortcut, seen.shortcut_scale, seen.shortcut_bias)
        return join(jax.nn.silu, residual, shortcut)
