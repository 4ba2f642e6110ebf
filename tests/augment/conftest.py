"""Real photos, keys, and a mesh, shared by the tests of the augmentation."""

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def photos():
    """scikit-learn's two photos by size in pixels: {224: u8[2,224,224,3], 56: u8[2,56,56,3]}."""
    images = [Image.fromarray(image) for image in load_sample_images().images]
    squares = [image.crop((100, 0, 527, 427)) for image in images]
    return {
        size: np.stack([np.asarray(s.resize((size, size), Image.BICUBIC)) for s in squares])
        for size in (224, 56)
    }


@pytest.fixture(scope="session")
def keys_of():
    """A function of (seed, count) to typed keys [count]."""
    split = jax.jit(
        lambda seed, count: jax.random.split(jax.random.key(seed), count), static_argnums=1
    )
    return lambda seed, count: split(seed, count)


@pytest.fixture(scope="session")
def mesh():
    """The four simulated devices in a row, called data."""
    return jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
