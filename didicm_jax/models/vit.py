"""ViT (arXiv 2010.11929) and DiDiViT, the diffusion classifier on the same trunk.

Shape symbols: `B` images, `H`, `W` their size, `C` channels, `N` tokens, `D` their width, `K`
classes. Names of parameters are timm's with `/` for `.`, e.g. `blocks/0/attn/qkv/kernel`; the last
layer is `fc`, as in the ResNets.
"""

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax.models import remat
from didicm_jax.models.base import Classifier, ScoreModel
from didicm_jax.models.conditioning import (
    EMBEDDING_WIDTH,
    ConditionedHead,
    LabelTimeEmbedding,
    PooledFeatures,
)
from didicm_jax.models.float32_layers import LINEAR_INIT, ZEROS, LayerNorm, float32_linear
from didicm_jax.models.option_checks import ImageSize, check_image_size
from didicm_jax.models.placement import with_rows_of
from didicm_jax.models.vit_layers import (
    ConditionedTransformerBlock,
    PatchEmbed,
    TransformerBlock,
    sincos_positions,
)
from didicm_jax.models.vit_options import SHAPES, DiDiViTOptions, Shape, ViTOptions, check_grid


class TokenFeatures(NamedTuple):
    """What the blocks before the first conditioned one leave of an image.

    tokens: `[B, N, D]` in the compute type.
    """

    tokens: chex.Array


class _Trunk(nnx.Module):
    """Patches, fixed positions and blocks, of which the last `conditioned` see label and noise."""

    def __init__(
        self,
        shape: Shape,
        options: ViTOptions,
        *,
        conditioned: int,
        image_size: ImageSize,
        rngs: nnx.Rngs,
    ) -> None:
        width, dtype = options.channels(shape.heads), options.compute_dtype
        self.in_channels = options.in_channels
        self.out_channels = width
        self.compute_dtype = dtype
        self.patch = shape.patch
        # Rows and columns of patches of the images it was made for; it also takes other sizes.
        self.grid = check_grid("ViT", check_image_size("ViT", image_size), shape.patch)
        self.patch_embed = PatchEmbed(
            options.in_channels, width, shape.patch, dtype=dtype, rngs=rngs
        )
        self.has_token = options.pool == "token"
        if self.has_token:
            # One-dimensional, as all parameters that are not to decay (timm's rule for it too).
            self.cls_token = nnx.Param(jnp.zeros(width, jnp.float32))
        plain = options.depth - conditioned
        self.blocks = nnx.List[TransformerBlock](
            [
                (TransformerBlock if index < plain else ConditionedTransformerBlock)(
                    width, dtype=dtype, rngs=rngs
                )
                for index in range(options.depth)
            ]
        )
        # Where blocks are conditioned, a modulation follows it and has a scale and bias.
        self.norm = LayerNorm(width, affine=conditioned == 0)
        # As `train()` and `eval()` do, `set_attributes` changes it.
        self.remat = "none"

    def _run(self, block: TransformerBlock, *inputs: chex.Array) -> chex.Array:
        return remat.run(self.remat, lambda block, *inputs: block(*inputs), block, *inputs)

    def positions(self, rows: int, columns: int) -> chex.Array:
        """What is added to the tokens of a grid, float32 `[N, D]`; zeros for the class token."""
        fixed = sincos_positions(rows, columns, self.out_channels)
        return jnp.pad(fixed, ((1, 0), (0, 0))) if self.has_token else fixed

    def _tokens(self, images: chex.Array) -> chex.Array:
        """Tokens `[B, N, D]` in the compute type, the class token first where there is one."""
        chex.assert_shape(images, (None, None, None, self.in_channels))
        chex.assert_type(images, float)
        batch, height, width, _ = images.shape
        rows, columns = check_grid("images", (height, width), self.patch)
        x = self.patch_embed(images).reshape(batch, -1, self.out_channels)
        if self.has_token:
            token = jnp.broadcast_to(
                self.cls_token[...].astype(x.dtype),
                (batch, 1, self.out_channels),
                out_sharding=with_rows_of(x, 3),
            )
            x = jnp.concatenate([token, x], axis=1)
        return x + self.positions(rows, columns).astype(x.dtype)[None]

    def _pool(self, x: chex.Array) -> chex.Array:
        """Norm and pooling, `[B, N, D]` to float32 `[B, D]`."""
        return self.norm(x[:, 0]) if self.has_token else self.norm(x).mean(axis=1)


