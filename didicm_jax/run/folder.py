"""A run's folder: the run that it holds, and who may write to it.

Of several processes the first one writes, and all must see the same folder.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ml_collections

from didicm_jax import config as configuration
from didicm_jax import files, parallel
from didicm_jax.errors import UserError
from didicm_jax.run.description import Description
from didicm_jax.run.places import Places, check_savable

# Digests of a description, and what they are of.
_EXAMPLES = {"trained_on": "training examples", "judged_on": "images to evaluate on"}


@dataclass(frozen=True)
class RunFolder(Places):
    """A run that there is: `open` only reads it, `claim` takes it to be trained."""

    config: ml_collections.ConfigDict
    description: Description

    @classmethod
    def find(cls, path: str | os.PathLike) -> "RunFolder | None":
        """The run in a folder, or None where there is none. Nothing is written.

        Raises:
          UserError: the folder cannot be read, or its files are damaged or not valid.
        """
        places = Places(files.place(path))
        try:
            if not places.config_file.exists():
                return None
            bundled = places.is_bundle
        except OSError as error:
            raise UserError(
                f"expected a folder that can be read, found {error}; choose another",
                about="run folder",
            ) from error
        if bundled:
            raise UserError(
                f"expected a run in {path}, found a network without a run; name it as pretrained "
                "to evaluate it or predict with it, or make a run of it with launch/convert.py",
                about="run folder",
            )
        config = read_config(places.config_file)
        return cls(places.path, config, Description.read(places.description_file))

    @classmethod
    def open(cls, path: str | os.PathLike) -> "RunFolder":
        """The run in a folder, which need not be writable. Nothing is written.

        Raises:
          UserError: there is none, or its files are damaged or not valid.
        """
        found = cls.find(path)
        if found is None:
            name = Places(files.place(path)).config_file.name
            raise UserError(
                f"expected a run in {path}, found no {name}; train it first",
                about="run folder",
            )
        return found

    def changed(self, config: ml_collections.ConfigDict, *, evaluates: bool) -> "RunFolder":
        """This run with other settings, of those that do not say what was trained.

        Args:
          config: a valid one, to use in place of the stored one.
          evaluates: the trained network is only looked at, so more may change.

        Raises:
          UserError: it is the config of another run.
        """
        changed = {
            key: values
            for key, values in configuration.differences(config, self.config).items()
            if not configuration.may_change(key, evaluates=evaluates)
        }
        if not evaluates:
            # Else accuracies on other images would decide which checkpoint is best. Of what part of
            # the data they are, `data.eval_split` says or the first of the sets.
            changed.pop("data.eval_split", None)
            new, old = (
                configuration.evaluation_sets(each)[0].split for each in (config, self.config)
            )
            if new != old:
                own = new == config.data.eval_split
                key = "data.eval_split" if own else "the split of the first of evaluation.sets"
                changed[key] = (new, old)
        if changed:
            pairs = ", ".join(f"{k} is {new!r}, was {old!r}" for k, (new, old) in changed.items())
            raise UserError(
                f"expected the run that {self.path} holds, found another config "
                f"({pairs}); use another folder, or the old values",
                about="run folder",
            )
        return replace(self, config=config)

    @classmethod
    def claim(
        cls,
        path: str | os.PathLike,
        config: ml_collections.ConfigDict,
        description: Description,
    ) -> "RunFolder":
        """Takes a folder to train in: makes it, or goes on with the run that it holds.

        Nothing is written before everything that may refuse has been asked.

        Args:
          path: of the folder.
          config: valid; where there is a run, its own but for what may change between two starts.
          description: of the data to train on; where there is a run, its own.

        Raises:
          UserError: the folder holds another run or one that is being trained with other settings,
            cannot be written, or is not the same on all processes.
        """
        wanted = cls(files.place(path), config, description)
        with parallel.together():
            found = cls.find(path)
            wanted._check(found)
        fault: Exception | None = None
        if parallel.is_main():
            try:
                wanted._write(found)
            except (OSError, UserError) as error:
                fault = error
        if parallel.any_process(fault is not None):
            if isinstance(fault, UserError):
                raise fault
            raise UserError(
                "expected a folder that can be written, found "
                f"{fault or 'that process 0 cannot'}; choose another",
                about="run folder",
            ) from fault
        if parallel.any_process(not wanted.config_file.exists()):
            raise UserError(
                "expected a folder that all processes share, found that they do not "
                f"share {path}; use a network folder",
                about="run folder",
            )
        return wanted

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds the run while it is trained.

        Raises:
          UserError: another start of it is at work, or has changed its settings by now.
        """
        with contextlib.ExitStack() as stack:
            free = True
            with parallel.alone() as mine:  # a lock that cannot be opened is told to the others
                if mine:
                    lock = stack.enter_context(files.lock(self.lock, _leave))
                    free = lock and self._is_as_claimed()
            if parallel.any_process(not free):
                raise self._busy()
            yield

    def _is_as_claimed(self) -> bool:
        """Whether no other start has written its settings over these since."""
        found = RunFolder.find(self.path)
        return found is not None and not configuration.differences(self.config, found.config)

    def _busy(self) -> UserError:
        return UserError(
            f"expected nobody else to train the run in {self.path}, found another start at "
            "work; wait for its end or stop it",
            about="run folder",
        )

    def _check(self, found: "RunFolder | None") -> None:
        """Refuses to go on with the run that the folder holds, if it is another."""
        if found is not None:
            found.changed(self.config, evaluates=False)
            mismatch = found.description.mismatch(self.description)
            for key, words in _EXAMPLES.items():
                ours, theirs = (getattr(x.description, key) for x in (self, found))
                if not mismatch and theirs not in ("", ours):
                    mismatch = f"other {words} of the same classes"
            if mismatch:
                raise UserError(
                    f"expected the data that the run in {self.path} was trained on, "
                    f"found others ({mismatch}); use the old data, or another folder",
                    about="run folder",
                )
        else:
            self._check_unused()
        if self.path.is_dir() and not files.writable(self.path):
            raise UserError(
                f"expected a folder that can be written, found {self.path} read-only; "
                "change its permissions or choose another",
                about="run folder",
            )
        check_savable(self.path)

    def _check_unused(self) -> None:
        """Refuses files of a run that has lost its config, or that are not of a run at all."""
        named = (self.checkpoints, self.metrics_file, self.evaluation_file)
        held = [place.name for place in named if place.exists()]
        if not held and self.description_file.exists():  # as left by a start that was killed
            other = Description.read(self.description_file) != self.description
            held = [self.description_file.name] * other
        if held:
            raise UserError(
                f"expected a run or an unused folder, found {', '.join(held)} and no "
                f"{self.config_file.name} in {self.path}; restore that from a copy, or use another "
                "folder",
                about="run folder",
            )

    def _write(self, found: "RunFolder | None") -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._unwritten(found):
            return
        with files.lock(self.lock, _leave) as free:
            # What a start that is at work goes by is not changed under its hands.
            if not free:
                raise self._busy()
            found = RunFolder.find(self.path)
            self._check(found)  # again: of two first starts at once, the other may have been here
            for path, values in self._unwritten(found).items():
                files.write_json(path, values)

    def _unwritten(self, found: "RunFolder | None") -> dict[Path, Any]:
        """What the folder does not hold of this run, by its file; the config last."""
        values: dict[Path, Any] = {}
        if found is None or found.description != self.description:
            values[self.description_file] = asdict(self.description)
        if found is None or configuration.differences(self.config, found.config):
            values[self.config_file] = json.loads(self.config.to_json())
        return values


def _leave(how: str) -> None:
    """Ends this process at once: two that write to one run would spoil it."""
    parallel.leave(
        f"error: expected to be alone in training the run, found that its claim {how}; see who "
        "else was started on it",
        3,
    )


def read_config(path: Path) -> ml_collections.ConfigDict:
    """The config that a run's `config_file` holds, valid.

    Raises:
      UserError: it is no JSON file, or holds other settings than those there are.
    """
    return stored_config(files.read_json(path), path)


def stored_config(stored: Any, path: Path) -> ml_collections.ConfigDict:
    """The config that the file at `path` holds as `stored`, valid.

    Raises:
      UserError: it holds other settings than those there are.
    """
    try:
        config = configuration.from_json(stored)
        configuration.validate(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # of odd keys and sections
        found = f"{type(error).__name__}: {error}"[:200]
        raise UserError(
            f"{path}: expected the settings of a run, found others ({found}); restore it from a "
            "copy"
        ) from error
    return config
