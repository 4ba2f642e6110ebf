"""Trains a run, evaluates it, compares it with another, predicts with it, draws its curves.

    python launch/main.py --config=configs/digits.py --workdir=runs/digits
    python launch/main.py --mode=evaluate --workdir=runs/digits --steps=1,2,4,8
    python launch/main.py --mode=compare --workdir=runs/digits --baseline=runs/other
    python launch/main.py --mode=predict --workdir=runs/digits --images=FILE_OR_FOLDER
    python launch/main.py --mode=report --workdir=runs/digits,runs/other

Any setting of the config can be given as `--config.section.key=value`; `didicm_jax/config.py`
lists them all. A second start with the same workdir goes on from the last checkpoint.
"""

import errno
import os
import sys
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from didicm_jax.cli import options
from didicm_jax.cli.command_line import config_first, parse
from didicm_jax.errors import UserError
from didicm_jax.run import workdir

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


def main(argv: list[str]) -> int:
    """Parses, dispatches, and turns a user's mistake into one line; returns the exit status."""
    argv = config_first(argv)
    values = _flags(argv)
    if {"-h", "--help", "-help"} & set(argv):
        print(f"{__doc__}\n{values.get_help()}")
        return 0
    try:
        return _dispatch(values, argv)
    except UserError as error:
        print(f"error: {'--' if error.about else ''}{error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        print(
            f"error: --workdir: expected a disk with room that can be written, found {error}; make "
            "room, and the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _dispatch(values: flags.FlagValues, argv: list[str]) -> int:
    given = parse(values, argv)
    options.check(values)
    if values.mode == "report":
        from didicm_jax.cli import report

        report.run(values)
        return 0
    folder = workdir.check(values.workdir)
    config = workdir.config_of(given, folder, evaluates=values.mode != "train")
    # Only now: it starts jax, which takes seconds and claims the devices.
    import jax

    from didicm_jax import parallel
    from didicm_jax.training import loop

    cache = values.compilation_cache
    if cache != "none" and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", cache or str(folder / "compilation_cache"))
    parallel.initialize(
        values.coordinator_address,
        values.num_processes,
        values.process_id,
        timeout=values.peer_timeout,
    )
    try:
        if values.mode == "train":
            _train(values, config, folder)
        else:
            from didicm_jax.cli import dispatch

            dispatch.run(values, config, folder)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        # Not by the usual exit, which would wait for the one that is gone.
        parallel.leave(
            f"error: process {jax.process_index()}: expected all processes to take part, found "
            f"{' '.join(str(error).split())[:200]}; {loop.ADVICE}",
            3,
        )
    return 0


def _train(values: flags.FlagValues, config: ml_collections.ConfigDict, folder: Path) -> None:
    from didicm_jax import parallel
    from didicm_jax.run import description
    from didicm_jax.training import loop, plan

    run = plan.plan(config)
    workdir.claim(folder, config)
    description.write(folder, description.of(run.dataset))
    if parallel.is_main():
        print(run.describe(), flush=True)
    outcome = loop.train(
        run, folder, peer_timeout=values.peer_timeout, debug_nans=values.debug_nans
    )
    if parallel.is_main():
        print(
            f"stopped by {outcome.signal} at step {outcome.step}; the same command goes on from it"
            if outcome.metrics is None
            else f"wrote {folder / 'evaluation.json'}"
        )


def _flags(argv: list[str]) -> flags.FlagValues:
    """The flags, of this call alone, so that a program can call `main` twice."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Experiment: a file of configs/.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run: reports and checkpoints; with --mode=report several, A,B.",
        flag_values=values,
    )
    flags.DEFINE_enum("mode", "train", options.MODES, "What to do.", flag_values=values)
    options.define(values)
    flags.DEFINE_boolean(
        "debug_nans",
        False,
        "Look for the operation behind the first non-finite step (slower, more memory).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "compilation_cache",
        "",
        "Folder for compiled programs, so that a restart need not compile; '': in the workdir, "
        "'none': none.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "Of several processes: host:port of process 0. Found by itself on Cloud TPU, SLURM, Open "
        "MPI and Kubernetes.",
        flag_values=values,
    )
    flags.DEFINE_integer("num_processes", None, "How many there are.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_float(
        "peer_timeout",
        600,
        "Seconds without progress after which a process gives up waiting for the others.",
        lower_bound=1,
        flag_values=values,
    )
    return values
