"""The layers of the ViT (arXiv 2010.11929): patches, positions, attention, plain and adaLN blocks.

Shape symbols: `B` images, `H`, `W` their size, `C` their channels, `N` tokens, `D` the width, `E`
the width of the label-and-time embedding. Names of modules are timm's.
"""

import chex
import jax.numpy as jnp
import numpy as np
from flax import nnx

from didicm_jax.models.attention import attend, attend_by_cudnn
from didicm_jax.models.conditioning import EMBEDDING_WIDTH
from didicm_jax.models.float32_layers import ZEROS, LayerNorm, float32_linear
from didicm_jax.models.gelu import gelu_product

ATTENTION_HEAD_WIDTH = 64
MLP_RATIO = 4
# Base of the wave lengths of the positions (arXiv 1706.03762).
WAVE_BASE = 1e4

# Glorot's uniform of a D x D matrix, as big_vision and DiT. The fused qkv is three of them side by
# side, hence by the inputs alone.
SQUARE_INIT = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")
GLOROT_INIT = nnx.initializers.xavier_uniform()


def sincos_positions(height: int, width: int, channels: int) -> chex.Array:
    """Fixed positions in a grid: `sin(w x) | cos(w x) | sin(w y) | cos(w y)`, row by row.

    Of column x and row y, with `channels / 4` frequencies `WAVE_BASE^(-k / (channels/4 - 1))`
    (MoCo v3 and big_vision, `posemb_sincos_2d`).

    Args:
      height: rows of the grid.
      width: its columns.
      channels: a multiple of 4, at least 8.

    Returns:
      Float32 `[height * width, channels]`.
    """
    quarter = channels // 4
    frequencies = WAVE_BASE ** (-np.arange(quarter) / (quarter - 1))

    def waves(count: int) -> chex.Array:
        angles = np.arange(count)[:, None] * frequencies
        return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], 1), jnp.float32)

    # Only the two sides are constants of the program; the grid would be megabytes of it.
    shape = (height, width, channels // 2)
    columns = jnp.broadcast_to(waves(width)[None], shape)
    rows = jnp.broadcast_to(waves(height)[:, None], shape)
    return jnp.concatenate([columns, rows], axis=-1).reshape(-1, channels)


class PatchEmbed(nnx.Module):
    """Cuts images into patches and maps each to a token."""

    def __init__(
        self, in_channels: int, width: int, patch: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.proj = nnx.Conv(
            in_channels,
            width,
            (patch, patch),
            strides=patch,
            padding="VALID",
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, images: chex.Array) -> chex.Array:
        """`[B, H, W, C]` to `[B, H / patch, W / patch, D]`."""
        return self.proj(images)


def _parameters(layer: nnx.Linear) -> tuple[chex.Array, chex.Array]:
    """Kernel and bias, in the type that the layer computes in."""
    assert layer.bias is not None
    return layer.kernel[...].astype(layer.dtype), layer.bias[...].astype(layer.dtype)


class Attention(nnx.Module):
    """Multi-head self-attention with heads of 64 channels.

    `attention`: `plain`, or `cudnn` in programs that are for NVIDIA's GPUs and in bfloat16; as
    `train()` and `eval()` do, `set_attributes` changes it.
    """

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.qkv = nnx.Linear(width, 3 * width, dtype=dtype, kernel_init=SQUARE_INIT, rngs=rngs)
        self.proj = nnx.Linear(width, width, dtype=dtype, kernel_init=GLOROT_INIT, rngs=rngs)
        self.attention = "plain"

    def __call__(self, x: chex.Array) -> chex.Array:
        """`[B, N, D]` to `[B, N, D]`, in the compute type."""
        width = x.shape[-1]
        heads = (width // ATTENTION_HEAD_WIDTH, ATTENTION_HEAD_WIDTH)
        # The kernel is taken apart, not its product: XLA would copy each part of that.
        kernel, bias = _parameters(self.qkv)
        kernel, bias = kernel.reshape(width, 3, *heads), bias.reshape(3, 1, 1, *heads)
        x = x.astype(kernel.dtype)
        parts = [jnp.einsum("bnd,dtc->bntc", x, kernel[:, i]) + bias[i] for i in range(3)]
        attended = (attend if self.attention == "plain" else attend_by_cudnn)(*parts)
        kernel, bias = _parameters(self.proj)
        mixed = jnp.einsum("bntc,tcd->bnd", attended, kernel.reshape(*heads, width))
        return mixed + bias[None, None]


class MLP(nnx.Module):
    """`fc2(gelu(fc1(x)))`, four times as wide inside."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        hidden = MLP_RATIO * width
        self.fc1 = nnx.Linear(width, hidden, dtype=dtype, kernel_init=GLOROT_INIT, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, width, dtype=dtype, kernel_init=GLOROT_INIT, rngs=rngs)

    def __call__(self, x: chex.Array) -> chex.Array:
        """`[B, N, D]` to `[B, N, D]`, in the compute type."""
        kernel, bias = _parameters(self.fc2)
        return gelu_product(self.fc1(x), kernel) + bias[None, None]


class TransformerBlock(nnx.Module):
    """Pre-norm: `x + attn(norm1(x))`, then `x + mlp(norm2(x))`."""

    def __init__(
        self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs, affine: bool = True
    ) -> None:
        self.norm1 = LayerNorm(width, affine=affine)
        self.attn = Attention(width, dtype=dtype, rngs=rngs)
        self.norm2 = LayerNorm(width, affine=affine)
        self.mlp = MLP(width, dtype=dtype, rngs=rngs)

    def __call__(self, x: chex.Array) -> chex.Array:
        """Tokens `[B, N, D]` in the compute type to the same."""
        # The layers take float32 and compute in their own type.
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ConditionedTransformerBlock(TransformerBlock):
    """A block that sees label and noise by adaLN-Zero (Peebles & Xie 2023, DiT).

    `x + g1 attn(norm1(x) (1 + s1) + b1)`, then the same around the MLP. Shifts b, scales s and
    gates g are linear in `silu(e)` and start at 0, so that the block starts as the identity; with
    gates of 1 it is a plain block whose norms have scale 1 + s and bias b.
    """

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        # The norms' own scale and bias would repeat those of the modulation.
        super().__init__(width, dtype=dtype, rngs=rngs, affine=False)
        self.modulation = float32_linear(EMBEDDING_WIDTH, 6 * width, ZEROS, rngs)

    # Not a plain block's signature: label and noise must be given.
    def __call__(self, x: chex.Array, activated: chex.Array) -> chex.Array:  # type: ignore[override]
        """Tokens `[B, N, D]` in the compute type and `silu(e)` float32 `[B, E]` to tokens."""
        modulation = self.modulation(activated)[:, None, :]
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)
        mixed = self.attn(self.norm1(x) * (1 + scale1) + shift1)
        x = x + (gate1 * mixed.astype(jnp.float32)).astype(x.dtype)
        changed = self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return x + (gate2 * changed.astype(jnp.float32)).astype(x.dtype)
