"""The folder of a run: which config it holds, and whether it can be written.

Of several processes the first makes it, and all must see the same one.
"""

import json
import os
from pathlib import Path

import ml_collections

from didicm_jax import config as configuration
from didicm_jax import files, parallel
from didicm_jax.errors import UserError


def check(name: str) -> Path:
    """The folder that `--workdir` names.

    Raises:
      UserError: it names none, or one in a store of objects, where no file can be appended to.
    """
    if not name:
        raise UserError("--workdir: expected a folder for the run, found none; add --workdir=DIR")
    if "://" in name:
        raise UserError(
            f"--workdir: expected a folder, found {name}; mount the bucket "
            "(gcsfuse --rename-dir-limit=100000) and name the folder that it is mounted on"
        )
    return Path(name)


def config_of(
    given: ml_collections.ConfigDict | None, workdir: Path, *, evaluates: bool
) -> ml_collections.ConfigDict:
    """The config to use: the one given, which must be the one that the workdir holds.

    Raises:
      UserError: there is none, it is not valid, or the workdir holds a run with another.
    """
    path = workdir / "config.json"
    if given is not None:
        configuration.validate(given)
    if not _exists(path, reads_only=evaluates):
        if evaluates:
            raise UserError(
                f"expected a run in {workdir}, found none; train it first", about="workdir"
            )
        if given is None:
            raise UserError("--config: expected a config file, found none; try configs/digits.py")
        return given
    stored = configuration.from_json(files.read_json(path))
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


def _exists(path: Path, *, reads_only: bool) -> bool:
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
    if not reads_only and not os.access(path.parent, os.W_OK):
        raise UserError(
            f"--workdir: expected a folder that can be written, found {path.parent} read-only; "
            "change its permissions or choose another"
        )
    return True


def claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes the workdir and writes the config into it.

    Raises:
      UserError: that cannot be done, or the processes do not share the folder.
    """
    fault = None
    if parallel.is_main():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            files.write_json(workdir / "config.json", json.loads(config.to_json()))
        except OSError as error:
            fault = error
    if parallel.any_process(fault is not None):
        raise UserError(
            "--workdir: expected a folder that can be written, found "
            f"{fault or 'that process 0 cannot'}; choose another"
        ) from fault
    if parallel.any_process(not (workdir / "config.json").exists()):
        raise UserError(
            f"--workdir: expected a folder that all processes share, found that they do not share "
            f"{workdir}; use a network folder"
        )
