"""Command lines with a config file in them, and one line for each mistake."""

import contextlib
import difflib
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from didicm_jax import bucket, files
from didicm_jax import config as configuration
from didicm_jax.errors import UserError

_NAMES_A_FILE = re.compile("--?config(=|$)")  # in the next word, where there is no =


def config_first(argv: list[str]) -> list[str]:
    """The config file first: what changes it may stand before or after it."""
    first, others, words = argv[:1], list[str](), iter(argv[1:])
    for word in words:
        match = _NAMES_A_FILE.match(word)
        (first if match else others).append(word)
        if match and not match[1]:
            first += itertools.islice(words, 1)
    return first + others


def new_flags(argv: list[str], config: str) -> flags.FlagValues:
    """The flags of one call, so that a program can make several; `--config` is among them.

    Args:
      argv: the command line, as `config_first` gives it.
      config: what the help says of `--config`.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, config, flag_values=values, sys_argv=argv)
    return values


def parse(values: flags.FlagValues, argv: list[str]) -> ml_collections.ConfigDict | None:
    """Reads the command line into `values` and returns the config, if one is given.

    Raises:
      UserError: an unknown flag, config file or config key, or a value of the wrong type.
    """
    defaults = configuration.flatten(configuration.default())
    named = sum(_NAMES_A_FILE.match(word) is not None for word in argv)
    if named > 1:  # the last would give the settings, and what changes them stand twice
        raise UserError(f"--config: expected one config file, found {named}; leave the others out")
    for word in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]+)", word)
        if match and not named:
            raise UserError(
                f"{word}: expected a config file to change, found none; add --config=FILE"
            )
        if match and match[1] not in defaults:
            close = difflib.get_close_matches(match[1], defaults, n=1)
            hint = f"did you mean {close[0]}?" if close else "--help lists them"
            raise UserError(f"config.{match[1]}: expected a key of the config, found none; {hint}")
    try:
        rest = values(argv)
        config = values.config
        if config is not None:
            config.keys()  # a file that could not be loaded speaks up when it is first used
    except flags.IllegalFlagValueError as error:
        match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error))
        if match is None:
            # A config file that raises comes with a traceback; what it says is on the last line.
            said = str(error).strip().splitlines()[-1]
            own = said.split("UserError: ")[-1]
            if own.startswith("TypeError: get_config()"):
                own = (
                    "--config: expected a file that takes what stands behind its colon, found "
                    f"{own}; write FILE alone, or FILE:OPTIONS as the file says"
                )
            raise UserError(own) from error
        like = defaults[match[1]]
        raise UserError(
            f"config.{match[1]}: expected {type(like).__name__}, like {like!r}, found {match[2]!r}"
        ) from error
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from error
    except UserError:
        raise
    except Exception as error:  # whatever the Python of the config file may raise
        found = " ".join(f"{type(error).__name__}: {error}".split())
        # The library tells first where it has looked.
        found = re.sub(r"^OSError: .*failure to load: (.*(?=\[Errno))?", "", found)
        raise UserError(
            f"--config: expected a Python file with get_config, like configs/digits.py, found "
            f"{found}"
        ) from error
    if rest[1:]:
        raise UserError(f"expected flags alone, found {rest[1]!r}; write --name=value")
    _check_values(values)
    return config


def read(values: flags.FlagValues, argv: list[str]) -> None:
    """Reads the command line of a command without a config into `values`.

    Raises:
      UserError: an unknown flag, a value of the wrong type, or a word that is no flag.
    """
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        found = " ".join(str(error).split())
        raise UserError(f"expected flags as --help lists them, found: {found}") from error
    if rest:
        raise UserError(f"expected flags alone, found {rest[0]!r}; write --name=value")
    _check_values(values)


def _check_values(values: flags.FlagValues) -> None:
    """Refuses `--name=`, which a variable of the shell that is not set leaves, and two lists."""
    for name in values:
        flag = values[name]
        empty = flag.value in ("", [], [""]) and not name.startswith("config")
        if empty and flag.present and flag.default is None:
            raise UserError(f"--{name}: expected a value, found none; write --{name}=VALUE")
        if isinstance(flag.value, list) and not isinstance(flag, flags.MultiFlag):
            check_once(values, name)


def check_once(values: flags.FlagValues, name: str) -> None:
    """Refuses a list that is given again, for the last alone would be heeded.

    Raises:
      UserError: it is.
    """
    if values[name].present > 1:
        raise UserError(
            f"--{name}: expected all of the list at once, found {values[name].present} lists; "
            f"write them as one, --{name}=A,B"
        )


# The flags that name what the library calls otherwise.
_FLAG_OF = {"run folder": "workdir", "weights": "torch"}


def with_flags(message: str, flag_of: Mapping[str, str]) -> str:
    """A message whose settings, such as `config.data.name`, are flags of this command."""
    for setting, flag in flag_of.items():
        message = message.replace(f"config.{setting}", f"--{flag}")
    return message


@contextlib.contextmanager
def flagged(flag: str = "") -> Iterator[None]:
    """What the library says of a thing, the command line says of the flag that named the thing.

    An error that names a flag already keeps it: of flags within flags the inner one knows better.

    Args:
      flag: the one that everything within follows from; by default that of the thing that an error
        is about. An error that is about nothing of the kind stays as it is.

    Raises:
      UserError: one was raised within.
    """
    try:
        yield
    except UserError as error:
        own = error.about if error.about.isidentifier() else ""
        name = flag or _FLAG_OF.get(error.about, own)
        if error.about.startswith("--") or not name:
            raise
        raise UserError(error.message, about=f"--{name}") from error


def paths(words: list[str], place: Callable[[str], Path] = files.place) -> list[Path]:
    """The paths of a flag that takes several, `A,B`; a word that is there as it stands is one.

    Args:
      words: as they were given.
      place: a path from its text; by default that of a run's folder.

    Raises:
      UserError: `place` refuses one.
    """
    return [
        place(part)
        for word in words
        # Not by `Path`, which raises where many names are together too long for one.
        for part in ([word] if os.path.exists(word) else word.split(","))
        if part
    ]


def writable(flag: str, folder: Path) -> Path:
    """The folder that a flag names, which is made when there is something to write.

    Raises:
      UserError: it is a file, or cannot be made or written to.
    """
    if bucket.holds(folder):
        found = "" if files.writable(folder) else f"{folder} read-only"
    else:
        found = _unwritable(folder)
    if found:
        raise UserError(
            f"--{flag}: expected a folder that can be written, found {found}; name another with "
            f"--{flag}=DIR"
        )
    return folder


def check_file(flag: str, path: Path) -> None:
    """Refuses a file to write, on a disk, that could not be.

    Raises:
      UserError: it is a folder, or the one to write it in is not there or cannot be written to.
    """
    if path.is_dir():
        found = f"the folder {path}"
    elif path.exists() and not path.is_file():
        found = f"{path}, a device or pipe, which would be replaced"
    elif not path.parent.is_dir():
        found = f"no folder {path.parent}"
    else:
        found = _unwritable(path.parent)
    if found:
        raise UserError(
            f"--{flag}: expected a file that can be written, found {found}; name one in a folder "
            f"that is there, --{flag}=FILE"
        )


def _unwritable(folder: Path) -> str:
    """Why a folder on a disk cannot be made or written; "" if it can."""
    try:
        nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if not nearest.is_dir():
            return f"the file {nearest}"
        return "" if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} read-only"
    except OSError as error:
        return str(error)


def counted(number: int, noun: str) -> str:
    """`1 image`, `1,000 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """A text as it can be printed and stored as UTF-8: other bytes and control codes are escaped.

    Names of files may hold any bytes.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
