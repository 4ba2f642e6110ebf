"""Small networks, compiled once for all tests of this folder."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import models
from didicm_jax.models import resnet
from didicm_jax.models.resnet_options import ResNetOptions, ScoreOptions
from didicm_jax.models.vit_options import SHAPES, DiDiViTOptions, ViTOptions


def resnet_of(kind, num_classes, rngs, **options):
    """Five blocks of an eighth of the width, so that it compiles fast.

    One that follows the stem, three that change the channels, one that follows another in its
    stage.
    """
    depth = resnet.Depth((1, 1, 1, 2), bottleneck=False)
    options = {"width": 0.125, "stem": "small"} | options
    settings = (ScoreOptions if kind is models.DiDiRN else ResNetOptions)(**options)
    return kind(depth, settings, num_classes=num_classes, image_size=16, rngs=rngs)


def vit_of(kind, num_classes, rngs, **options):
    """Two blocks of one head on patches of 4 pixels."""
    options = {"width": 1 / 3, "depth": 2} | options
    settings = (DiDiViTOptions if kind is models.DiDiViT else ViTOptions)(**options)
    return kind(SHAPES["ti4"], settings, num_classes=num_classes, image_size=16, rngs=rngs)


SMALL = {
    models.DiDiRN: resnet_of,
    models.ResNet: resnet_of,
    models.DiDiViT: vit_of,
    models.ViT: vit_of,
}


def create(kind=models.DiDiRN, *, num_classes=5, **options):
    """A small network in eval mode, every tensor random: nothing hides behind a zero."""
    abstract = nnx.eval_shape(lambda: SMALL[kind](kind, num_classes, nnx.Rngs(0), **options))
    graphdef, state = nnx.split(abstract)
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        value = rng.standard_normal(leaf.shape)
        if path[-1] == "var":
            value = 1 + 0.1 * np.abs(value)
        elif path[-1] == "scale":
            value = 1 + 0.1 * value
        elif path[-1] in ("bias", "mean"):
            value = 0.1 * value
        elif path[-1] == "kernel":
            value = value / np.sqrt(np.prod(leaf.shape[:-1]))
        return jnp.asarray(value, leaf.dtype)

    flat = {path: fill(path, leaf.get_value()) for path, leaf in nnx.to_flat_state(state)}
    nnx.replace_by_pure_dict(state, nnx.traversals.unflatten_mapping(flat))
    model = nnx.merge(graphdef, state)
    model.eval()
    return model


class Small(NamedTuple):
    """A small score model with inputs and jitted methods."""

    model: models.ScoreModel
    images: jax.Array
    labels: jax.Array
    sigma: jax.Array
    encode: Callable
    score: Callable


VARIANTS = {
    **{f"stages{n}": (models.DiDiRN, {"conditioned_stages": n}) for n in (4, 3, 2, 1, 0)},
    "blocks2": (models.DiDiViT, {"pool": "token"}),
    "blocks1": (models.DiDiViT, {"conditioned_blocks": 1}),
    "blocks0": (models.DiDiViT, {"conditioned_blocks": 0}),
}


# What 4, 1 and 0 do not show, 3 and 2 do not either.
SLOW = ("stages3", "stages2")


@pytest.fixture(
    scope="session",
    params=[pytest.param(v, marks=pytest.mark.slow) if v in SLOW else v for v in VARIANTS],
)
def small(request):
    """The networks of `create`, for every number of conditioned stages or blocks."""
    kind, options = VARIANTS[request.param]
    model = create(kind, **options)
    rng = np.random.default_rng(1)
    return Small(
        model,
        images=jnp.asarray(rng.standard_normal((3, 16, 16, 3)), jnp.float32),
        labels=jnp.asarray([4, 0, 2], jnp.int32),
        sigma=jnp.asarray([1e-3, 0.4, 6.9], jnp.float32),
        encode=jax.jit(model.encode),
        score=jax.jit(model.score),
    )


@pytest.fixture(scope="session")
def make():
    """`create` above."""
    return create
