"""How label and noise enter a network: their embedding, and a head that needs nothing else.

Shape symbols: `B` images, `E` the width of the embedding, `D` the width of a feature.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax.models.float32_layers import (
    LINEAR_INIT,
    ONES,
    ZEROS,
    bias_init,
    float32_linear,
)
from didicm_jax.models.placement import with_rows_of

# Width of the embedding of label and time, in all of the paper's networks.
EMBEDDING_WIDTH = 128
SINUSOIDS = 256
MAX_PERIOD = 1e4
HEAD_HIDDEN_WIDTH = 512
HEAD_BLOCKS = 2


class Init(NamedTuple):
    """How what sees the label starts.

    output: kernel of the last layer.
    scale: of the GroupNorms.
    label: deviation of the table of labels.
    biases: whether linear layers draw theirs as PyTorch does, and do not start from zero.
    """

    output: nnx.initializers.Initializer
    scale: nnx.initializers.Initializer
    label: float
    biases: bool

    def bias(self, inputs: int) -> nnx.initializers.Initializer:
        """Of a linear layer."""
        return bias_init(inputs) if self.biases else ZEROS


INITS = {
    # Zeros at the output, as SEDD and DiT: training starts from s = 1, the score of pure noise, and
    # not from exponentials of random numbers. Zeros in the GroupNorm, the last normalisation of its
    # branch, hence where plain blocks have theirs: against ones, in one short run on the digits, as
    # accurate, and the largest gradient smaller. As DiT: a label is a small shift of the time at
    # first, and grows with what is learned.
    "zero": Init(ZEROS, ZEROS, 0.02, biases=False),
    # What PyTorch's layers start from, which the original leaves as it is.
    "torch": Init(LINEAR_INIT, ONES, 1.0, biases=True),
}


def sinusoids(sigma: chex.Array) -> chex.Array:
    """Cosines, then sines, of sigma at geometric frequencies from 1 down to `1 / MAX_PERIOD`.

    `cos(sigma w_k) | sin(sigma w_k)` with `w_k = MAX_PERIOD^(-k / (SINUSOIDS / 2))` (DiT, GLIDE).

    Args:
      sigma: total noise, `[B]`.

    Returns:
      Float32 `[B, SINUSOIDS]`.
    """
    half = SINUSOIDS // 2
    frequencies = jnp.exp(-math.log(MAX_PERIOD) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = sigma.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class PooledFeatures(NamedTuple):
    """All that a head-only model keeps of an image.

    pooled: float32 `[B, D]`.
    """

    pooled: chex.Array


class LabelTimeEmbedding(nnx.Module):
    """`e = Linear(silu(Linear(sinusoids(sigma)))) + table[label]`, all of it in float32.

    It costs nothing beside the network, and bfloat16 cannot tell cos of a small sigma from 1.
    """

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs, init: Init = INITS["zero"]) -> None:
        width = EMBEDDING_WIDTH
        self.time_in = float32_linear(SINUSOIDS, width, LINEAR_INIT, rngs, init.bias(SINUSOIDS))
        self.time_out = float32_linear(width, width, LINEAR_INIT, rngs, init.bias(width))
        table = nnx.initializers.normal(init.label)
        self.label = nnx.Embed(num_classes, width, embedding_init=table, rngs=rngs)

    def __call__(self, labels: chex.Array, sigma: chex.Array) -> chex.Array:
        """Int labels `[B]` in [0, K) and sigma `[B]` to float32 `[B, E]`."""
        chex.assert_rank([labels, sigma], 1)
        chex.assert_equal_shape([labels, sigma])
        chex.assert_type([labels, sigma], [int, float])
        time = self.time_out(jax.nn.silu(self.time_in(sinusoids(sigma))))
        return time + self.label(labels, out_sharding=with_rows_of(labels, 2))


class ConditionedMLP(nnx.Module):
    """Residual MLP with adaLN-Zero (Peebles & Xie 2023, DiT): `x + g MLP(LN(x) (1 + s) + b)`.

    Shift b, scale s and gate g are linear in `silu(e)` and start at 0, so that a block starts as
    the identity.
    """

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.modulation = float32_linear(EMBEDDING_WIDTH, 3 * width, ZEROS, rngs)
        # Its scale and bias would repeat those of the modulation.
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, use_bias=False, use_scale=False, rngs=rngs)
        self.linear1 = float32_linear(width, hidden, LINEAR_INIT, rngs)
        self.linear2 = float32_linear(hidden, width, LINEAR_INIT, rngs)

    def __call__(self, x: chex.Array, activated: chex.Array) -> chex.Array:
        """Features float32 `[B, D]` and `silu(e)` float32 `[B, E]` to `[B, D]`."""
        shift, scale, gate = jnp.split(self.modulation(activated), 3, axis=-1)
        hidden = jax.nn.silu(self.linear1(self.norm(x) * (1 + scale) + shift))
        return x + gate * self.linear2(hidden)


class ConditionedHead(nnx.Module):
    """Two residual MLPs on the pooled feature: all that sees the label where no block does.

    Any encoder can end in it; a step then costs well under a hundredth of a pass of ResNet-50.
    """

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        hidden = min(width, HEAD_HIDDEN_WIDTH)
        self.blocks = nnx.List(
            [ConditionedMLP(width, hidden, rngs=rngs) for _ in range(HEAD_BLOCKS)]
        )

    def __call__(self, pooled: chex.Array, activated: chex.Array) -> chex.Array:
        """Pooled features float32 `[B, D]` and `silu(e)` float32 `[B, E]` to `[B, D]`."""
        for block in self.blocks:
            pooled = block(pooled, activated)
        return pooled
