"""`launch/convert.py --torch`: a run of weights of PyTorch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ml_collections
from absl import flags

from didicm_jax import config as configuration
from didicm_jax import files
from didicm_jax.errors import UserError

if TYPE_CHECKING:
    from didicm_jax.run import Description


def make_run(values: flags.FlagValues, config: ml_collections.ConfigDict | None) -> None:
    """Makes the run of `--workdir` from the file of `--torch`.

    Args:
      values: the flags.
      config: of the run to make, if one was given.

    Raises:
      UserError: the folder holds something, or file, config and classes do not go together.
    """
    from didicm_jax.pytorch import importing, torch_files

    folder = files.local(values.workdir, "run folder")
    files.check_new(folder, about="run folder")
    weights = torch_files.read(files.local(values.torch, "torch"))
    if values.weights == "raw" and weights.raw is None:
        raise UserError(
            "--weights: expected raw weights in the file, found the average alone; "
            "use --weights=auto"
        )
    best = weights.raw if values.weights == "raw" else weights.best
    assert best is not None
    own = config is not None
    if config is None:
        config = _config_of(importing.architecture(best))
    configuration.validate(config)
    if config.model.init_from:
        raise UserError(
            "config.model.init_from: expected none with --torch, which are the weights, found "
            f"{config.model.init_from!r}; leave it out"
        )
    keeps_average = config.train.ema_decay > 0
    raw = weights.raw
    # Of a trunk no average is loaded: a new one starts from the weights.
    if raw is None or not keeps_average or importing.is_trunk(config, best):
        raw = best
    channels = importing.in_channels(best)
    if len(config.data.mean) != channels:
        file = "" if own else "add --config=FILE and "
        raise UserError(
            f"--config: expected a mean and a deviation for each of the {channels} channels of the "
            f"weights, found {config.data.mean}; {file}set config.data.mean and config.data.std"
        )
    names = _read_names(values.class_names) if values.class_names else None
    described = (_of_data(config, names) if own else None) or _of_weights(config, names, best, own)
    loaded = importing.load(config, described, raw, best if keeps_average else None)
    importing.write(folder, config, described, loaded.variables, loaded.averaged)
    source = "moving average" if best is weights.averaged else "weights"
    shape = "x".join(map(str, described.image_shape))
    print(
        f"{config.model.name}, {described.num_classes} classes, images of {shape}: "
        f"{len(loaded.loaded)} tensors loaded, {source} to predict with"
    )
    for what, found in (("left as initialised", loaded.fresh), ("not used", loaded.unused)):
        if found:
            print(f"{what}: {', '.join(found)}")
    print(f"made {folder}; evaluate, predict with or train it with launch/main.py")


def _config_of(found: Any) -> ml_collections.ConfigDict:
    """The paper's recipe for ImageNet, with the network of the tensors."""
    from didicm_jax.config import presets

    scores = found.name.startswith("didirn")
    # Weak: its classifier has the softmax that torchvision's weights were trained with.
    config = presets.imagenet("recipe=strong" if scores else "recipe=weak,method=classifier")
    with config.unlocked():
        config.model.dtype = "float32"  # as they were trained
        config.model.update(found.settings)
    return config


def _of_data(
    config: ml_collections.ConfigDict, names: tuple[str, ...] | None
) -> "Description | None":
    """What the data set of the config says about itself; None where it is not here.

    Raises:
      UserError: it has other classes than the names given, or without it nobody knows its size.
    """
    from didicm_jax import data
    from didicm_jax.config import build
    from didicm_jax.run import Description

    try:
        described = Description.of(build.dataset(config))
    except UserError as error:
        if data.shows_whole(config.data.name) and not config.data.resolution:
            raise
        print(f"{config.data.name} could not be read for its classes ({error})")
        return None
    if names is not None and names != described.class_names:
        given = Description(names, described.image_shape)
        raise UserError(
            f"--class_names: {described.mismatch(given)}, of {config.data.name}; leave it out"
        )
    return described


def _of_weights(
    config: ml_collections.ConfigDict,
    names: tuple[str, ...] | None,
    state_dict: Mapping[str, Any],
    own: bool,
) -> "Description":
    """What can be known without the data: the names given, else those of ImageNet, else numbers.

    Args:
      config: of the run.
      names: of the classes, if given.
      state_dict: of the network.
      own: the config was given, and so says what the data will be.

    Raises:
      UserError: the weights do not say the classes, or have others than those given.
    """
    from didicm_jax.data.listing import imagenet_class_names
    from didicm_jax.pytorch import importing
    from didicm_jax.run import Description

    count, trunk = importing.num_classes(state_dict), importing.is_trunk(config, state_dict)
    if names is not None:
        if len(names) != count and not trunk:
            raise UserError(
                f"--class_names: expected {count} names, as many as the weights have classes, "
                f"found {len(names)}; mend it, or name the new data set in --config"
            )
    elif config.data.name == "imagenet2012" and (own or count == 1000):
        print("class names: the synsets of imagenet2012; --class_names=FILE names others")
        names = imagenet_class_names()
    elif trunk:
        raise UserError(
            "--class_names: expected the classes to train on, which the trunk does not say, found "
            f"neither these nor the data set {config.data.name}; add --class_names=FILE"
        )
    else:
        print("class names: numbers; --class_names=FILE names others")
        names = tuple(map(str, range(count)))
    side = config.data.resolution or 224
    return Description(names, (side, side, importing.in_channels(state_dict)))


def _read_names(path: str) -> tuple[str, ...]:
    try:
        text = files.local(path, "class_names").read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--class_names: expected a text file with a name a line, found {error}; check it"
        ) from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(set(names)) < max(len(names), 2):
        raise UserError(
            f"--class_names: expected two different names or more in {path}, found "
            f"{len(names)} lines with {len(set(names))} names; mend it"
        )
    return names
