"""A study: methods against each other over resolutions, shares of the data, any setting.

    python launch/study.py --config=configs/fashion_mnist.py --workdir=runs/study \
        --axes="resolution=28,14,7;data_ratio=0.1,0.02;method=softmax,paper,head;seed=0,1,2"

Each cell is a normal run in `WORKDIR/cells`, trained on all but the last per cent of the training
split, on which samplers are chosen, and judged on the test split. A method sets all that its title
says, so an axis cannot vary that; whatever else the config holds, all methods share. A second start
goes on where the first was stopped, on another machine too that has study.json and the cell.json
of each cell. Writes results.csv, results.md, samplers.md and figures of what is done.
"""

import math
import os
import sys
import time

from absl import flags

from didicm_jax import files
from didicm_jax.cli import entry
from didicm_jax.cli.command_line import config_first, counted, new_flags, parse
from didicm_jax.errors import UserError
from didicm_jax.run import Places
from didicm_jax.study import axes, coordinates, methods, results, schedule
from didicm_jax.study.folder import StudyFolder


def main(argv: list[str]) -> int:
    """Runs the study, or with `--cell` one cell of it; returns the exit status."""
    return entry.guarded(lambda: _run(config_first(argv)), advice="start the same command again")


def _run(argv: list[str]) -> int:
    began = time.monotonic()
    values = _flags(argv)
    if entry.asks_for_help(argv):
        titles = "\n".join(f"  {name}: {each.title}" for name, each in methods.METHODS.items())
        print(f"{__doc__}\nMethods:\n{titles}\n{values.get_help()}")
        return 0
    given = parse(values, argv)
    if given is None:
        raise UserError("--config: expected a config file, found none; add --config=FILE")
    products = [axes.parse(text) for text in values.axes or [""]]
    cells = axes.union([axes.cells(given, each, values.held_out) for each in products])
    if not values.workdir:
        raise UserError("--workdir: expected a folder, found none; add --workdir=DIR")
    if values.budget is not None and math.isnan(values.budget):
        raise UserError("--budget: expected minutes, found nan; give a number, or none at all")
    study = StudyFolder(files.local(values.workdir, "--workdir"), cells)
    if values.cell is not None:
        return _one(study, values.cell)
    study.check(given, values.held_out)
    lanes = schedule.lanes(values.jobs)
    with study.alone():
        study.claim(given, values.held_out)
        left = [cell.name for cell in cells if study.record(cell) is None]
        done = len(cells) - len(left)
        print(f"{counted(len(cells), 'cell')}, {done} done, {len(lanes)} at a time", flush=True)
        progress = _Progress(study, began, len(left))
        schedule.run(
            left,
            lambda name: [sys.executable, *argv, f"--cell={name}"],
            study.logs,
            lanes,
            deadline=None if values.budget is None else began + 60 * values.budget,
            ended=progress.ended,
        )
        _conclude(study, progress.failures)
    return progress.status()


class _Progress:
    """A line for each cell that ends."""

    def __init__(self, study: StudyFolder, began: float, left: int) -> None:
        self._study, self._began, self._left = study, began, left
        self._done, self._failed = 0, list[schedule.Ended]()

    @property
    def failures(self) -> int:
        """How many have failed."""
        return len(self._failed)

    def ended(self, each: schedule.Ended) -> None:
        """Says how it ended, and how long the others will take."""
        self._done += 1
        record = self._study.record(self._study.cell(each.name))
        if each.status or record is None:
            self._failed.append(each)
            said = each.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            words = f"failed with status {each.status}: {said[-1]} ({each.log})"
        else:
            words = results.line(record)
        rest = (time.monotonic() - self._began) / self._done * (self._left - self._done)
        clock = f"{rest / 60:.0f} min left" if rest > 60 else ""
        print(f"[{self._done}/{self._left}] {each.name}: {words}  {clock}".rstrip(), flush=True)

    def status(self) -> int:
        """The exit status.

        Raises:
          UserError: cells have failed.
        """
        if self._failed:
            first = self._failed[0]
            one = self.failures == 1
            raise UserError(
                f"{counted(self.failures, 'cell')}: expected {'it' if one else 'them'} to run to "
                f"the end, found that {'it' if one else 'they'} failed, the first {first.name} "
                f"(see {first.log}); the same command tries again"
            )
        return 0


def _conclude(study: StudyFolder, failures: int) -> None:
    """Writes and shows what the cells that are done have found."""
    found = [record for cell in study.cells if (record := study.record(cell)) is not None]
    if found:
        places = [coordinates.of(cell.values) for cell in study.cells]
        written = results.write(found, study.path, coordinates.following(places))
        print((study.path / "results.md").read_text(encoding="utf-8"))
        print(f"wrote {', '.join(path.name for path in written)} in {study.path}")
    if len(found) + failures < len(study.cells):
        total = counted(len(study.cells), "cell")
        print(f"stopped with {len(found)} of {total} done; the same command goes on")


def _one(study: StudyFolder, name: str) -> int:
    import jax

    from didicm_jax.study import cell

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # one for all cells
        cache = Places(study.path).compilation_cache
        jax.config.update("jax_compilation_cache_dir", str(cache))
    return 0 if cell.run(study.cell(name), study) else schedule.STOPPED


def _flags(argv: list[str]) -> flags.FlagValues:
    values = new_flags(argv, "What the cells have in common.")
    flags.DEFINE_string("workdir", None, "Folder of the study.", flag_values=values)
    flags.DEFINE_multi_string(
        "axes",
        None,
        "Axes and their values, 'resolution=28,14;method=softmax,paper;seed=0,1': keys of the "
        "config, or the ends of keys, and method. Given several times, with the same axes: the "
        "cells of all.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "budget",
        None,
        "Minutes after which running cells are saved and the results of the others written.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "jobs",
        None,
        "Cells at a time; default: one per GPU, or per core where there is none. More than there "
        "are GPUs share these.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "held_out",
        5,
        "Per cent of the training split, its last ones, on which samplers are chosen.",
        lower_bound=1,
        upper_bound=50,
        flag_values=values,
    )
    flags.DEFINE_string("cell", None, "Run this cell alone, here.", flag_values=values)
    return values
