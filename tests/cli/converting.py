"""Weights by PyTorch's names, of networks that are small enough to convert at once."""

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from didicm_jax import models
from didicm_jax.pytorch import interop
from tests.cli.running import DIGITS, SMALL

# The flags of a run of digits with the smallest network.
TINY = [DIGITS, *SMALL[:2]]


def state_dict(name, seed=0, **options):
    """Random weights of a network, by default for five classes of photos."""
    options = {"num_classes": 5, "image_size": 32, "width": 0.0625} | options
    model = nnx.eval_shape(lambda: models.create_model(name, rngs=nnx.Rngs(0), **options))
    random = np.random.default_rng(seed)
    return {
        key: (0.1 * random.standard_normal(entry.torch_shape) + key.endswith("var")).astype("f")
        for key, entry in interop.entries_of(model).items()
    }


def of_digits(name, seed=0, **options):
    """The same for digits, of 8x8."""
    return state_dict(name, seed, **{"stem": "small", "in_channels": 1, "image_size": 8} | options)


def saved(path, content):
    """The flag that names a new file with these weights."""
    save_file(content, path)
    return f"--torch={path}"
