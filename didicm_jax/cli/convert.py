"""Weights in and out: from PyTorch to a run, and from a run to PyTorch or to one file for any jax.

    python launch/convert.py --torch=FILE --workdir=DIR
    python launch/convert.py --torch=resnet50.pth --workdir=DIR \\
        --config=configs/imagenet.py:model=didirn50 --config.model.stem=imagenet
    python launch/convert.py --workdir=DIR --export=FILE --steps=2
    python launch/convert.py --workdir=DIR --safetensors=FILE

The first makes a run of a checkpoint of the original implementation, or of a ResNet of torchvision
or timm; the second takes the trunk of a ResNet as the initialisation of a DiDiRN. What was made is
evaluated, predicted with, or trained on by launch/main.py. The third and fourth write a run's
averaged weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from didicm_jax.cli import entry, options
from didicm_jax.cli.command_line import config_first, parse
from didicm_jax.errors import UserError

_RECIPE = Path(__file__).parents[2] / "configs" / "imagenet.py"


def main(argv: list[str]) -> int:
    """Parses and dispatches; returns the exit status."""
    argv = config_first(argv)
    values = _flags(argv)
    if {"-h", "--help", "-help"} & set(argv):
        return entry.show(f"{__doc__}\n{values.get_help()}")
    return entry.guarded(lambda: _convert(values, argv), advice="start the same command again")


def _convert(values: flags.FlagValues, argv: list[str]) -> None:
    config = parse(values, argv)
    _check(values, config)
    if values.torch:
        _import(values, config)
    else:
        _export(values)


def _flags(argv: list[str]) -> flags.FlagValues:
    """The flags, of this call alone, so that a program can call `main` twice."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Of the run to make: a file of configs/.", flag_values=values, sys_argv=argv
    )
    texts = {
        "torch": "File of PyTorch or safetensors to make a run of.",
        "workdir": "The run: to make, or to read.",
        "class_names": "File with a name a line, of the run to make.",
        "export": "File to write: StableHLO with the weights, for cpu, cuda and tpu.",
        "safetensors": "File to write: the weights under PyTorch's names.",
    }
    for name, text in texts.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_enum(
        "weights", "auto", ["auto", "raw"], "auto: the moving average, if any.", flag_values=values
    )
    flags.DEFINE_enum(
        "checkpoint", "latest", ["latest", "best"], "Which one to read.", flag_values=values
    )
    options.define_sampler(values)
    return values


def _check(values: flags.FlagValues, config: ml_collections.ConfigDict | None) -> None:
    """Refuses flags that do not go together.

    Raises:
      UserError: they do not.
    """
    if not values.workdir:
        raise UserError("--workdir: expected the folder of a run, found none; add --workdir=DIR")
    written = [name for name in ("export", "safetensors") if values[name].value]
    if bool(values.torch) == bool(written):
        raise UserError(
            "expected either --torch, or --export or --safetensors, found "
            f"{'both' if written else 'neither'}; give one"
        )
    idle = ["checkpoint", *options.SAMPLING] if values.torch else ["class_names", "weights"]
    if not values.export:
        idle += options.SAMPLING
    for name in idle:
        if values[name].present:
            raise UserError(f"--{name}: expected where it is read, found it here; leave it out")
    if config is not None and not values.torch:
        raise UserError("--config: expected with --torch alone; leave it out: the run has its own")


