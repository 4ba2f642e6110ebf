"""From a validated config to what it names: data, augmentation, network, noise schedule."""

from typing import Any, Protocol

import jax.numpy as jnp
import ml_collections
from flax import nnx

from didicm_jax import augment, data, diffusion, models, parallel
from didicm_jax.config.sets import evaluation_sets
from didicm_jax.errors import UserError


def dataset(config: ml_collections.ConfigDict) -> data.Dataset:
    """The data set of `config.data`, with the examples to train on.

    Raises:
      UserError: as for `stored`; or more examples are asked for than there are, or `mean` and
        `std` do not fit the channels.
    """
    settings = config.data
    found = stored(config)
    channels = found.image_shape[-1]
    for key in ("mean", "std"):
        if len(settings[key]) != channels:
            raise UserError(
                f"config.data.{key}: expected {channels} numbers, one per channel of "
                f"{settings.name}, found {settings[key]}"
            )
    return data.trained_on(
        found,
        train_examples=settings.train_examples or None,
        data_ratio=settings.data_ratio,
        label_noise=settings.label_noise,
        seed=config.seed,
    )


def stored(config: ml_collections.ConfigDict, *, trains: bool = True) -> data.Dataset:
    """The data set of `config.data` as it is stored; `test` is the first of `evaluation_sets`.

    Args:
      config: a valid one.
      trains: False opens nothing to train on, which need not be there; `train` is `test` then.

    Raises:
      UserError: it is not there, or it is damaged.
    """
    settings = config.data
    first = evaluation_sets(config)[0]
    try:
        return data.load(
            settings.name,
            data_dir=settings.data_dir or None,
            resolution=settings.resolution or None,
            crop_scale=settings.crop_scale,
            crop_ratio=settings.crop_ratio,
            eval_crop=settings.eval_crop,
            train_split=settings.train_split if trains else None,
            eval_split=first.split,
            max_broken_share=settings.max_broken_share,
            max_pixels=settings.max_pixels,
            num_workers=settings.num_workers,
            cache_gib=settings.cache_gib,
        )
    except UserError as error:
        if first.split == settings.eval_split:
            raise
        named = f"config.evaluation.sets, {first.name}"
        message = error.message.replace("config.data.eval_split", named)
        raise UserError(message, about=error.about) from error


class Task(Protocol):
    """What a network must know of a data set: `data.Dataset`, or `run.Description`."""

    @property
    def num_classes(self) -> int:
        """The number of classes K."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""


def model(config: ml_collections.ConfigDict, dataset: Task, rngs: nnx.Rngs) -> nnx.Module:
    """The network of `config.model` for the images and classes of `dataset`.

    Raises:
      UserError: it cannot take these images, or has no blocks for `config.train.remat`.
    """
    settings, remat = config.model, config.train.remat
    height, width, channels = dataset.image_shape
    made = models.create_model(
        settings.name,
        num_classes=dataset.num_classes,
        image_size=(height, width),
        rngs=rngs,
        in_channels=channels,
        **_options(settings),
    )
    if remat != "none" and not any(hasattr(each, "remat") for _, each in nnx.iter_modules(made)):
        raise UserError(
            f"config.train.remat: expected none, as no layer of {settings.name} has an attribute "
            f"remat, found {remat!r}; set it to none"
        )
    return made


def _options(settings: ml_collections.ConfigDict) -> dict[str, Any]:
    """The settings of `config.model` that this model has."""
    given = {
        "width": settings.width,
        "dtype": jnp.dtype(settings.dtype),
        "parameterization": settings.parameterization,
        "stem": settings.stem,
        "norm_axis_name": parallel.AXIS if settings.sync_batch_norm else None,
        "conditioned_stages": settings.conditioned_stages,
        "init": settings.init,
        "group_elements": settings.group_elements,
        "depth": settings.depth,
        "pool": settings.pool,
        "conditioned_blocks": (
            None if settings.conditioned_blocks == -1 else settings.conditioned_blocks
        ),
    }
    known = models.options_of(settings.name)
    return {option: value for option, value in given.items() if option in known}


def noise_schedule(config: ml_collections.ConfigDict) -> diffusion.Schedule:
    """The noise schedule of `config.diffusion`, behind the noise that its labels have."""
    settings = config.diffusion
    if settings.schedule == "loglinear":
        schedule: diffusion.Schedule = diffusion.loglinear(settings.eps)
    else:
        schedule = diffusion.geometric(settings.sigma_min, settings.sigma_max)
    return diffusion.shifted(schedule, diffusion.total_noise(settings.label_noise))


def policy(config: ml_collections.ConfigDict, platform: str) -> augment.Policy:
    """The augmentation of `config.augment`, with the mean and deviation of `config.data`.

    Args:
      config: validated.
      platform: of the devices that it runs on, as JAX calls it; decides how pixels are read.
    """
    return augment.Policy(
        mean=config.data.mean,
        std=config.data.std,
        **config.augment,
        gathers=platform != "tpu",
    )
