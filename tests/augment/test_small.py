"""`small` is `shift_crop`, then `random_flip`; the two are tested in `test_geometric.py`."""

import jax
import numpy as np

from didicm_jax import augment

B, H, W, C = 64, 7, 5, 3
IMAGES = np.random.RandomState(0).randint(1, 256, (B, H, W, C)).astype(np.uint8)
small = jax.jit(augment.small, static_argnames=("flip", "shift"))


def test_small_is_shift_and_flip_with_keys_of_their_own(keys_of):
    keys = keys_of(0, B)
    split = jax.jit(jax.vmap(jax.random.split))(keys)
    shifted = jax.jit(augment.shift_crop, static_argnums=2)(split[:, 0], IMAGES, 2)
    flip = jax.jit(augment.random_flip)
    np.testing.assert_array_equal(
        small(keys, IMAGES, flip=True, shift=2), flip(split[:, 1], shifted)
    )
    np.testing.assert_array_equal(
        small(keys, IMAGES, flip=True, shift=0), flip(split[:, 1], IMAGES)
    )
    np.testing.assert_array_equal(small(keys, IMAGES, flip=False, shift=0), IMAGES)
