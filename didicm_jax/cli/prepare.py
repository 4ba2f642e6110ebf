"""Prepares images for training, as array_record through tensorflow-datasets, without TensorFlow.

    python launch/prepare.py --dataset=imagenet2012 --source=TARS --data_dir=DIR
    python launch/prepare.py --dataset=folder --name=NAME --source=TREE --data_dir=DIR

TARS is the folder of the two official tars; TREE holds train/CLASS/* and val/CLASS/*. Afterwards
`--config.data.name=NAME --config.data.data_dir=DIR` reads what was prepared.
"""

import sys

from absl import flags

from didicm_jax import files
from didicm_jax.cli import entry
from didicm_jax.cli.command_line import read, with_flags
from didicm_jax.errors import UserError

DATASETS = ("imagenet2012", "folder")
# What the library says of the settings of a run is said of these flags here.
_FLAG_OF = {"data.max_pixels": "max_pixels"}


def main(argv: list[str]) -> int:
    """Parses and dispatches; returns the exit status."""
    values = _flags()

    def body() -> None:
        if entry.asks_for_help(argv):
            print(f"{__doc__}\n{values.get_help()}")
            return
        try:
            _prepare(values, argv)
        except UserError as error:
            _print_broken(getattr(error, "names", ()))
            # What is an argument of the function is a flag here.
            words = with_flags(str(error), _FLAG_OF).replace(" max_bad=", " --max_bad=")
            raise UserError(words) from error

    return entry.guarded(body, advice="nothing was stored; start again to prepare")


def _flags() -> flags.FlagValues:
    """The flags, of this call alone, so that a program can call `main` twice."""
    values = flags.FlagValues()
    texts = {
        "source": "Folder of the two tars, or of train/ and val/.",
        "data_dir": "Where sets are stored; this one becomes DIR/NAME.",
        "name": "What to call the set; imagenet2012 has its own.",
    }
    numbers = {
        "max_pixels": "Larger images count as broken; 0: as in training (config.data.max_pixels).",
        "shorter_side": "Store smaller JPEGs: shrink larger images to so many pixels; 0: as is.",
        "max_bad": "How many broken files to leave out; with more, nothing is stored.",
        "workers": "Threads that check and encode images; 0: one per core.",
    }
    flags.DEFINE_enum("dataset", None, DATASETS, "What the source is.", flag_values=values)
    for flag, text in texts.items():
        flags.DEFINE_string(flag, None, text, flag_values=values)
    for flag, text in numbers.items():
        flags.DEFINE_integer(flag, 0, text, flag_values=values)
    return values


def _prepare(values: flags.FlagValues, argv: list[str]) -> None:
    read(values, argv)
    needed = ["dataset", "source", "data_dir"] + ["name"] * (values.dataset == "folder")
    missing = [f"--{flag}" for flag in needed if not values[flag].value]
    if missing:
        raise UserError(
            f"expected {', '.join(f'--{flag}' for flag in needed)}, found no {', '.join(missing)}:"
            " add them, --help tells what they are"
        )
    # Only now: they take a second to import.
    from didicm_jax.data.listing import list_folder, list_imagenet
    from didicm_jax.data.options import MAX_PIXELS
    from didicm_jax.data.prepare import check, prepare

    name = values.name or values.dataset
    numbers = {
        "shorter_side": values.shorter_side,
        "max_bad": values.max_bad,
        "max_pixels": values.max_pixels or MAX_PIXELS,
        "workers": values.workers,
    }
    check(name, **numbers)
    if values.dataset == "folder" and name == "imagenet2012":
        raise UserError(
            "expected --name to be one of your own, found 'imagenet2012', the official set:"
            " choose another"
        )
    source = files.local(values.source, "--source")
    data_dir = files.local(
        values.data_dir, "--data_dir", expected="a folder on a disk, to copy the set from later"
    )
    list_source = list_folder if values.dataset == "folder" else list_imagenet
    result = prepare(
        list_source(source, name=name),
        data_dir,
        **numbers,
    )
    counts = ", ".join(f"{count:,} {split}" for split, count in result.counts.items())
    state = "prepared" if result.is_new else "already prepared"
    print(f"{state}: {counts} images in {result.folder}")
    _print_broken(result.broken)


def _print_broken(names: tuple[str, ...]) -> None:
    for name in names:
        print(f"broken: {with_flags(name, _FLAG_OF)}", file=sys.stderr)