class ViT(_Trunk, Classifier):
    """The plain ViT: DiDiViT without label and noise, for matched comparisons."""

    def __init__(
        self,
        shape: Shape,
        options: ViTOptions,
        *,
        num_classes: int,
        image_size: ImageSize,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(shape, options, conditioned=0, image_size=image_size, rngs=rngs)
        self.num_classes = num_classes
        self.fc = float32_linear(self.out_channels, num_classes, LINEAR_INIT, rngs)

    def __call__(self, images: chex.Array) -> chex.Array:
        """Float images `[B, H, W, C]` to logits float32 `[B, K]`."""
        x = self._tokens(images)
        for block in self.blocks:
            x = self._run(block, x)
        return self.fc(self._pool(x))


class DiDiViT(_Trunk, ScoreModel):
    """The ViT that sees a noised label and the noise level, in its last blocks or its head."""

    def __init__(
        self,
        shape: Shape,
        options: DiDiViTOptions,
        *,
        num_classes: int,
        image_size: ImageSize,
        rngs: nnx.Rngs,
    ) -> None:
        conditioned = options.conditioned
        super().__init__(shape, options, conditioned=conditioned, image_size=image_size, rngs=rngs)
        self.num_classes = num_classes
        self.parameterization = options.parameterization
        self.embedding = LabelTimeEmbedding(num_classes, rngs=rngs)
        if conditioned:
            # Scale and shift of the last norm (DiT). They are the same for all tokens, so they wait
            # until these are pooled.
            self.modulation = float32_linear(EMBEDDING_WIDTH, 2 * self.out_channels, ZEROS, rngs)
        else:
            self.head = ConditionedHead(self.out_channels, rngs=rngs)
        # Zeros, as in DiDiRN: training starts from the score of pure noise.
        self.fc = float32_linear(self.out_channels, num_classes, ZEROS, rngs)

    def encode(self, images: chex.Array) -> TokenFeatures | PooledFeatures:
        """All of the network that does not see the label.

        Args:
          images: float `[B, H, W, C]`, H and W multiples of the patch.

        Returns:
          `TokenFeatures`, what enters the first conditioned block; `PooledFeatures` where only the
          head is conditioned.

        Raises:
          UserError: patches do not fill the images.
        """
        x = self._tokens(images)
        for block in self.blocks:
            if isinstance(block, ConditionedTransformerBlock):
                return TokenFeatures(x)
            x = self._run(block, x)
        return PooledFeatures(self._pool(x))

    def output(
        self, features: TokenFeatures | PooledFeatures, labels: chex.Array, sigma: chex.Array
    ) -> chex.Array:
        """The output float32 `[B, K]` for labels int `[B]` and sigma `[B]`."""
        chex.assert_equal_shape_prefix([features[0], labels, sigma], 1)
        activated = jax.nn.silu(self.embedding(labels, sigma))
        if isinstance(features, PooledFeatures):
            return self.fc(self.head(features.pooled, activated))
        x = features.tokens
        for block in self.blocks:
            if isinstance(block, ConditionedTransformerBlock):
                x = self._run(block, x, activated)
        shift, scale = jnp.split(self.modulation(activated), 2, axis=-1)
        return self.fc(self._pool(x) * (1 + scale) + shift)


# Rows of the registry: the kind of model, the class of its options and what builds it from them.
MODELS: dict[str, tuple[type[nnx.Module], type[ViTOptions], Any]] = {
    **{f"didivit_{n}": (DiDiViT, DiDiViTOptions, partial(DiDiViT, s)) for n, s in SHAPES.items()},
    **{f"vit_{n}": (ViT, ViTOptions, partial(ViT, s)) for n, s in SHAPES.items()},
}
