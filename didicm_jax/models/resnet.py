"""ResNet (He et al. 2015, v1.5) and DiDiRN (arXiv 2511.20263) on one trunk.

Shape symbols: `B` images, `H`, `W` their size, `C` channels, `K` classes. Names of parameters are
those of torchvision with `/` for `.`, e.g. `layer1/0/conv1/kernel`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax.models import remat
from didicm_jax.models.base import Classifier, ScoreModel
from didicm_jax.models.conditioning import (
    INITS,
    ConditionedHead,
    LabelTimeEmbedding,
    PooledFeatures,
)
from didicm_jax.models.feature_maps import Moments, Scaled, apply, moments
from didicm_jax.models.float32_layers import LINEAR_INIT, BatchNorm, float32_linear
from didicm_jax.models.option_checks import ImageSize, check_image_size
from didicm_jax.models.pooling import global_average, max_pool
from didicm_jax.models.resnet_layers import (
    Block,
    Branches,
    Compute,
    ConditionedBlock,
    conv,
    normed,
    with_kernel,
)
from didicm_jax.models.resnet_options import STAGES, STEMS, ResNetOptions, ScoreOptions


class Depth(NamedTuple):
    """Blocks per stage, and their kind."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


DEPTHS = {
    "18": Depth((2, 2, 2, 2), False),
    "34": Depth((3, 4, 6, 3), False),
    "50": Depth((3, 4, 6, 3), True),
    "101": Depth((3, 4, 23, 3), True),
    "152": Depth((3, 8, 36, 3), True),
}


class _Trunk(nnx.Module):
    """Stem and four stages, the blocks of each of a kind of their own."""

    def __init__(
        self,
        depth: Depth,
        options: ResNetOptions,
        kinds: Sequence[Callable[..., Block]],
        *,
        rngs: nnx.Rngs,
    ) -> None:
        stem, base = STEMS[options.stem], options.base_channels
        compute = Compute(options.compute_dtype, options.norm_axis_name)
        self.in_channels = options.in_channels
        self.compute_dtype = options.compute_dtype
        self.pools, self.repeats = stem.pools, stem.repeats
        self.conv1 = conv(options.in_channels, base, stem.size, stem.stride, compute, rngs)
        self.bn1 = BatchNorm(base, compute.norm_axis_name)

        channels = base
        for stage, count in enumerate(depth.blocks):
            blocks = nnx.List[Block]([])
            for index in range(count):
                block = kinds[stage](
                    channels,
                    base * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    bottleneck=depth.bottleneck,
                    compute=compute,
                    rngs=rngs,
                )
                blocks.append(block)
                channels = block.out_channels
            setattr(self, f"layer{stage + 1}", blocks)
        self.out_channels = channels
        # As `train()` and `eval()` do, `set_attributes` changes it.
        self.remat = "none"

    def _blocks(self) -> list[Block]:
        return [block for stage in range(STAGES) for block in getattr(self, f"layer{stage + 1}")]

    def _stem(self, images: chex.Array) -> chex.Array:
        chex.assert_shape(images, (None, None, None, self.in_channels))
        chex.assert_type(images, float)
        images = images.astype(self.compute_dtype)
        for axis in (1, 2):
            images = jnp.repeat(images, self.repeats, axis)
        if not self.pools:
            return apply(jax.nn.relu, normed(self.conv1, self.bn1, images))
        # What follows rises or falls with a channel, by the sign of its scale: made to rise, it can
        # be done after the pool, on a quarter of the pixels.
        sign = jnp.where(self.bn1.scale[...] < 0, -1.0, 1.0)[None]
        x = with_kernel(self.conv1, self.conv1.kernel[...] * sign[None, None], images)

        def seen() -> Moments:
            mean, square = moments(x, per_image=False)
            return Moments(sign * mean, square)

        scale, bias = self.bn1.factors(x.shape, seen)
        return apply(jax.nn.relu, Scaled(max_pool(x), sign * scale, bias))


