"""What is done to a batch of images on the device: pure functions of (keys, images), jax only."""

from didicm_jax.augment.small import normalize, random_flip, shift_crop, small

__all__ = ["normalize", "random_flip", "shift_crop", "small"]
