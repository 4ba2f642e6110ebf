"""Trains or evaluates a run.

    python launch/main.py --config=configs/digits.py --workdir=runs/digits
    python launch/main.py --mode=evaluate --workdir=runs/digits

Any setting of the config can be given as `--config.section.key=value`; `didicm_jax/config.py`
lists them all. A second start with the same workdir goes on from the last checkpoint.
"""

import difflib
import json
import os
import re
import sys
from pathlib import Path

import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from didicm_jax import config as configuration
from didicm_jax import reporting
from didicm_jax.errors import UserError


def main(argv: list[str]) -> int:
    """Parses, dispatches, and turns a user's mistake into one line; returns the exit status."""
    # The config file first: what changes it may stand before or after it.
    argv = [argv[0], *sorted(argv[1:], key=lambda word: not word.startswith("--config="))]
    values = _flags(argv)
    if {"-h", "--help", "-help"} & set(argv):
        print(f"{__doc__}\n{values.get_help()}")
        return 0
    try:
        given = _parse(values, argv)
        workdir, evaluates = Path(values.workdir), values.mode == "evaluate"
        config = _config(given, workdir, evaluates)
        # Only now: it starts jax, which takes seconds and claims the devices.
        from didicm_jax.training import loop, plan

        run = plan.plan(config)
        if evaluates:
            print(reporting.summary(loop.evaluate(run, workdir, values.checkpoint)))
        else:
            _claim(workdir, config)
            print(run.describe(), flush=True)
            loop.train(run, workdir)
        print(f"wrote {workdir / 'evaluation.json'}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _flags(argv: list[str]) -> flags.FlagValues:
    """The flags, of this call alone, so that a program can call `main` twice."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Experiment: a file of configs/.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string(
        "workdir", None, "Folder of the run: reports and checkpoints.", flag_values=values
    )
    flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.", flag_values=values)
    flags.DEFINE_enum(
        "checkpoint", "latest", ["latest", "best"], "Which one to evaluate.", flag_values=values
    )
    return values


def _parse(values: flags.FlagValues, argv: list[str]) -> ml_collections.ConfigDict | None:
    """Reads the command line into `values` and returns the config, if one is given.

    Raises:
      UserError: an unknown flag, config file or config key, or a value of the wrong type.
    """
    defaults = configuration.flatten(configuration.default())
    names_a_file = any(re.match(r"--?config(=|$)", word) for word in argv)
    for word in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]+)", word)
        if match and not names_a_file:
            raise UserError(
                f"{word}: expected a config file to change, found none; add --config=FILE"
            )
        if match and match[1] not in defaults:
            close = difflib.get_close_matches(match[1], defaults, n=1)
            hint = f"did you mean {close[0]}?" if close else "didicm_jax/config.py lists them"
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
            raise UserError(said.split("UserError: ")[-1]) from error
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
        raise UserError(
            f"--config: expected a Python file with get_config, like configs/digits.py, found "
            f"{found}"
        ) from error
    if rest[1:]:
        raise UserError(f"expected flags alone, found {rest[1]!r}; write --name=value")
    if not values.workdir:
        raise UserError("--workdir: expected a folder for the run, found none; add --workdir=DIR")
    return config


def _config(
    given: ml_collections.ConfigDict | None, workdir: Path, evaluates: bool
) -> ml_collections.ConfigDict:
    """The config to use: the one given, which must be the one that the workdir holds.

    Raises:
      UserError: there is none, it is not valid, or the workdir holds a run with another.
    """
    path = workdir / "config.json"
    if given is not None:
        configuration.validate(given)
    if not _exists(path):
        if evaluates:
            raise UserError(f"--workdir: expected a run in {workdir}, found none; train it first")
        if given is None:
            raise UserError("--config: expected a config file, found none; try configs/digits.py")
        return given
    stored = configuration.from_json(reporting.read_json(path))
    if given is None:
        return stored
    free = configuration.FREE_IN_EVALUATION if evaluates else configuration.FREE
    changed = {
        key: values
        for key, values in configuration.differences(given, stored).items()
        if not configuration.under(key, free)
    }
    if changed:
        pairs = ", ".join(f"{k} is {new!r}, was {old!r}" for k, (new, old) in changed.items())
        raise UserError(
            f"--workdir: expected the run that {workdir} holds, found another config ({pairs}); "
            "use another workdir, or the old values"
        )
    return given


def _exists(path: Path) -> bool:
    """Whether the file is there.

    Raises:
      UserError: its folder must not be looked into, or the file not be replaced.
    """
    try:
        if not path.exists():
            return False
    except OSError as error:
        raise UserError(
            f"--workdir: expected a folder that can be read, found {error}; choose another"
        ) from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(
            f"--workdir: expected a folder that can be written, found {path.parent} read-only; "
            "change its permissions or choose another"
        )
    return True


def _claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes the workdir and writes the config into it.

    Raises:
      UserError: that cannot be done.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        reporting.write_json(workdir / "config.json", json.loads(config.to_json()))
    except OSError as error:
        raise UserError(
            f"--workdir: expected a folder that can be written, found {error}; choose another"
        ) from error


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    sys.exit(main(sys.argv))
