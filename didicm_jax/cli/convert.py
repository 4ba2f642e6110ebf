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

import itertools
from pathlib import Path

from absl import flags

from didicm_jax import files
from didicm_jax.cli import entry, from_torch, hub, options
from didicm_jax.cli.beginning import Beginning
from didicm_jax.cli.command_line import check_file, config_first, flagged, new_flags, parse
from didicm_jax.errors import UserError
from didicm_jax.run import Places


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
            from_torch.make_run(values, config)
        elif values.pretrained:
            hub.read(values)
        else:
            _export(values, None if config is None else Beginning.of(values, argv))


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
        "dtype", "float32", ["float32", "bfloat16"], "Of the kernels in it.", flag_values=values
    )
    options.define_some(values, ("checkpoint", *options.SAMPLING))
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


def _check_places(values: flags.FlagValues) -> None:
    """Refuses what could not be written, or only over one another, before a network is read.

    Raises:
      UserError: there is such a file or folder.
    """
    places: list[tuple[str, Path]] = []
    if values.export:
        path = _file("export", values.export)
        places += [("export", path), ("export", _sidecar(path))]
    if values.safetensors:
        places.append(("safetensors", _file("safetensors", values.safetensors)))
    of_run = [files.resolved(each) for each in Places(files.place(values.workdir)).files]
    for flag, path in places:
        check_file(flag, path)
        if files.resolved(path) in of_run:
            raise UserError(
                f"--{flag}: expected a place of its own, found {path}, which is of the run; name "
                "another"
            )
    if values.hub:
        places.append(("hub", files.local(values.hub, "hub")))
        files.check_new(places[-1][1], about="hub")
    for (flag, path), (other, second) in itertools.combinations(places, 2):
        if files.resolved(path) == files.resolved(second):
            raise UserError(
                f"--{other}: expected a place of its own, found {path}, which --{flag} writes; "
                "name another"
            )


def _file(flag: str, path: str) -> Path:
    return files.local(path, flag, expected="a file on a disk")


def _sidecar(path: Path) -> Path:
    """Beside an exported network: what a program must know to use it."""
    return Path(f"{path}.json")


def _export(values: flags.FlagValues, began: Beginning | None) -> None:
    from flax import nnx

    from didicm_jax.inference import export, network, sweep
    from didicm_jax.parallel import one_device
    from didicm_jax.pytorch import interop
    from didicm_jax.run import RunFolder

    _check_places(values)
    folder = RunFolder.open(values.workdir)
    configs = sweep.variations(folder.config, options.sampler_choices(values))
    if len(configs) > 1:
        flag = "export" if values.export else "hub"
        raise UserError(
            f"--{flag}: expected one sampler, found {len(configs)}; give one value each"
        )
    mesh = one_device()
    run = network.load(folder.changed(configs[0], evaluates=True), values.checkpoint, mesh)
    if values.export:
        path = _file("export", values.export)
        data = export.serialize(run)
        files.write_bytes(path, data)
        sidecar = _sidecar(path)
        files.write_json(sidecar, export.describe(run))
        print(
            f"wrote {path}, {len(data) / 1e6:.1f} MB: jax.export.deserialize(data).call(images) "
            f"takes u8[B,{','.join(map(str, run.description.image_shape))}]; its classes and "
            f"sampler are in {sidecar}"
        )
    if values.safetensors:
        from safetensors.numpy import save

        path = _file("safetensors", values.safetensors)
        model = nnx.merge(run.graphdef, *run.variables)
        tensors = interop.to_torch_state_dict(model)
        data = save(tensors, metadata={"format": "pt"})
        files.write_bytes(path, data)
        print(f"wrote {path}: {len(tensors)} tensors")
    if values.hub:
        hub.write(values, folder, run, began)