def _import(values: flags.FlagValues, config: ml_collections.ConfigDict | None) -> None:
    from didicm_jax import config as configuration
    from didicm_jax.pytorch import importing, torch_files
    from didicm_jax.run.description import Description

    folder = Path(values.workdir)
    importing.check_free(folder)
    weights = torch_files.read(Path(values.torch))
    if values.weights == "raw" and weights.raw is None:
        raise UserError(
            "--weights: expected raw weights in the file, found the average alone; "
            "use --weights=auto"
        )
    best = weights.raw if values.weights == "raw" else weights.best
    assert best is not None
    if config is None:
        config = _config_of(importing.architecture(best))
    configuration.validate(config)
    keeps_average = config.train.ema_decay > 0
    raw = best if weights.raw is None or not keeps_average else weights.raw
    names = _class_names(values.class_names, best)
    side, channels = config.data.resolution or 224, _channels(best)
    if len(config.data.mean) != channels:
        raise UserError(
            f"--config: expected a mean and a deviation for each of the {channels} channels of the "
            f"weights, found {config.data.mean}; set config.data.mean and config.data.std"
        )
    described = Description(names, (side, side, channels))
    loaded = importing.load(config, described, raw, best if keeps_average else None)
    importing.write(folder, config, described, loaded)
    source = "moving average" if best is weights.averaged else "weights"
    print(
        f"{config.model.name}, {len(names)} classes, images of {side}x{side}x{channels}: "
        f"{len(loaded.loaded)} tensors loaded, {source} to predict with"
    )
    for what, found in (("left as initialised", loaded.fresh), ("not used", loaded.unused)):
        if found:
            print(f"{what}: {', '.join(found)}")
    print(f"made {folder}; evaluate, predict with or train it with launch/main.py")


def _config_of(found: Any) -> ml_collections.ConfigDict:
    """The paper's recipe for ImageNet, with the network of the tensors."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("imagenet", _RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scores = found.name.startswith("didirn")
    # Weak: its classifier has the softmax that torchvision's weights were trained with.
    config = module.get_config("recipe=strong" if scores else "recipe=weak,method=classifier")
    with config.unlocked():
        config.model.dtype = "float32"  # as they were trained
        config.model.update(found.settings)
    return config


def _class_names(path: str | None, state_dict: Mapping[str, Any]) -> tuple[str, ...]:
    """From the file, else of ImageNet where there are a thousand, else numbers."""
    if "fc.weight" not in state_dict and "head.weight" not in state_dict:
        raise UserError(
            "--torch: expected a layer of classes, fc or head, in the weights, found "
            f"{', '.join(list(state_dict)[:4])}, ...; use the weights of a whole classifier"
        )
    count = len(state_dict["fc.weight" if "fc.weight" in state_dict else "head.weight"])
    if path:
        try:
            names = tuple(line.strip() for line in Path(path).read_text().splitlines() if line)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"--class_names: expected a text file with a name a line, found {error}; check it"
            ) from error
        if len(set(names)) < max(len(names), 2):
            raise UserError(
                f"--class_names: expected two different names or more in {path}, found "
                f"{len(names)} lines with {len(set(names))} names; mend it"
            )
        return names
    if count == 1000:
        from didicm_jax.data.listing import imagenet_class_names

        print("class names: the synsets of imagenet2012; --class_names=FILE names others")
        return imagenet_class_names()
    print("class names: numbers; --class_names=FILE names others")
    return tuple(map(str, range(count)))


def _channels(state_dict: Mapping[str, Any]) -> int:
    name = next((n for n in ("conv1.weight", "patch_embed.proj.weight") if n in state_dict), None)
    if name is None:
        raise UserError(
            "--torch: expected a first convolution conv1 or patch_embed.proj, found "
            f"{', '.join(list(state_dict)[:4])}, ...; use the weights of a ResNet, DiDiRN or ViT"
        )
    return int(state_dict[name].shape[1])


def _export(values: flags.FlagValues) -> None:
    import jax
    from flax import nnx

    from didicm_jax import files
    from didicm_jax.inference import export, sweep, trained
    from didicm_jax.parallel import make_mesh
    from didicm_jax.pytorch import interop

    folder = Path(values.workdir)
    config = trained.read_config(folder, {})
    configs = sweep.variations(config, options.sampler_choices(values))
    if len(configs) > 1:
        raise UserError(
            f"--export: expected one sampler, found {len(configs)}; give one value each"
        )
    mesh = make_mesh(jax.local_devices()[:1])
    run = trained.restore(folder, values.checkpoint, configs[0], mesh)
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
