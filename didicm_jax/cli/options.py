"""The flags of `main.py`: what they are, and which mode reads which."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from didicm_jax import config as configuration
from didicm_jax.cli.command_line import check_once, flagged
from didicm_jax.errors import UserError

if TYPE_CHECKING:
    from didicm_jax.evaluation.subject import OtherData

MODES = ("train", "evaluate", "compare", "predict", "report", "preflight")
_RUNS = tuple(mode for mode in MODES if mode != "preflight")  # those that have a run's folder
_LOOK = ("evaluate", "compare", "predict")
_JUDGE = ("evaluate", "compare")
_STARTS = ("train", *_LOOK)  # those that start JAX


class _Flag(NamedTuple):
    """A row of the table of flags."""

    name: str
    define: Callable[..., Any]  # of absl, which takes name, default, help and flag_values
    default: Any
    help: str
    modes: tuple[str, ...]  # that read it: to others it must not be given


_TEXT, _LIST, _SWITCH = flags.DEFINE_string, flags.DEFINE_list, flags.DEFINE_boolean
_COUNT = partial(flags.DEFINE_integer, lower_bound=1)
_WHICH = partial(flags.DEFINE_enum, enum_values=["latest", "best"])
# Each is a list, of values for a key of `config.sampler`.
SAMPLER_KEYS = {"sampler": "name"} | {key: key for key in configuration.SAMPLER_CHOICES}
SAMPLING = tuple(SAMPLER_KEYS)
_SAMPLER_FLAGS = tuple(
    _Flag(
        flag,
        _LIST,
        None,
        f"One or several values of config.sampler.{key}, such as a,b"
        + ("; paper is its eight Euler steps." if flag == "sampler" else "."),
        _LOOK,
    )
    for flag, key in SAMPLER_KEYS.items()
)
_FLAGS = (
    _Flag("workdir", _TEXT, None, "Folder of the run; to report, one or several, A,B.", _RUNS),
    _Flag("pretrained", _TEXT, None,
          "Instead of a workdir a network that comes with the package, by its name, a folder of "
          "one, or hf://user/name.", ("evaluate", "predict")),
    _Flag("output", _TEXT, None,
          "Folder for what is written; default: in the workdir, and without one predictions or "
          "evaluation in the current folder, which preflight.json goes to.",
          (*_LOOK, "report", "preflight")),
    _Flag("checkpoint", _WHICH, "latest", "Which one to read.", _LOOK),
    _Flag("baseline", _TEXT, None, "Workdir of a second run to hold against this one.", _JUDGE),
    *_SAMPLER_FLAGS,
    _Flag("dataset", _TEXT, None,
          "Evaluate on this data set, with the same classes, and not the run's own.", _JUDGE),
    _Flag("data_dir", _TEXT, None, "Folder of that data set.", _JUDGE),
    _Flag("split", _TEXT, None,
          "A part of it, or of the run's own data set, such as test or train[90%:].", _JUDGE),
    _Flag("examples", _COUNT, None,
          "Evaluate on so many examples, the same share of each class; of a preflight the training "
          "examples of a set that is not there.", (*_JUDGE, "preflight")),
    _Flag("corruptions", _LIST, None,
          "Also evaluate on corrupted images: 'all', or some of ImageNet-C's 15.", ("evaluate",)),
    _Flag("severities", _LIST, None, "Of the corruptions, 1 to 5; default: all.", ("evaluate",)),
    _Flag("real_labels", _TEXT, None,
          "File of the ReaL labels of ImageNet's validation images, real.json.", ("evaluate",)),
    _Flag("trajectories", _SWITCH, False, "Keep the way to each posterior too.", ("evaluate",)),
    _Flag("images", flags.DEFINE_multi_string, None,
          "A file or a folder of images; several as A,B, or the flag again. A name with a comma is "
          "taken whole if there is such a file.", ("compare", "predict")),
    _Flag("sheet", _COUNT, 24, "How many images the sheet of disagreements shows.", ("compare",)),
    _Flag("gif", _SWITCH, False, "Also an animation of each image.", ("predict",)),
    _Flag("max_figures", partial(flags.DEFINE_integer, lower_bound=0), 100,
          "Draw the first images, at most so many.", ("predict",)),
    _Flag("topology", _TEXT, None,
          "Devices to compile for, that need not be there, such as h100:8 or v5e:2x2.",
          ("preflight",)),
    _Flag("classes", _COUNT, None, "Classes of a set that is not there.", ("preflight",)),
    _Flag("image_size", _COUNT, None, "Side of its images in pixels, as the network takes them.",
          ("preflight",)),
    _Flag("debug_nans", _SWITCH, False,
          "Look for the operation behind the first non-finite step (slower, more memory).",
          ("train",)),
    _Flag("profile", _TEXT, None,
          "START:STOP, to write a trace of the steps from START up to STOP, without it.",
          ("train",)),
    _Flag("compilation_cache", _TEXT, "",
          "Folder for compiled programs, so that a restart need not compile; '': in the output or "
          "the workdir, 'none': none.", _STARTS),
    _Flag("coordinator_address", _TEXT, None,
          "Of several processes: host:port of process 0. Found by itself on Cloud TPU, SLURM, Open "
          "MPI and Kubernetes.", _STARTS),
    _Flag("num_processes", flags.DEFINE_integer, None, "How many there are.", _STARTS),
    _Flag("process_id", flags.DEFINE_integer, None, "Which of them this is, from 0.", _STARTS),
    # Whole, as JAX takes it: a float may be NaN, which is outside of no bounds.
    _Flag("peer_timeout", partial(_COUNT, upper_bound=10**6), 600,
          "Seconds of waiting for the other processes after which they are given up.", _STARTS),
)  # fmt: skip
_OTHER_DATA = ("dataset", "data_dir", "split", "examples")


def define(values: flags.FlagValues) -> None:
    """Defines the flags, of one call of `main` alone."""
    flags.DEFINE_enum("mode", "train", MODES, "What to do.", flag_values=values)
    for row in _FLAGS:
        readers = "" if row.modes == MODES else f" (--mode={', '.join(row.modes)})"
        _define(row._replace(help=row.help + readers), values)


def define_some(values: flags.FlagValues, names: Sequence[str]) -> None:
    """Defines those of these names, for another command."""
    for row in _FLAGS:
        if row.name in names:
            _define(row, values)


def _define(row: _Flag, values: flags.FlagValues) -> None:
    row.define(name=row.name, default=row.default, help=row.help, flag_values=values)


def check(values: flags.FlagValues) -> None:
    """Refuses a flag that the mode would not read.

    Raises:
      UserError: there is one.
    """
    mode = values.mode
    for row in sorted(_FLAGS, key=lambda row: row.name):
        if values[row.name].present and mode not in row.modes:
            raise UserError(
                f"--{row.name}: expected with --mode={' or '.join(row.modes)}, found "
                f"--mode={mode}; leave it out"
            )
    if values.severities is not None and values.corruptions is None:
        raise UserError(
            "--severities: expected with --corruptions, found without; add --corruptions=all"
        )
    if values.baseline is not None and mode == "evaluate" and values.corruptions is None:
        raise UserError(
            "--baseline: expected with --corruptions or --mode=compare, found neither; add "
            "--corruptions=all or use --mode=compare"
        )
    if mode == "report":
        check_once(values, "workdir")  # which there is a list
    profiled_steps(values)
    check_pretrained(values)
    if values.data_dir is not None and values.dataset is None and not values.pretrained:
        raise UserError("--data_dir: expected with --dataset, found without; add --dataset=NAME")
    for name in _OTHER_DATA:
        if values.images and values[name].present:
            raise UserError(
                f"--{name}: expected without --images, which says what to compare on, found both; "
                "leave one out"
            )


def check_pretrained(values: flags.FlagValues) -> None:
    """Refuses what names a network beside `--pretrained`.

    Raises:
      UserError: it was given.
    """
    for name in ("workdir", "checkpoint"):
        if values.pretrained and values[name].present:
            raise UserError(
                f"--{name}: expected without --pretrained, which names one network, found both; "
                "leave one out"
            )


def sampler_choices(values: flags.FlagValues) -> dict[str, list[Any]]:
    """The settings of the sampler that were given, as `sweep.variations` takes them.

    Raises:
      UserError: steps, chains or views that are no whole numbers, or temperatures that are none.
    """
    given = {key: values[flag].value for flag, key in SAMPLER_KEYS.items()}
    choices: dict[str, list[Any]] = {key: words for key, words in given.items() if words}
    for key in {"steps", "chains", "views"} & choices.keys():
        choices[key] = _integers(key, choices[key])
    if "temperature" in choices:
        choices["temperature"] = _numbers("temperature", choices["temperature"])
    return choices


def chosen_corruptions(values: flags.FlagValues) -> tuple[list[str], list[int]]:
    """Names, and severities from the least on, each once; none without `--corruptions`.

    Raises:
      UserError: an unknown name, or a severity outside 1 to 5.
    """
    if values.corruptions is None:
        return [], []
    from didicm_jax.data import corruptions  # which imports Grain, and that jax

    names = values.corruptions
    if names == ["all"]:
        names = list(corruptions.CORRUPTIONS)
    with flagged("corruptions"):
        for name in names:
            corruptions.check(name)
    severities = list(corruptions.SEVERITIES)
    if values.severities:
        severities = _integers("severities", values.severities)
    with flagged("severities"):
        for severity in severities:
            corruptions.check(names[0], severity)
    # A mean counts each once, and lines are drawn from the least to the greatest.
    return list(dict.fromkeys(names)), sorted(set(severities))


def profiled_steps(values: flags.FlagValues) -> range:
    """The steps to trace; empty without `--profile`.

    Raises:
      UserError: they are not written as START:STOP, or are none.
    """
    if values.profile is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", values.profile)
    steps = range(int(match[1]), int(match[2])) if match else range(0)
    if not steps:
        raise UserError(
            f"--profile: expected START:STOP with START < STOP, found {values.profile!r}; write "
            "10:15 for steps 10 to 14"
        )
    return steps


def other_data(values: flags.FlagValues) -> "OtherData":
    """What to evaluate on."""
    from didicm_jax.evaluation.subject import OtherData  # which imports jax

    return OtherData(values.dataset, values.data_dir, values.split, values.examples)


def _numbers(flag: str, words: list[str]) -> list[float]:
    return _each(float, flag, words, "numbers such as 1,1.5")


def _integers(flag: str, words: list[str]) -> list[int]:
    return _each(int, flag, words, "whole numbers such as 1,2,4")


def _each(kind: Callable[[str], Any], flag: str, words: list[str], expected: str) -> list[Any]:
    try:
        return [kind(word) for word in words]
    except ValueError as error:
        raise UserError(
            f"--{flag}: expected {expected}, found {','.join(words)}; change it"
        ) from error
