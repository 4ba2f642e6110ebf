"""From a validated config to the things it names: data, network, noise schedule."""

from collections.abc import Callable

import chex
import jax.numpy as jnp
import ml_collections
from flax import nnx

from didicm_jax import augment, data, diffusion, models
from didicm_jax.errors import UserError


def dataset(config: ml_collections.ConfigDict) -> data.Dataset:
    """The data set of `config.data`.

    Raises:
      UserError: it is not there, it is damaged, or `mean` and `std` do not fit its channels.
    """
    settings = config.data
    loaded = data.load(
        settings.name,
        data_dir=settings.data_dir or None,
        train_examples=settings.train_examples or None,
        seed=config.seed,
    )
    channels = loaded.image_shape[-1]
    for key in ("mean", "std"):
        if len(settings[key]) != channels:
            raise UserError(
                f"config.data.{key}: expected {channels} numbers, one per channel of "
                f"{settings.name}, found {settings[key]}"
            )
    return loaded


def model(config: ml_collections.ConfigDict, dataset: data.Dataset, rngs: nnx.Rngs) -> nnx.Module:
    """The network of `config.model` for the images and classes of `dataset`.

    Raises:
      UserError: the name is unknown or of the wrong kind, or it cannot take these images.
    """
    settings = config.model
    scores = settings.name in models.score_models()
    if scores != (config.method == "didicm"):
        kind = models.score_models() if config.method == "didicm" else models.classifiers()
        raise UserError(
            f"config.model.name: expected one of {', '.join(kind)} for method {config.method}, "
            f"found {settings.name!r}"
        )
    height, width, channels = dataset.image_shape
    options = {"conditioned_stages": settings.conditioned_stages} if scores else {}
    return models.create_model(
        settings.name,
        num_classes=dataset.num_classes,
        image_size=(height, width),
        rngs=rngs,
        in_channels=channels,
        width=settings.width,
        stem=settings.stem,
        dtype=jnp.dtype(settings.dtype),
        **options,
    )


def noise_schedule(config: ml_collections.ConfigDict) -> diffusion.Schedule:
    """The noise schedule of `config.diffusion`."""
    settings = config.diffusion
    if settings.schedule == "loglinear":
        return diffusion.loglinear(settings.eps)
    return diffusion.geometric(settings.sigma_min, settings.sigma_max)


def normalizer(config: ml_collections.ConfigDict) -> Callable[[chex.Array], chex.Array]:
    """`images u8[B,H,W,C] -> f32[B,H,W,C]` with the mean and deviation of `config.data`."""
    mean, std = tuple(config.data.mean), tuple(config.data.std)
    return lambda images: augment.normalize(images, mean, std)
