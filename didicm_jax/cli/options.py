"""The flags of `main.py` that say what to look at, and which mode reads which."""

from typing import TYPE_CHECKING, Any

from absl import flags

from didicm_jax.errors import UserError

if TYPE_CHECKING:
    from didicm_jax.evaluation.subject import OtherData

MODES = ("train", "evaluate", "compare", "predict", "report")

# Flags that are lists, and the keys of `config.sampler` that they are values for.
_SAMPLER_KEYS = {"sampler": "name"} | {
    key: key for key in ("integrator", "grid", "query", "chains", "steps")
}
SAMPLING = tuple(_SAMPLER_KEYS)
_PROCESSES = {"coordinator_address", "num_processes", "process_id", "peer_timeout"}
_OTHER_DATA = {"dataset", "data_dir", "split", "examples"}
_COMPILING = {"workdir", "compilation_cache"}
# A flag that a mode does not read must not be given to it.
_READS = {
    "train": _COMPILING | _PROCESSES | {"debug_nans"},
    "evaluate": _COMPILING
    | _PROCESSES
    | set(SAMPLING)
    | _OTHER_DATA
    | {"checkpoint", "output", "baseline", "corruptions", "severities", "real_labels"}
    | {"trajectories"},
    "compare": _COMPILING
    | _PROCESSES
    | set(SAMPLING)
    | _OTHER_DATA
    | {"checkpoint", "output", "baseline", "images", "sheet"},
    "predict": _COMPILING
    | set(SAMPLING)
    | {"checkpoint", "output", "images", "gif", "max_figures"},
    "report": {"workdir", "output"},
}


def define(values: flags.FlagValues) -> None:
    """Defines the flags, of one call of `main` alone."""

    def text(name: str, words: str) -> None:
        flags.DEFINE_string(name, None, words, flag_values=values)

    def texts(name: str, words: str) -> None:
        flags.DEFINE_list(name, None, words, flag_values=values)

    flags.DEFINE_enum(
        "checkpoint", "latest", ["latest", "best"], "Which one to read.", flag_values=values
    )
    text("output", "Folder for what the mode writes; default: in the workdir.")
    text("baseline", "Workdir of a second run to hold against this one.")
    define_sampler(values)
    text("dataset", "Evaluate on this data set, with the same classes, and not the run's own.")
    text("data_dir", "Its folder.")
    text("split", "A part of it, or of the run's own data set, such as test or train[90%:].")
    flags.DEFINE_integer(
        "examples",
        None,
        "Evaluate on so many examples, the same share of each class.",
        lower_bound=1,
        flag_values=values,
    )
    texts("corruptions", "Also evaluate on corrupted images: 'all', or some of ImageNet-C's 15.")
    texts("severities", "Of the corruptions, 1 to 5; default: all.")
    text("real_labels", "File of the ReaL labels of ImageNet's validation images, real.json.")
    flags.DEFINE_boolean(
        "trajectories", False, "Keep the way to each posterior too.", flag_values=values
    )
    texts("images", "Files or folders of images.")
    flags.DEFINE_boolean("gif", False, "Also an animation of each image.", flag_values=values)
    flags.DEFINE_integer(
        "max_figures", 100, "At most so many figures.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "sheet", 24, "Images on the sheet of disagreements.", lower_bound=1, flag_values=values
    )


def define_sampler(values: flags.FlagValues) -> None:
    """Defines the flags that choose a sampler."""
    for flag, key in _SAMPLER_KEYS.items():
        text = f"One or several values of config.sampler.{key}, such as a,b."
        flags.DEFINE_list(flag, None, text, flag_values=values)


def check(values: flags.FlagValues) -> None:
    """Refuses a flag that the mode would not read.

    Raises:
      UserError: there is one.
    """
    mode = values.mode
    known = set().union(*_READS.values())
    for name in sorted(known - _READS[mode]):
        if values[name].present:
            readers = [other for other in MODES if name in _READS[other]]
            raise UserError(
                f"--{name}: expected with --mode={' or '.join(readers)}, found --mode={mode}; "
                "leave it out"
            )
    if values.severities is not None and values.corruptions is None:
        raise UserError("--severities: expected with --corruptions, found without; add it")
    if values.baseline is not None and mode == "evaluate" and values.corruptions is None:
        raise UserError(
            "--baseline: expected with --corruptions or --mode=compare, found neither; add one"
        )
    if values.data_dir is not None and values.dataset is None:
        raise UserError("--data_dir: expected with --dataset, found without; add --dataset=NAME")


def sampler_choices(values: flags.FlagValues) -> dict[str, list[Any]]:
    """The settings of the sampler that were given, as `sweep.variations` takes them.

    Raises:
      UserError: steps or chains that are no whole numbers.
    """
    given = {key: values[flag].value for flag, key in _SAMPLER_KEYS.items()}
    choices: dict[str, list[Any]] = {key: words for key, words in given.items() if words}
    for key in {"steps", "chains"} & choices.keys():
        choices[key] = _integers(key, choices[key])
    return choices


def chosen_corruptions(values: flags.FlagValues) -> tuple[list[str], list[int]]:
    """Names and severities; none without `--corruptions`.

    Raises:
      UserError: an unknown name, or a severity outside 1 to 5.
    """
    if values.corruptions is None:
        return [], []
    from didicm_jax.data import corruptions  # which imports Grain, and that jax

    names = values.corruptions
    if names == ["all"]:
        names = list(corruptions.CORRUPTIONS)
    severities = _integers("severities", values.severities or ["1", "2", "3", "4", "5"])
    try:
        for name in names:
            corruptions.check(name)
        for severity in severities:
            corruptions.check(names[0], severity)
    except UserError as error:
        raise UserError(f"--corruptions, --severities: {error}") from error
    return names, severities


def other_data(values: flags.FlagValues) -> "OtherData":
    """What to evaluate on."""
    from didicm_jax.evaluation.subject import OtherData  # which imports jax

    return OtherData(values.dataset, values.data_dir, values.split, values.examples)


def _integers(flag: str, words: list[str]) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UserError(
            f"--{flag}: expected whole numbers such as 1,2,4, found {','.join(words)}; change it"
        ) from error