class ResNet(_Trunk, Classifier):
    """The plain ResNet: DiDiRN without label and noise, for matched comparisons."""

    def __init__(
        self,
        depth: Depth,
        options: ResNetOptions,
        *,
        num_classes: int,
        image_size: ImageSize,
        rngs: nnx.Rngs,
    ) -> None:
        del image_size  # checked with the options; a convolution has no use for it
        super().__init__(depth, options, [Block] * STAGES, rngs=rngs)
        self.num_classes = num_classes
        self.fc = float32_linear(self.out_channels, num_classes, LINEAR_INIT, rngs)

    def __call__(self, images: chex.Array) -> chex.Array:
        """Float images `[B, H, W, C]` to logits float32 `[B, K]`."""
        x = self._stem(images)
        for block in self._blocks():
            x = remat.run(self.remat, Block.__call__, block, x)
        return self.fc(global_average(x))


def _conditioned(block: ConditionedBlock, x: chex.Array, activated: chex.Array) -> chex.Array:
    return block.join(block.branches(x), activated)


class DiDiRN(_Trunk, ScoreModel):
    """The ResNet that sees a noised label and the noise level, in its last stages or its head."""

    def __init__(
        self,
        depth: Depth,
        options: ScoreOptions,
        *,
        num_classes: int,
        image_size: ImageSize,
        rngs: nnx.Rngs,
    ) -> None:
        init, sides = INITS[options.init], check_image_size("image", image_size)
        plain = STAGES - options.conditioned_stages
        kinds: list[Callable[..., Block]] = [Block] * plain
        for stage in range(plain, STAGES):
            pixels = STEMS[options.stem].map_size(sides, stage)
            group_channels = math.ceil(options.group_elements / pixels)
            kinds.append(partial(ConditionedBlock, group_channels=group_channels, init=init))
        super().__init__(depth, options, kinds, rngs=rngs)
        self.num_classes = num_classes
        self.parameterization = options.parameterization
        self.embedding = LabelTimeEmbedding(num_classes, rngs=rngs, init=init)
        if options.conditioned_stages == 0:
            self.head = ConditionedHead(self.out_channels, rngs=rngs)
        width = self.out_channels
        self.fc = float32_linear(width, num_classes, init.output, rngs, init.bias(width))

    def encode(self, images: chex.Array) -> Branches | PooledFeatures:
        """All of the network that does not see the label.

        Args:
          images: float `[B, H, W, C]`.

        Returns:
          `Branches`, both branches of the first conditioned block up to where the label
          enters; `PooledFeatures` where only the head is conditioned.
        """
        x = self._stem(images)
        for block in self._blocks():
            if isinstance(block, ConditionedBlock):
                return remat.run(self.remat, ConditionedBlock.branches, block, x)
            x = remat.run(self.remat, Block.__call__, block, x)
        return PooledFeatures(global_average(x))

    def output(
        self, features: Branches | PooledFeatures, labels: chex.Array, sigma: chex.Array
    ) -> chex.Array:
        """The output float32 `[B, K]` for labels int `[B]` and sigma `[B]`."""
        chex.assert_equal_shape_prefix([features[0], labels, sigma], 1)
        activated = jax.nn.silu(self.embedding(labels, sigma))
        if isinstance(features, PooledFeatures):
            return self.fc(self.head(features.pooled, activated))
        first, *rest = [b for b in self._blocks() if isinstance(b, ConditionedBlock)]
        x = remat.run(self.remat, ConditionedBlock.join, first, features, activated)
        for block in rest:
            x = remat.run(self.remat, _conditioned, block, x, activated)
        return self.fc(global_average(x))


# Rows of the registry: the kind of model, the class of its options and what builds it from them.
MODELS: dict[str, tuple[type[nnx.Module], type[ResNetOptions], Any]] = {
    **{f"didirn{n}": (DiDiRN, ScoreOptions, partial(DiDiRN, d)) for n, d in DEPTHS.items()},
    **{f"resnet{n}": (ResNet, ResNetOptions, partial(ResNet, d)) for n, d in DEPTHS.items()},
}
