"""The layers of the ViT (arXiv 2010.11929): patches, positions, attention, plain and adaLN blocks.

Shape symbols: `B` images, `H`, `W` their size, `C` their channels, `N` tokens, `D` the width, `E`
the width of the label-and-time embedding. Names of modules are timm's.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from didicm_jax.models.conditioning import EMBEDDING_WIDTH
from didicm_jax.models.float32_layers import ZEROS, LayerNorm, float32_linear

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


class Attention(nnx.Module):
    """Multi-head self-attention with heads of 64 channels."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.qkv = nnx.Linear(width, 3 * width, dtype=dtype, kernel_init=SQUARE_INIT, rngs=rngs)
        self.proj = nnx.Linear(width, width, dtype=dtype, kernel_init=GLOROT_INIT, rngs=rngs)

    def __call__(self, x: chex.Array) -> chex.Array:
        """`[B, N, D]` to `[B, N, D]`, in the compute type."""
        batch, tokens, width = x.shape
        heads = self.qkv(x).reshape(
            batch, tokens, 3, width // ATTENTION_HEAD_WIDTH, ATTENTION_HEAD_WIDTH
        )
        # In bfloat16 it asks for a common type with its float32 softmax, which strict promotion
        # forbids. The gradient in bfloat16 also multiplies the two: there strict does not work.
        with jax.numpy_dtype_promotion("standard"):
            mixed = jax.nn.dot_product_attention(heads[:, :, 0], heads[:, :, 1], heads[:, :, 2])
        return self.proj(mixed.reshape(batch, tokens, width))


@jax.custom_jvp
def gelu(x: chex.Array) -> chex.Array:
    """The exact GELU, as timm: `x Phi(x)` with the normal distribution function Phi.

    Its derivative `Phi(x) + x phi(x)` is written out: that of jax 0.12 for `erf` fails under
    `jax.shard_map` (its polynomial has coefficients that do not vary over the mesh as x does).
    """
    return jax.nn.gelu(x, approximate=False)


@gelu.defjvp
def _gelu_jvp(
    primals: tuple[chex.Array], tangents: tuple[chex.Array]
) -> tuple[chex.Array, chex.Array]:
    (x,), (tangent,) = primals, tangents
    cumulative = 0.5 * jax.lax.erfc(-x * math.sqrt(0.5))
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return x * cumulative, (cumulative + x * density) * tangent


class MLP(nnx.Module):
    """`fc2(gelu(fc1(x)))`, four times as wide inside."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        hidden = MLP_RATIO * width
        self.fc1 = nnx.Linear(width, hidden, dtype=dtype, kernel_init=GLOROT_INIT, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, width, dtype=dtype, kernel_init=GLOROT_INIT, rngs=rngs)

    def __call__(self, x: chex.Array) -> chex.Array:
        """`[B, N, D]` to `[B, N, D]`, in the compute type."""
        return self.fc2(gelu(self.fc1(x)))


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
