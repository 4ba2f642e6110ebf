"""Trains a run, evaluates it, compares it with another, predicts with it, draws its curves.

    python launch/main.py --config=configs/digits.py --workdir=runs/digits
    python launch/main.py --mode=evaluate --workdir=runs/digits --steps=1,2,4,8
    python launch/main.py --mode=compare --workdir=runs/digits --baseline=runs/other
    python launch/main.py --mode=predict --workdir=runs/digits --images=FILE_OR_FOLDER
    python launch/main.py --mode=predict --pretrained=NAME --images=FILE_OR_FOLDER
    python launch/main.py --mode=report --workdir=runs/digits,runs/other
    python launch/main.py --mode=preflight --config=configs/imagenet.py --topology=h100:8

Any setting of the config can be given as `--config.section.key=value`; `docs/settings.md`
lists them all. A second start with the same workdir goes on from the last checkpoint.
"""

import os
from typing import TYPE_CHECKING

import ml_collections
from absl import flags

from didicm_jax import config as configuration
from didicm_jax import files
from didicm_jax.cli import entry, options
from didicm_jax.cli.command_line import config_first, flagged, new_flags, parse, writable
from didicm_jax.errors import UserError, first_line
from didicm_jax.run import Places, RunFolder

if TYPE_CHECKING:
    from didicm_jax.run import bundle

_ADVICE = "start the same command again (a training goes on from its last checkpoint)"


def main(argv: list[str]) -> int:
    """Parses and dispatches; returns the exit status."""

    def body() -> int:
        with flagged():
            return _dispatch(config_first(argv))

    return entry.guarded(body, advice=_ADVICE)


def _dispatch(argv: list[str]) -> int:
    values = new_flags(argv, "Experiment: a file of configs/.")
    options.define(values)
    if entry.asks_for_help(argv):
        print(f"{__doc__}\n{values.get_help()}\n{configuration.listing()}")
        return 0
    given = parse(values, argv)
    options.check(values)
    if values.mode == "report":
        from didicm_jax.cli import report

        if given is not None:
            raise UserError(
                "--config: expected without --mode=report, which reads that of each run, found "
                "both; leave it out"
            )
        report.run(values)
        return 0
    if values.mode == "preflight":
        from didicm_jax.cli import preflight

        return preflight.run(values, given)
    found = _find(values, given)
    config = given if found is None else found.config
    if config is None:
        raise UserError("--config: expected a config file, found none; try configs/digits.py")
    cache = _cache(values)
    # Only now: it starts jax, which takes seconds and claims the devices.
    import jax

    from didicm_jax import parallel
    from didicm_jax.training import loop

    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", cache)
    parallel.initialize(
        values.coordinator_address,
        values.num_processes,
        values.process_id,
        timeout=values.peer_timeout,
    )
    try:
        if values.mode == "train":
            _train(values, config)
        else:
            from didicm_jax.cli import dispatch

            assert found is not None
            dispatch.run(values, found)
    except jax.errors.JaxRuntimeError as error:
        full = _of_full_memory(values, error)
        if jax.process_count() == 1:
            if full is None:
                raise
            raise full from error
        words = full or (
            f"expected all processes to take part, found {' '.join(str(error).split())[:200]}; "
            f"{loop.ADVICE}"
        )
        # Not by the usual exit, which would wait for the others.
        parallel.leave(f"error: process {jax.process_index()}: {words}", 2 if full else 3)
    return 0


def _of_full_memory(values: flags.FlagValues, error: Exception) -> UserError | None:
    """What to do where a device has no room left; None of other errors."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return None
    if values.mode == "train":
        advice = (
            "look at what --mode=preflight says of the memory, then use more devices, "
            "config.train.remat=blocks, a larger config.train.accumulate, a smaller "
            "config.evaluation.batch_size or, in a new run, a smaller config.train.batch_size"
        )
    elif values.mode == "predict" or values.images or values.pretrained:
        advice = "use devices with more memory, or end what else takes it"
    else:
        advice = "use more devices or a smaller config.evaluation.batch_size"
    found = first_line(error)[:200]
    return UserError(f"expected room in the memory of the devices, found {found}; {advice}")


def _find(
    values: flags.FlagValues, given: ml_collections.ConfigDict | None
) -> "RunFolder | bundle.Bundle | None":
    """The run that `--workdir` names, with the config given; None for a new one to train.

    With `--pretrained` the bundle that it names.

    Raises:
      UserError: there is none, or the config is not valid or of another run.
    """
    if values.pretrained:
        if given is not None:
            raise UserError(
                "--config: expected without --pretrained, which has its own, found both; leave one "
                "out"
            )
        from didicm_jax.run import bundle  # it brings flax

        return bundle.find(values.pretrained)
    if not values.workdir:
        raise UserError("--workdir: expected a folder for the run, found none; add --workdir=DIR")
    if given is not None:
        configuration.validate(given)
    trains = values.mode == "train"
    found = RunFolder.find(values.workdir) if trains else RunFolder.open(values.workdir)
    if found is None or given is None:
        return found
    return found.changed(given, evaluates=not trains)


def _cache(values: flags.FlagValues) -> str | None:
    """The folder for compiled programs, or None: to leave it as it is.

    By default there is none for a run that can only be read, nor for a network without a run, and
    what the environment names stays.

    Raises:
      UserError: the folder that is named cannot be written.
    """
    if values.compilation_cache:
        if values.compilation_cache == "none":
            return None
        place = files.place(values.compilation_cache, "--compilation_cache")
        return str(writable("compilation_cache", place))
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    if values.pretrained and not values.output:
        return None
    # A run that is looked at from elsewhere is left as it is.
    places = Places(files.place(values.output or values.workdir))
    ours = not places.path.exists() or files.writable(places.path)
    return str(places.compilation_cache) if ours else None


def _train(values: flags.FlagValues, config: ml_collections.ConfigDict) -> None:
    from didicm_jax import parallel
    from didicm_jax.training import loop, plan, profiling

    profile = options.profiled_steps(values)
    with parallel.together():  # a folder that does not answer to one is told to the others
        begun = Places(files.place(values.workdir)).begun
    run = plan.make_plan(config, begun=begun)
    with parallel.together():
        profiling.check(profile, run.durations.total)
    folder = RunFolder.claim(values.workdir, config, run.description)
    if parallel.is_main():
        print(run.describe(), flush=True)
    outcome = loop.train(
        run,
        folder,
        peer_timeout=values.peer_timeout,
        debug_nans=values.debug_nans,
        profile=profile,
    )
    if parallel.is_main():
        print(
            f"stopped by {outcome.signal} at step {outcome.step}; the same command goes on from it"
            if outcome.metrics is None
            else f"wrote {folder.evaluation_file}"
        )
