"""The layers of PyTorch's ResNet in channels-last order: convolution, pooling, blocks.

Shape symbols: `B` images, `H`, `W` the size of a feature map, `C` its channels, `E` the width of
the label-and-time embedding. Convolutions are NHWC and HWIO, the order that TPUs and GPUs prefer.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax.models.conditioning import EMBEDDING_WIDTH, Init
from didicm_jax.models.convolution import convolve
from didicm_jax.models.float32_layers import (
    LINEAR_INIT,
    ONES,
    ZEROS,
    BatchNorm,
    GroupNorm,
    float32_linear,
)

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
        padding=[(size // 2, size // 2)] * 2,
        use_bias=False,
        dtype=compute.dtype,
        kernel_init=CONV_INIT,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def max_pool(x: chex.Array) -> chex.Array:
    """PyTorch's 3x3 max pool with stride 2, padded by 1 with -inf."""
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def global_average(x: chex.Array) -> chex.Array:
    """The mean over the feature map, `[B, H, W, C]` to float32 `[B, C]`."""
    return x.astype(jnp.float32).mean(axis=(1, 2))


class Projection(nnx.Module):
    """The shortcut of a block that changes the number of channels or the stride."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, compute: Compute, rngs: nnx.Rngs
    ) -> None:
        self.conv = conv(in_channels, channels, 1, stride, compute, rngs)
        self.norm = BatchNorm(channels, compute.norm_axis_name)

    def __call__(self, x: chex.Array) -> chex.Array:
        """`[B, H, W, C]` to the shape of the residual branch."""
        return self.norm(self.conv(x))


class Branches(NamedTuple):
    """The two branches of a block before they meet; the label has not been seen yet.

    residual: `[B, H, W, C]`, after the last BatchNorm.
    shortcut: `[B, H, W, C]`.
    """

    residual: chex.Array
    shortcut: chex.Array


class Block(nnx.Module):
    """The residual block of ResNet (basic or bottleneck, stride in its 3x3 convolution)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        stride: int,
        bottleneck: bool,
        compute: Compute,
        rngs: nnx.Rngs,
        last_scale_init: nnx.initializers.Initializer = ZEROS,
    ) -> None:
        # The default zeroes the scale of the last BatchNorm, as timm does: each block starts as
        # the identity (Goyal et al. 2017, sec. 5.1), and deep networks train from the first step.
        axis, out = compute.norm_axis_name, 4 * channels if bottleneck else channels
        if bottleneck:
            self.conv1 = conv(in_channels, channels, 1, 1, compute, rngs)
            self.bn1 = BatchNorm(channels, axis)
            self.conv2 = conv(channels, channels, 3, stride, compute, rngs)
            self.bn2 = BatchNorm(channels, axis)
            self.conv3 = conv(channels, out, 1, 1, compute, rngs)
            self.bn3 = BatchNorm(out, axis, last_scale_init)
        else:
            self.conv1 = conv(in_channels, channels, 3, stride, compute, rngs)
            self.bn1 = BatchNorm(channels, axis)
            self.conv2 = conv(channels, out, 3, 1, compute, rngs)
            self.bn2 = BatchNorm(out, axis, last_scale_init)
        self.bottleneck = bottleneck
        self.out_channels = out
        self.projects = stride != 1 or in_channels != out
        if self.projects:
            self.skip = Projection(in_channels, out, stride, compute, rngs)

    def branches(self, x: chex.Array) -> Branches:
        """Both branches of `[B, H, W, C]`, up to where a label would enter."""
        residual = self.bn2(self.conv2(jax.nn.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            residual = self.bn3(self.conv3(jax.nn.relu(residual)))
        return Branches(residual, self.skip(x) if self.projects else x)

    def __call__(self, x: chex.Array) -> chex.Array:
        """`relu(residual + shortcut)`, `[B, H, W, C]`."""
        residual, shortcut = self.branches(x)
        return jax.nn.relu(residual + shortcut)


class ConditionedBlock(Block):
    """A block that sees label and noise (arXiv 2511.20263, DiDiRN).

    `relu(silu(GroupNorm(residual + Linear(silu(e)))) + shortcut)`, where e is the embedding. Groups
    have `group_channels` channels at least.
    """

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
            # Zeros here would leave the GroupNorm nothing but the embedding to normalise: it would
            # be blown up to unit size and the image shut out.
            last_scale_init=ONES,
        )
        out = self.out_channels
        width = EMBEDDING_WIDTH
        self.condition = float32_linear(width, out, LINEAR_INIT, rngs, init.bias(width))
        self.group_norm = GroupNorm(out, group_channels, init.scale)

    def join(self, branches: Branches, activated: chex.Array) -> chex.Array:
        """Lets the label in and joins the branches.

        Args:
          branches: of this block.
          activated: `silu(e)`, float32 `[B, E]`, which all blocks share.

        Returns:
          `[B, H, W, C]` in the compute type.
        """
        residual, shortcut = branches
        shift = self.condition(activated)[:, None, None, :]
        residual = jax.nn.silu(self.group_norm(residual.astype(jnp.float32) + shift))
        return jax.nn.relu(residual.astype(shortcut.dtype) + shortcut)
