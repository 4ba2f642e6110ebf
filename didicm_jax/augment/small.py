"""Augmentation of small images (digits, Fashion-MNIST, CIFAR) without labels.

Shapes: B images of HxW pixels and C channels.
"""

import chex
import jax

from didicm_jax.augment.checks import check
from didicm_jax.augment.geometric import random_flip, shift_crop


def small(keys: chex.PRNGKey, images: chex.Array, *, flip: bool, shift: int) -> chex.Array:
    """The usual augmentation of small images: `shift_crop` by `shift` pixels, then `random_flip`.

    Digits must not be flipped: a mirrored 2 is no 2. With `flip` false and `shift` 0 the images
    come back as they are.

    Args:
      keys: typed keys [B].
      images: u8[B,H,W,C].
      flip: whether to mirror half of the images.
      shift: the largest move in pixels, ≥ 0.

    Returns:
      u8[B,H,W,C].
    """
    check(keys, images)
    split = jax.vmap(jax.random.split)(keys)
    images = shift_crop(split[:, 0], images, shift) if shift else images
    return random_flip(split[:, 1], images) if flip else images
