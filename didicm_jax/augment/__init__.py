"""What is done to a batch of images on the device: pure functions of (keys, images), jax only.

Every function takes one typed key per example (`jax.random.key` arrays of shape [B]), not one for
the batch: what is drawn then belongs to the example, and does not change with how the batch is
spread over devices or processes. (Of keys with `impl="rbg"` `jax.vmap` reads the first alone. Their
draws are as good, but belong to the batch.)

On a mesh of explicit axes each device works on its own images, and the result lies where they do.

`Policy` composes them into a recipe, and is all that a training loop needs.
"""

from didicm_jax.augment.geometric import random_flip, shift_crop, warp
from didicm_jax.augment.mix import Mixed, mix, soft_targets
from didicm_jax.augment.photometric import color_jitter
from didicm_jax.augment.policy import Policy, normalize
from didicm_jax.augment.randaugment import rand_augment
from didicm_jax.augment.spec import RandAugmentSpec, parse_rand_augment

__all__ = [
    "Mixed",
    "Policy",
    "RandAugmentSpec",
    "color_jitter",
    "mix",
    "normalize",
    "parse_rand_augment",
    "rand_augment",
    "random_flip",
    "shift_crop",
    "soft_targets",
    "warp",
]
