"""Augmentation of small images (digits, Fashion-MNIST, CIFAR), and the step from bytes to floats.

Every function takes one typed key per example (`jax.random.key` arrays of shape [B]), not one for
the batch: what is drawn then belongs to the example, and does not change with how the batch is
spread over devices or processes.

Shapes: B images of HxW pixels and C channels.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp


def random_flip(keys: chex.PRNGKey, images: chex.Array) -> chex.Array:
    """Mirrors each image left to right with probability 1/2: u8[B,H,W,C] to the same."""
    _check(keys, images)
    flipped = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1, :], images)


def shift_crop(keys: chex.PRNGKey, images: chex.Array, padding: int) -> chex.Array:
    """Pads each image with `padding` zero pixels and crops the original size at random.

    The offsets are uniform on {0..2·padding}, vertical and horizontal independent, so the content
    moves by up to `padding` pixels each way (He et al. 2016, section 4.2, for CIFAR-10 with 4).

    Args:
      keys: typed keys [B].
      images: u8[B,H,W,C].
      padding: pixels on each side, ≥ 0.

    Returns:
      u8[B,H,W,C].
    """
    _check(keys, images)
    if padding < 0:
        raise ValueError(f"expected padding ≥ 0, found {padding}")
    margin = (padding, padding)
    padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))

    def crop(key: chex.PRNGKey, image: chex.Array) -> chex.Array:
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), images.shape[1:])

    return jax.vmap(crop)(keys, padded)


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
    _check(keys, images)
    split = jax.vmap(jax.random.split)(keys)
    images = shift_crop(split[:, 0], images, shift) if shift else images
    return random_flip(split[:, 1], images) if flip else images


def normalize(images: chex.Array, mean: Sequence[float], std: Sequence[float]) -> chex.Array:
    """Bytes to network input, (x/255 - mean)/std per channel: u8[...,H,W,C] to f32[...,H,W,C].

    Args:
      images: u8[...,H,W,C].
      mean: C numbers, on the scale where black is 0 and white is 1.
      std: C numbers > 0 on the same scale.
    """
    chex.assert_type(images, jnp.uint8)
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


def _check(keys: chex.PRNGKey, images: chex.Array) -> None:
    """Asserts one typed key per image: an old-style u32[2] key would be taken for two of them."""
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise ValueError(f"expected typed keys [B] (jax.random.key), found {keys.dtype}")
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
    chex.assert_shape(keys, images.shape[:1])
