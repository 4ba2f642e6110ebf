"""All models by name. A family joins with one row: its names and how it checks and builds."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from didicm_jax.errors import UserError
from didicm_jax.models import resnet, vit
from didicm_jax.models.base import Classifier, ScoreModel
from didicm_jax.models.option_checks import ImageSize, require_int


class Entry(NamedTuple):
    """A model by name: its kind (`ScoreModel` or `Classifier`), its options and its builder."""

    kind: type[nnx.Module]
    # A frozen dataclass, its fields the options with their defaults. Its `check(name, image_size)`
    # raises UserError unless the model can be built with them.
    options: type[Any]
    build: Callable[..., Any]  # (options, *, num_classes, image_size, rngs), the options checked


# By name; what others add here is known to `create_model` and to the settings.
MODELS = {name: Entry(*row) for name, row in (resnet.MODELS | vit.MODELS).items()}


def names() -> tuple[str, ...]:
    """The names that `create_model` knows."""
    return tuple(MODELS)


def score_models() -> tuple[str, ...]:
    """The names of the models that see label and noise."""
    return tuple(name for name, entry in MODELS.items() if issubclass(entry.kind, ScoreModel))


def classifiers() -> tuple[str, ...]:
    """The names of the plain models."""
    return tuple(name for name, entry in MODELS.items() if issubclass(entry.kind, Classifier))


def options_of(name: str) -> dict[str, Any]:
    """The options that model `name` takes, each with its default.

    What they mean stands with the dataclasses that `create_model` names.

    Raises:
      UserError: there is no such model.
    """
    return {field.name: field.default for field in dataclasses.fields(_entry(name).options)}


def create_model(
    name: str, *, num_classes: int, image_size: ImageSize, rngs: nnx.Rngs, **options: Any
) -> Any:
    """A new model in train mode; `model.eval()` switches it.

    Args:
      name: one of `names()`.
      num_classes: K, at least 2.
      image_size: side of the images, or (height, width).
      rngs: source of the initial parameters.
      **options: those of the family: `ResNetOptions` for `resnet*`, with `ScoreOptions` for
        `didirn*`; `ViTOptions` for `vit_*`, with `DiDiViTOptions` for `didivit_*`.

    Returns:
      A `ScoreModel` for `didirn*` and `didivit_*`, a `Classifier` for `resnet*` and `vit_*`. Its
      state holds `nnx.Param` and `nnx.BatchStat` only (of the latter a ViT has none), all float32.

    Raises:
      UserError: for an unknown name or option, or a value that the model cannot be built with;
        before any parameter is made.
    """
    entry, known = _entry(name), options_of(name)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise UserError(
            f"{name}: expected options out of {', '.join(known)}, found {', '.join(unknown)}: "
            "remove or rename them"
        )
    require_int(f"{name}: num_classes", num_classes, 2)
    checked = entry.options(**options)
    checked.check(name, image_size)
    return entry.build(checked, num_classes=num_classes, image_size=image_size, rngs=rngs)


def _entry(name: str) -> Entry:
    if name not in MODELS:
        raise UserError(
            f"expected the name of a model, found {name!r}: use one of {', '.join(MODELS)}"
        )
    return MODELS[name]
