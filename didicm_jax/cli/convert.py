"""Weights in and out: from PyTorch to a run, and from a run to PyTorch, to one file for any jax, or
to a folder for the Hugging Face Hub, and back.

    python launch/convert.py --torch=FILE --workdir=DIR
    python launch/convert.py --torch=resnet50.pth --workdir=DIR \\
        --config=configs/imagenet.py:model=didirn50 --config.model.stem=imagenet
    python launch/convert.py --workdir=DIR --export=FILE --steps=2
    python launch/convert.py --workdir=DIR --safetensors=FILE
    python launch/convert.py --workdir=DIR --hub=FOLDER --checkpoint=best --license=apache-2.0
    python launch/convert.py --pretrained=SOURCE --workdir=DIR

The first makes a run of a checkpoint of the original implementation, or of a ResNet of torchvision
or timm; the second takes the trunk of a ResNet as the initialisation of a DiDiRN. What was made is
evaluated, predicted with, or trained on by launch/main.py. Its classes and the size of its images
are those of the data set of --config, where that is here; else --class_names (or the weights) and
config.data.resolution say them. The third and fourth write a run's averaged weights. The fifth
makes a folder of weights, config and model card, which can be uploaded as it is and is read by
launch/main.py --pretrained=FOLDER; the sixth makes a run of one, which stands at step 0. SOURCE is
such a folder, the name of a network that comes with the package, or hf://user/name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
from absl import flags

from didicm_jax.cli import entry, hub, options
from didicm_jax.cli.command_line import config_first, flagged, new_flags, parse
from didicm_jax.cli.hub import Beginning
from didicm_jax.errors import UserError

if TYPE_CHECKING:
    from didicm_jax.run import Description


def main(argv: list[str]) -> int:
    """Parses and dispatches; returns the exit status."""
    return entry.guarded(
        lambda: _convert(config_first(argv)), advice="start the same command again"
    )


def _convert(argv: list[str]) -> None:
    values = _flags(argv)
    if entry.asks_for_help(argv):
        print(f"{__doc__}\n{values.get_help()}")
        return
    config = parse(values, argv)
    _check(values)
    with flagged():
        if values.torch:
            _import(values, config)
        elif values.pretrained:
            hub.read(values)
        else:
            began = tuple(word for word in argv if word.startswith("--config"))
            _export(values, None if config is None else Beginning(began, config))


def _flags(argv: list[str]) -> flags.FlagValues:
    values = new_flags(
        argv, "Of the run to make: a file of configs/. For --hub the one that the run began with."
    )
    texts = {
        "torch": "File of PyTorch or safetensors to make a run of.",
        "workdir": "The run: to make, or to read.",
        "class_names": "File with a name a line, of the run to make.",
        "export": "File to write: StableHLO with the weights, for cpu, cuda and tpu.",
        "safetensors": "File to write: the weights under PyTorch's names.",
        "hub": "Folder to write, of model.safetensors, config.json and README.md.",
        "pretrained": "To make a run of: such a folder, a name, or hf://user/name.",
        "license": "For the model card: of the weights, as the Hub abbreviates it.",
        "dataset": "For the model card: the data set on the Hub, such as uoft-cs/cifar10.",
    }
    for name, text in texts.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_enum(
        "weights", "auto", ["auto", "raw"], "auto: the moving average, if any.", flag_values=values
    )
    flags.DEFINE_enum(
        "checkpoint", "latest", ["latest", "best"], "Which one to read.", flag_values=values
    )
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "bfloat16"], "Of the kernels in it.", flag_values=values
    )
    options.define_sampler(values)
    return values


def _check(values: flags.FlagValues) -> None:
    """Refuses flags that do not go together.

    Raises:
      UserError: they do not.
    """
    if not values.workdir:
        raise UserError("--workdir: expected the folder of a run, found none; add --workdir=DIR")
    written = [name for name in ("export", "safetensors", "hub") if values[name].value]
    ways = [name for name in ("torch", "pretrained") if values[name].value]
    ways += written[:1]
    if len(ways) != 1:
        raise UserError(
            "expected either --torch or --pretrained, or else --export, --safetensors or --hub, "
            f"found {' and '.join(f'--{name}' for name in ways) or 'none'}; give one"
        )
    readers = {name: ["torch"] for name in ("class_names", "weights")}
    readers |= {"config": ["torch", "hub"], "checkpoint": ["export", "safetensors", "hub"]}
    readers |= {name: ["export", "hub"] for name in options.SAMPLING}
    readers |= {name: ["hub"] for name in ("dtype", "license", "dataset")}
    for name, of in readers.items():
        if values[name].present and not any(values[reader].value for reader in of):
            raise UserError(
                f"--{name}: expected with --{' or --'.join(of)}, found without; leave it out"
            )


def _import(values: flags.FlagValues, config: ml_collections.ConfigDict | None) -> None:
    from didicm_jax import config as configuration
    from didicm_jax import files
    from didicm_jax.pytorch import importing, torch_files

    folder = Path(values.workdir)
    files.check_new(folder, about="run folder")
    weights = torch_files.read(Path(values.torch))
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
    keeps_average = config.train.ema_decay > 0
    raw = best if weights.raw is None or not keeps_average else weights.raw
    channels = importing.in_channels(best)
    if len(config.data.mean) != channels:
        raise UserError(
            f"--config: expected a mean and a deviation for each of the {channels} channels of the "
            f"weights, found {config.data.mean}; set config.data.mean and config.data.std"
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
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--class_names: expected a text file with a name a line, found {error}; check it"
        ) from error
    names = tuple(line.strip() for line in text.splitlines() if line)
    if len(set(names)) < max(len(names), 2):
        raise UserError(
            f"--class_names: expected two different names or more in {path}, found "
            f"{len(names)} lines with {len(set(names))} names; mend it"
        )
    return names


def _export(values: flags.FlagValues, began: Beginning | None) -> None:
    import jax
    from flax import nnx

    from didicm_jax import files
    from didicm_jax.inference import export, network, sweep
    from didicm_jax.parallel import make_mesh
    from didicm_jax.pytorch import interop
    from didicm_jax.run import RunFolder

    if values.hub:
        files.check_new(Path(values.hub), about="hub")
    folder = RunFolder.open(values.workdir)
    configs = sweep.variations(folder.config, options.sampler_choices(values))
    if len(configs) > 1:
        flag = "export" if values.export else "hub"
        raise UserError(
            f"--{flag}: expected one sampler, found {len(configs)}; give one value each"
        )
    mesh = make_mesh(jax.local_devices()[:1])
    run = network.load(folder.changed(configs[0], evaluates=True), values.checkpoint, mesh)
    if values.export:
        path = Path(values.export)
        data = export.serialize(run)
        files.write_whole(path, lambda file: file.write(data))
        sidecar = path.with_name(path.name + ".json")
        files.write_json(sidecar, export.describe(run))
        print(
            f"wrote {path}, {len(data) / 1e6:.1f} MB: jax.export.deserialize(data).call(images) "
            f"takes u8[B,{','.join(map(str, run.description.image_shape))}]; its classes and "
            f"sampler are in {sidecar}"
        )
    if values.safetensors:
        from safetensors.numpy import save

        path = Path(values.safetensors)
        model = nnx.merge(run.graphdef, *run.variables)
        tensors = interop.to_torch_state_dict(model)
        data = save(tensors, metadata={"format": "pt"})
        files.write_whole(path, lambda file: file.write(data))
        print(f"wrote {path}: {len(tensors)} tensors")
    if values.hub:
        hub.write(values, folder, run, began)
