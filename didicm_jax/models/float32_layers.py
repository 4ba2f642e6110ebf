"""The layers that compute in float32 whatever a network's compute type is: norms, and the linear
layers of conditioning and heads.

Shape symbols: `B` images, `H`, `W` the size of a feature map, `C` its channels, `N` tokens, `D`
their width.
"""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax.errors import UserError
from didicm_jax.models.feature_maps import Moments, Scaled, apply, moments, same

# PyTorch's default of `nn.Linear`: uniform in +-1/sqrt(inputs).
LINEAR_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
ZEROS = nnx.initializers.zeros_init()
ONES = nnx.initializers.ones_init()


def widened(x: chex.Array) -> chex.Array:
    """In float32, where its type is narrower."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


class NoKeys(nnx.Rngs):
    """For layers that start from constants: Flax has each of them draw keys it does not use.

    Drawing is not free: where a model is made under a trace (`jax.jit`, `nnx.eval_shape`), each
    draw costs time in proportion to those before it, seconds for DiDiRN-101.
    """

    def params(self) -> None:
        """No key."""


def bias_init(inputs: int) -> nnx.initializers.Initializer:
    """PyTorch's default of the bias of a linear layer: uniform in +-1/sqrt(inputs)."""
    bound = inputs**-0.5
    return lambda key, shape, dtype=jnp.float32, **_: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def float32_linear(
    inputs: int,
    outputs: int,
    kernel_init: nnx.initializers.Initializer,
    rngs: nnx.Rngs,
    bias_init: nnx.initializers.Initializer = ZEROS,
) -> nnx.Linear:
    """A linear layer whose products are those of float32 on every device.

    By default TPUs multiply float32 matrices rounded to bfloat16, and GPUs rounded to TF32. What
    that costs, computed by rounding the operands so: at sigma = 1e-3, a tenth more noise moves the
    embedding by 6e-6, while its error is 8e-4 in bfloat16 and 1.3e-4 in TF32. Noise levels a tenth
    apart are then told apart only from sigma = 0.2 and 0.02 up. And scores of 10^6 (a log score of
    13.8, from 512 features) are off by up to 3.7 % and 0.4 %. These layers make less than a
    thousandth of a network's operations, so that exact products cost next to nothing.
    """
    return nnx.Linear(
        inputs,
        outputs,
        kernel_init=kernel_init,
        bias_init=bias_init,
        precision=jax.lax.Precision.HIGHEST,
        rngs=rngs,
    )


class BatchNorm(nnx.BatchNorm):
    """BatchNorm with PyTorch's running statistics: `0.9 old + 0.1 new`, the new variance unbiased.

    Statistics and normalisation are float32; the result has the type of the input.
    """

    # Of Flax's they may be None.
    scale: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]

    def __init__(
        self,
        channels: int,
        axis_name: str | None,
        scale_init: nnx.initializers.Initializer = ONES,
    ) -> None:
        super().__init__(
            channels,
            momentum=0.9,
            epsilon=1e-5,
            # Not the compute type: it would round the running statistics to bfloat16 on every use.
            dtype=jnp.float32,
            scale_init=scale_init,
            axis_name=axis_name,
            rngs=NoKeys(),
        )

    # The signature is narrower than Flax's on purpose: the mode comes from train() and eval().
    def __call__(self, x: chex.Array) -> chex.Array:  # type: ignore[override]
        """Normalises `[B, H, W, C]` per channel.

        Raises:
          UserError: in train mode, where a channel has a single value to take a variance of.
        """
        return apply(same, Scaled(x, *self.factors(x.shape, lambda: moments(x, per_image=False))))

    def factors(
        self, shape: tuple[int, ...], seen: Callable[[], Moments]
    ) -> tuple[chex.Array, chex.Array]:
        """Scale and bias of what is normalised, float32 `[1, C]`.

        Args:
          shape: of it, `[B, H, W, C]`.
          seen: gives its moments, `[1, C]`; called in train mode alone.

        Raises:
          UserError: as the call.
        """
        mean, var = self.mean[...], self.var[...]
        if not self.use_running_average:
            mean, var = self._seen(seen(), shape)
        scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return scale[None], (self.bias[...] - scale * mean)[None]

    def _seen(self, seen: Moments, shape: tuple[int, ...]) -> tuple[chex.Array, chex.Array]:
        """Mean and biased variance of the batch `[C]`, which the running statistics take in."""
        devices = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        count = devices * math.prod(shape[:-1])
        if count < 2:
            raise UserError(
                "BatchNorm in train mode expects at least 2 values per channel, found 1 "
                f"(feature map {shape}): use a larger batch or larger images"
            )
        both = jnp.concatenate(seen)
        mean, square = both if self.axis_name is None else jax.lax.pmean(both, self.axis_name)
        # Rounding may leave less than nothing.
        var = jnp.maximum(square - jnp.square(mean), 0)
        for kept, new in ((self.mean, mean), (self.var, var * (count / (count - 1)))):
            kept[...] = self.momentum * kept[...] + (1 - self.momentum) * new
        return mean, var


class GroupNorm(nnx.GroupNorm):
    """GroupNorm of the original's conditioning, always float32: 32 groups where they fit."""

    scale: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]

    def __init__(
        self,
        channels: int,
        group_channels: int = 2,
        scale_init: nnx.initializers.Initializer = ONES,
    ) -> None:
        # A group of one channel would lose what the embedding adds to it (at 1x1, everything), so
        # groups have an even number of channels, and `group_channels` at least where there are so
        # many.
        fitting = [
            n
            for n in (1, 2, 4, 8, 16, 32)
            if channels % (2 * n) == 0 and channels // n >= group_channels
        ]
        super().__init__(
            channels,
            num_groups=max(fitting, default=1),
            epsilon=1e-5,
            dtype=jnp.float32,
            scale_init=scale_init,
            rngs=NoKeys(),
        )

    def factors(self, mean: chex.Array, variance: chex.Array) -> tuple[chex.Array, chex.Array]:
        """Scale and bias `[B, C]` of what has these means and variances `[B, C]`."""
        groups = (-1, self.num_groups, self.group_size)
        means = mean.reshape(groups)
        # The variance of a group: that within its channels, and that of their means.
        var = variance.reshape(groups).mean(-1) + means.var(-1)
        mean, mul = (
            jnp.repeat(each, self.group_size, axis=1)
            for each in (means.mean(-1), jax.lax.rsqrt(var + self.epsilon))
        )
        scale = mul * self.scale[...][None]
        return scale, self.bias[...][None] - mean * scale


class LayerNorm(nnx.LayerNorm):
    """LayerNorm with eps 1e-6, computed and returned in float32, whatever its input."""

    def __init__(self, width: int, *, affine: bool) -> None:
        super().__init__(
            width,
            epsilon=1e-6,
            use_bias=affine,
            use_scale=affine,
            dtype=jnp.float32,
            rngs=NoKeys(),
        )
