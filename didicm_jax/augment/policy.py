"""A whole recipe as one pure function: bytes from the loader in, network input and targets out.

Shapes: B images of HxW pixels and C channels, K classes.
"""

import dataclasses
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from didicm_jax.augment.checks import check
from didicm_jax.augment.geometric import random_flip, shift_crop
from didicm_jax.augment.mix import Mixed, mix
from didicm_jax.augment.photometric import color_jitter
from didicm_jax.augment.randaugment import rand_augment
from didicm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Policy:
    """The settings of a recipe; with the defaults, images are only normalised.

    Hashable, so that it can be a static argument of a jitted function. What is random in an
    example comes from its key (and for mixup and cutmix from that of the image it is mixed with),
    so results do not depend on how a batch is spread over devices. Every step has its own part of
    the key: turning one on or off does not change the draws of the others.

    Attributes:
      mean: per channel, on the scale where black is 0 and white is 1; RandAugment's fill colour.
      std: per channel, > 0, on the same scale.
      flip: mirror half of the images.
      shift: move by up to so many pixels, with black edges (`shift_crop`); 0: off.
      color_jitter: strength of brightness, contrast and saturation; 0: off.
      rand_augment: a string such as `rand-m7-mstd0.5-inc1`; empty: off.
      mixup: alpha of mixup's Beta(alpha, alpha); 0: off.
      cutmix: alpha of cutmix's; 0: off.
      switch_prob: probability of cutmix rather than mixup where both are on.
      label_smoothing: share of the target that is spread over all classes, below 1.
      gathers: read pixels by an index, which is the quickest on CPUs and GPUs; else by arithmetic
        and products of matrices, for TPUs. Draws are the same; a level may differ by one in each
        layer of RandAugment.
    """

    mean: Sequence[float]
    std: Sequence[float]
    flip: bool = False
    shift: int = 0
    color_jitter: float = 0.0
    rand_augment: str = ""
    mixup: float = 0.0
    cutmix: float = 0.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.0
    gathers: bool = True

    def __post_init__(self) -> None:
        """Makes lists hashable."""
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))

    def train(
        self,
        keys: chex.PRNGKey,
        images: chex.Array,
        labels: chex.Array,
        num_classes: int,
        examples: chex.Array | None = None,
    ) -> Mixed:
        """Shift, flip, RandAugment, colour jitter, mixup or cutmix, normalisation, in this order.

        Call it under `jit`; with several devices within `shard_map`, so that none of them looks at
        the images of another (on a mesh of explicit axes it is so without).

        Args:
          keys: typed keys [B].
          images: u8[B,H,W,C].
          labels: i32[B] in {0..K-1}.
          num_classes: K.
          examples: which example each image shows, an integer [B], so that mixup and cutmix do not
            mix an image with its copy; None: each shows another one.

        Returns:
          images f32[B,H,W,C], normalised, and targets f32[B,K].

        Raises:
          UserError: B is odd with mixup or cutmix on, or the channels are not those of `mean`, or
            neither 1 nor 3 with colour jitter or RandAugment on.
        """
        check(keys, images)
        # Before anything else: the number of channels is the first thing a wrong data set breaks.
        self._check_channels(images)
        split = jax.vmap(lambda key: jax.random.split(key, 5))(keys)
        for_shift, for_flip, for_rand, for_jitter, for_mix = (split[:, k] for k in range(5))
        if self.shift:
            images = shift_crop(for_shift, images, self.shift, gathers=self.gathers)
        if self.flip:
            images = random_flip(for_flip, images)
        if self.rand_augment:
            fill = [min(255, max(0, round(255 * x))) for x in self.mean]
            images = rand_augment(for_rand, images, self.rand_augment, fill, gathers=self.gathers)
        if self.color_jitter:
            images = color_jitter(for_jitter, images, self.color_jitter)
        mixed = mix(
            for_mix,
            images,
            labels,
            num_classes,
            examples=examples,
            mixup=self.mixup,
            cutmix=self.cutmix,
            switch_prob=self.switch_prob,
            label_smoothing=self.label_smoothing,
        )
        return mixed._replace(images=normalize(mixed.images, self.mean, self.std))

    def eval(self, images: chex.Array) -> chex.Array:
        """Normalises only: u8[B,H,W,C] to f32[B,H,W,C]."""
        chex.assert_type(images, jnp.uint8)
        self._check_channels(images)
        return normalize(images, self.mean, self.std)

    def views(self, keys: chex.PRNGKey, images: chex.Array, count: int) -> chex.Array:
        """Several views of each image, to be asked about in the place of one.

        The first is the image itself. Of the others each is moved at random with `shift`, and every
        second mirrored with `flip`: where nothing moves, two are an image and its mirror image.

        Args:
          keys: typed keys [B].
          images: u8[B,H,W,C].
          count: V >= 1.

        Returns:
          f32[V,B,H,W,C], normalised.
        """
        check(keys, images)
        if count == 1:
            return self.eval(images)[None]
        numbers = jnp.arange(count, dtype=jnp.uint32)
        column = numbers[:, None, None, None, None]
        shown = jnp.broadcast_to(images, (count, *images.shape))
        if self.shift:
            draws = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys, numbers)
            moved = jax.vmap(
                lambda each: shift_crop(each, images, self.shift, gathers=self.gathers)
            )(draws)
            shown = jnp.where(column == 0, shown, moved)
        if self.flip:
            shown = jnp.where(column % 2 == 1, shown[:, :, :, ::-1], shown)
        return self.eval(shown)

    def _check_channels(self, images: chex.Array) -> None:
        if images.shape[-1] != len(self.mean):
            raise UserError(
                f"config.data.mean: expected {images.shape[-1]} numbers, one per channel of the "
                f"images, found {tuple(self.mean)}"
            )


def normalize(images: chex.Array, mean: Sequence[float], std: Sequence[float]) -> chex.Array:
    """Levels to network input, (x/255 - mean)/std per channel.

    Args:
      images: u8 or f32[...,H,W,C], in 0..255.
      mean: C numbers, on the scale where black is 0 and white is 1.
      std: C numbers > 0 on the same scale.

    Returns:
      f32[...,H,W,C].
    """
    if images.dtype not in (jnp.uint8, jnp.float32):
        raise ValueError(f"expected u8 or f32 images, found {images.dtype}")
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(
            f"expected {channels} means and positive deviations, one per channel, found"
            f" {tuple(mean)} and {tuple(std)}"
        )
    shape = (1,) * (images.ndim - 1) + (channels,)
    offset = jnp.asarray(mean, jnp.float32).reshape(shape)
    scale = jnp.asarray(std, jnp.float32).reshape(shape)
    return (images.astype(jnp.float32) / 255.0 - offset) / scale
