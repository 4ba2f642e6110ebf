"""The modes that look at a trained run: opens what the flags name and calls the mode."""

import os
from collections.abc import Callable
from pathlib import Path

import ml_collections
from absl import flags

from didicm_jax import parallel
from didicm_jax.cli import compare, evaluate, options, pictures, predict
from didicm_jax.cli.command_line import flagged
from didicm_jax.cli.subject import Subject, open_subject
from didicm_jax.errors import UserError
from didicm_jax.inference import sweep, trained
from didicm_jax.inference.predictor import Predictor
from didicm_jax.parallel import make_mesh
from didicm_jax.run import workdir


def run(values: flags.FlagValues, config: ml_collections.ConfigDict, folder: Path) -> None:
    """Runs the mode of the flags on the run in `folder`.

    Raises:
      UserError: a flag is wrong, or what it names is not there.
    """
    {"evaluate": _evaluate, "compare": _compare, "predict": _predict}[values.mode](
        values, config, folder
    )


def _evaluate(values: flags.FlagValues, config: ml_collections.ConfigDict, folder: Path) -> None:
    output = _output(values, folder)
    names, severities = options.chosen_corruptions(values)
    configs = sweep.variations(config, options.sampler_choices(values))
    subject = _subject(values, config, folder)
    requests = evaluate.Requests(
        names,
        severities,
        _baseline_subject(values, *_baseline(values)) if values.baseline else None,
        Path(values.real_labels) if values.real_labels else None,
        values.trajectories,
    )
    with parallel.Watch(values.peer_timeout, "start all of them again") as watch:
        evaluate.run(subject, configs, requests, output, _proceed(watch))


def _compare(values: flags.FlagValues, config: ml_collections.ConfigDict, folder: Path) -> None:
    if not values.baseline:
        raise UserError("--baseline: expected the workdir of a run, found none; add --baseline=DIR")
    output = _output(values, folder / "comparison")
    other, other_folder = _baseline(values)
    ours, theirs = (_chosen(values, each) for each in (config, other))
    if values.images is not None:
        _only_one_process()
        paths = pictures.find(values.images)
        first = _predictor(values, ours, folder, trajectory=False)
        with flagged("baseline"):
            second = _predictor(values, theirs, other_folder, trajectory=False)
        compare.unlabelled((first, second), paths, values.sheet, output)
        return
    subjects = (
        _subject(values, ours, folder),
        _baseline_subject(values, theirs, other_folder),
    )
    pair = compare.Pair(subjects, (ours, theirs))
    with flagged(), parallel.Watch(values.peer_timeout, "start all of them again") as watch:
        compare.labelled(pair, values.sheet, output, _proceed(watch))


def _predict(values: flags.FlagValues, config: ml_collections.ConfigDict, folder: Path) -> None:
    _only_one_process()
    output = _output(values, folder / "predictions")
    paths = pictures.find(values.images or [])
    predictor = _predictor(values, _chosen(values, config), folder)
    predict.run(predictor, paths, output, gif=values.gif, max_figures=values.max_figures)


def _chosen(
    values: flags.FlagValues, config: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """The config with the one sampler that the flags name.

    Raises:
      UserError: they name several.
    """
    choices = options.sampler_choices(values)
    if config.method != "didicm" and values.mode == "compare":
        return config  # the flags are for the other of the two
    configs = sweep.variations(config, choices)
    if len(configs) > 1:
        raise UserError(
            f"--mode={values.mode}: expected one sampler, found {len(configs)}; give one value to "
            "each flag"
        )
    return configs[0]


def _baseline(values: flags.FlagValues) -> tuple[ml_collections.ConfigDict, Path]:
    folder = Path(values.baseline)
    with flagged("baseline"):
        return workdir.config_of(None, folder, evaluates=True), folder


def _subject(values: flags.FlagValues, config: ml_collections.ConfigDict, folder: Path) -> Subject:
    with flagged():
        return open_subject(folder, config, values.checkpoint, options.other_data(values))


def _baseline_subject(
    values: flags.FlagValues, config: ml_collections.ConfigDict, folder: Path
) -> Subject:
    with flagged("baseline"):
        return _subject(values, config, folder)


def _predictor(
    values: flags.FlagValues,
    config: ml_collections.ConfigDict,
    folder: Path,
    *,
    trajectory: bool = True,
) -> Predictor:
    import jax

    mesh = make_mesh(jax.local_devices()[:1])
    network = trained.restore(folder, values.checkpoint, config, mesh)
    return Predictor(network, mesh=mesh, trajectory=trajectory)


def _output(values: flags.FlagValues, default: Path) -> Path:
    """The folder to write to, which is made when there is something to write.

    Raises:
      UserError: it is a file, or cannot be made or written to.
    """
    output = Path(values.output) if values.output else default
    try:
        nearest = next(each for each in (output, *output.absolute().parents) if each.exists())
        found = "" if nearest.is_dir() else f"the file {nearest}"
        if not found and not os.access(nearest, os.W_OK | os.X_OK):
            found = f"{nearest} read-only"
    except OSError as error:
        found = str(error)
    if found:
        raise UserError(
            f"--output: expected a folder that can be written, found {found}; name another with "
            "--output=DIR"
        )
    return output


def _proceed(watch: parallel.Watch) -> Callable[[], bool]:
    """Lets no process get ahead of the others, so that a wait for them is short or in vain."""

    def proceed() -> bool:
        with watch.waiting():
            parallel.barrier()
        return True

    return proceed


def _only_one_process() -> None:
    import jax

    if jax.process_count() > 1:
        raise UserError(
            f"--images: expected one process, found {jax.process_count()}; start it on one host "
            "alone, with --num_processes=1"
        )
