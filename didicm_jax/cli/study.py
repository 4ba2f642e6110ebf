"""A grid of runs: methods against each other over resolutions, shares of the data, any setting.

    python launch/study.py --config=configs/fashion_mnist.py --workdir=runs/grid \
        --axes="resolution=28,14,7;data_ratio=0.1,0.02;method=softmax,paper,head;seed=0,1,2"

Each cell is a normal run in `WORKDIR/cells`, trained on all but the last per cent of the training
split, on which samplers are chosen, and judged on the test split. A second start goes on where the
first was stopped. Writes results.csv, results.md and figures of what is done.
"""

import os
import sys
import time
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from didicm_jax import config as configuration
from didicm_jax import files
from didicm_jax.cli import entry
from didicm_jax.cli.command_line import config_first, parse
from didicm_jax.errors import UserError
from didicm_jax.run import workdir
from didicm_jax.study import axes, methods


def main(argv: list[str]) -> int:
    """Runs the grid, or with `--cell` one cell of it; returns the exit status."""
    argv = config_first(argv)
    values = _flags(argv)
    if {"-h", "--help", "-help"} & set(argv):
        titles = "\n".join(f"  {name}: {each.title}" for name, each in methods.METHODS.items())
        return entry.show(f"{__doc__}\nMethods:\n{titles}\n{values.get_help()}")
    return entry.guarded(lambda: _run(values, argv), advice="start the same command again")


def _run(values: flags.FlagValues, argv: list[str]) -> int:
    began = time.monotonic()
    given = parse(values, argv)
    if given is None:
        raise UserError("--config: expected a config file, found none; add --config=FILE")
    folder = workdir.check(values.workdir)
    if given.data.train_split != "train":
        raise UserError(
            f"config.data.train_split: expected 'train', found {given.data.train_split!r}; the "
            "grid holds --held_out per cent of it out"
        )
    chosen = axes.parse(values.axes or "")
    every = axes.cells(given, chosen, values.held_out)
    if values.cell is not None:
        return _one(next(cell for cell in every if cell.name == values.cell), folder)
    _check_same(given, values.held_out, folder)
    from didicm_jax.study import results, schedule

    names = [each.name for each in every]
    cells = folder / "cells"
    left = [name for name in names if not (cells / name / axes.RESULT).exists()]
    lanes = schedule.lanes(values.jobs)
    print(
        f"{len(names)} cells, {len(names) - len(left)} of them done, {len(lanes)} at a time",
        flush=True,
    )
    failed = []
    done = [0]

    def ended(each: schedule.Ended) -> None:
        done[0] += 1
        if each.status:
            failed.append(each)
            said = each.log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            words = f"failed with status {each.status}: {said[-1]} ({each.log})"
        else:
            words = results.line(cells / each.name)
        rest = (time.monotonic() - began) / done[0] * (len(left) - done[0])
        clock = f"{rest / 60:.0f} min left" if rest > 60 else ""
        print(f"[{done[0]}/{len(left)}] {each.name}: {words}  {clock}".rstrip(), flush=True)

    completed = schedule.run(
        left,
        lambda name: [sys.executable, *argv, f"--cell={name}"],
        folder / "logs",
        lanes,
        deadline=None if values.budget is None else began + 60 * values.budget,
        ended=ended,
    )
    found = [
        files.read_json(path) for name in names if (path := cells / name / axes.RESULT).exists()
    ]
    if found:
        written = results.write(found, folder)
        print((folder / "results.md").read_text())
        print(f"wrote {', '.join(path.name for path in written)} in {folder}")
    if not completed:
        print(f"stopped with {len(found)} of {len(names)} cells done; the same command goes on")
    if failed:
        raise UserError(
            f"{len(failed)} cells: expected them to run to the end, found that they failed, the "
            f"first {failed[0].name} (see {failed[0].log}); the same command tries them again"
        )
    return 0


def _one(chosen: axes.Cell, folder: Path) -> int:
    import jax

    from didicm_jax.study import cell

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compilation_cache"))
    return 0 if cell.run(chosen, folder / "cells" / chosen.name) else axes.STOPPED


def _check_same(given: ml_collections.ConfigDict, held_out: int, folder: Path) -> None:
    """Refuses to go on with a grid whose cells have another recipe.

    Raises:
      UserError: the workdir holds one.
    """
    import json

    path = folder / "grid.json"
    asked = {"config": json.loads(given.to_json()), "held_out": held_out}
    if path.exists():
        stored = files.read_json(path)
        before = configuration.from_json(stored["config"])
        changed = {
            key: pair
            for key, pair in configuration.differences(given, before).items()
            if not configuration.under(key, configuration.FREE)
        }
        if stored["held_out"] != held_out:
            changed["held_out"] = (held_out, stored["held_out"])
        if changed:
            pairs = ", ".join(f"{k} is {new!r}, was {old!r}" for k, (new, old) in changed.items())
            raise UserError(
                f"--workdir: expected the grid that {folder} holds, found another recipe ({pairs});"
                " use another workdir, or the old values"
            )
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(path, asked)


def _flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "What the cells have in common.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "Folder of the grid.", flag_values=values)
    flags.DEFINE_string(
        "axes",
        None,
        "Axes and their values, 'resolution=28,14;method=softmax,paper;seed=0,1': keys of the "
        "config, or the ends of keys, and method.",
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
        "Cells at a time; default: one per GPU, or per core where there is none.",
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
