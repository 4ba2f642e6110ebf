"""The folder of a study: what it compares, its cells, and who works in it.

`study.json` and each cell's `cell.json` are all that a study needs to go on: with them alone, on
another machine, a cell that is done counts as done and stands in the tables.
"""

import contextlib
import copy
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from didicm_jax import config as configuration
from didicm_jax import files
from didicm_jax.errors import UserError
from didicm_jax.run import Places, check_savable, read_config
from didicm_jax.study.axes import Cell, identity

Record = dict[str, Any]  # what a cell found: its `cell.json`

_RECIPE, _FORMER_RECIPE = "study.json", "grid.json"
_RESULT = "cell.json"
# What the best checkpoint of a cell is chosen by. A record of the last one alone may have any.
_JUDGE = "evaluation.best"


class StudyFolder:
    """Cells in `cells`, what each said in `logs`, and the tables and figures about them."""

    def __init__(self, path: Path, cells: Sequence[Cell]) -> None:
        self.path, self.cells, self.logs = path, tuple(cells), path / "logs"
        parent = path / "cells"
        found = sorted(parent.iterdir()) if parent.is_dir() else []
        # A start whose axes come in another order, or are spelled in another way, finds its cells.
        known = {identity(each.name): each for each in found}
        self._places = {}
        for cell in cells:
            own = parent / cell.name
            self._places[cell.name] = own if own.exists() else known.get(identity(cell.name), own)

    def cell(self, name: str) -> Cell:
        """The cell of this name.

        Raises:
          UserError: there is none.
        """
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"cell: expected one of the study, found {name!r}; see its axes")

    def place(self, cell: Cell) -> Path:
        """The folder of its run."""
        return self._places[cell.name]

    def begun(self, cell: Cell) -> ml_collections.ConfigDict | None:
        """The config that its run began with, or that its record holds; None before it has."""
        path = Places(self.place(cell)).config_file
        if path.exists():
            return read_config(path)
        stored = (self.record(cell) or {}).get("config")  # records of earlier versions hold none
        return None if stored is None else configuration.from_json(stored)

    def record(self, cell: Cell) -> Record | None:
        """What it found, under the names that its axes have now; None before it is done."""
        path = self.place(cell) / _RESULT
        return files.read_json(path) | {"values": cell.values} if path.exists() else None

    def write_record(self, cell: Cell, record: Record) -> None:
        """Makes it done, with its values and its config."""
        known = {"values": cell.values, "config": _portable(cell.config)}
        files.write_json(self.place(cell) / _RESULT, known | record)

    def check(self, config: ml_collections.ConfigDict, held_out: int) -> None:
        """Refuses to go on with cells that have another recipe; writes nothing.

        Args:
          config: what the cells have in common.
          held_out: per cent of the training split on which settings are chosen.

        Raises:
          UserError: the folder holds another study, or a cell whose method meant something else, or
            no run could be saved in it.
        """
        check_savable(self.path, "study folder")
        path = self.path / _RECIPE
        path = path if path.exists() else self.path / _FORMER_RECIPE
        if path.exists():
            stored = files.read_json(path)
            if stored.keys() != {"config", "held_out"}:
                raise UserError(
                    f"{path}: expected config and held_out, found other keys; restore the file or "
                    "choose another folder"
                )
            changed = _changed(config, configuration.from_json(stored["config"]))
            changed.pop(_JUDGE, None)
            if stored["held_out"] != held_out:
                changed["held_out"] = (held_out, stored["held_out"])
            _refuse(changed, f"the study that {self.path} holds")
        for cell in self.cells:
            begun = self.begun(cell)
            if begun is not None:
                changed = _changed(cell.config, begun)
                if cell.equal_compute:  # known when its operations have been counted
                    changed.pop("train.duration", None)
                record = self.record(cell)
                if record is not None and "stopped" not in record:
                    changed.pop(_JUDGE, None)
                _refuse(changed, f"the run that {self.place(cell)} holds")

    def claim(self, config: ml_collections.ConfigDict, held_out: int) -> None:
        """Writes down what its cells have in common; for the arguments see `check`."""
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path / _FORMER_RECIPE, self.path / _RECIPE)
        recipe = {"config": _portable(config), "held_out": held_out}
        files.write_json(self.path / _RECIPE, recipe)

    @contextlib.contextmanager
    def alone(self, cell: Cell | None = None) -> Iterator[None]:
        """Holds the study, or a cell of it, until the process leaves or ends in any way.

        Cells have a lock of their own: they go on when the process that started them is killed.

        Raises:
          UserError: another process holds it.
        """
        name = self.place(cell).name if cell else "study"
        path = self.path / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.lock(path) as free:
            if not free:
                raise UserError(
                    f"{self.path}: expected no other process at work on {name}, found one; wait "
                    "for its end or use another folder"
                )
            yield


def _portable(config: ml_collections.ConfigDict) -> Any:
    """As JSON, without where this machine has its data: what is stored goes to other machines."""
    config = copy.deepcopy(config)
    config.data.data_dir = configuration.default().data.data_dir
    return json.loads(config.to_json())


def _changed(
    config: ml_collections.ConfigDict, before: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """What differs from a stored config in more than how it is run.

    A run may go on with another sampler, but the cells of a study are compared by theirs.
    """
    return {
        key: pair
        for key, pair in configuration.differences(config, before).items()
        if key.startswith("sampler.") or not configuration.may_change(key, evaluates=False)
    }


def _refuse(changed: dict[str, tuple[Any, Any]], expected: str) -> None:
    if changed:
        pairs = ", ".join(f"{key} is {new!r}, was {old!r}" for key, (new, old) in changed.items())
        raise UserError(
            f"study folder: expected {expected}, found another recipe ({pairs}); use another "
            "folder, or the old values"
        )
