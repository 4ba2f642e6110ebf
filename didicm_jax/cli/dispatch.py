"""The modes that look at a trained run: opens what the flags name and calls the mode."""

import re
from pathlib import Path

import ml_collections
from absl import flags

from didicm_jax import parallel
from didicm_jax.cli import compare, evaluate, options, pictures, predict
from didicm_jax.errors import UserError
from didicm_jax.evaluation.subject import Subject, open_subject
from didicm_jax.inference import network, sweep
from didicm_jax.inference.predictor import Predictor
from didicm_jax.parallel import make_mesh
from didicm_jax.run import RunFolder


def run(values: flags.FlagValues, folder: RunFolder) -> None:
    """Runs the mode of the flags on a run.

    Raises:
      UserError: a flag is wrong, or what it names is not there.
    """
    {"evaluate": _evaluate, "compare": _compare, "predict": _predict}[values.mode](values, folder)


def _evaluate(values: flags.FlagValues, folder: RunFolder) -> None:
    names, severities = options.chosen_corruptions(values)
    configs = sweep.variations(folder.config, options.sampler_choices(values))
    subject = _subject(values, folder.config, folder)
    baseline = _baseline(values) if values.baseline else None
    requests = evaluate.Requests(
        names,
        severities,
        _subject(values, baseline.config, baseline) if baseline else None,
        Path(values.real_labels) if values.real_labels else None,
        values.trajectories,
    )
    with parallel.Watch(values.peer_timeout, "start all of them again") as watch:
        evaluate.run(subject, configs, requests, _output(values, folder.path), watch.waiting)


def _compare(values: flags.FlagValues, folder: RunFolder) -> None:
    if not values.baseline:
        raise UserError("--baseline: expected the workdir of a run, found none; add --baseline=DIR")
    other = _baseline(values)
    ours, theirs = (_chosen(values, each.config) for each in (folder, other))
    output = _output(values, folder.path / "comparison")
    if values.images is not None:
        _only_one_process()
        paths = pictures.find(values.images)
        predictors = (
            _predictor(values, ours, folder),
            _predictor(values, theirs, other),
        )
        compare.unlabelled(predictors, paths, values.sheet, output)
        return
    pair = compare.Pair(
        (_subject(values, ours, folder), _subject(values, theirs, other)), (ours, theirs)
    )
    with parallel.Watch(values.peer_timeout, "start all of them again") as watch:
        compare.labelled(pair, values.sheet, output, watch.waiting)


def _predict(values: flags.FlagValues, folder: RunFolder) -> None:
    _only_one_process()
    paths = pictures.find(values.images or [])
    chosen = _chosen(values, folder.config)
    predict.run(
        _predictor(values, chosen, folder),
        paths,
        _output(values, folder.path / "predictions"),
        gif=values.gif,
        max_figures=values.max_figures,
    )


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


def _baseline(values: flags.FlagValues) -> RunFolder:
    try:
        return RunFolder.open(values.baseline)
    except UserError as error:
        raise UserError(re.sub("^run folder:", "--baseline:", str(error))) from error


def _subject(
    values: flags.FlagValues, config: ml_collections.ConfigDict, folder: RunFolder
) -> Subject:
    return open_subject(folder, config, values.checkpoint, options.other_data(values))


def _predictor(
    values: flags.FlagValues, config: ml_collections.ConfigDict, folder: RunFolder
) -> Predictor:
    import jax

    mesh = make_mesh(jax.local_devices()[:1])
    return Predictor(network.load(folder, values.checkpoint, mesh, config), mesh=mesh)


def _output(values: flags.FlagValues, default: Path) -> Path:
    """The folder to write to.

    Raises:
      UserError: it is a file, or cannot be made.
    """
    output = Path(values.output) if values.output else default
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output: expected a folder that can be written, found {error}; name another"
        ) from error
    return output


def _only_one_process() -> None:
    import jax

    if jax.process_count() > 1:
        raise UserError(
            f"--images: expected one process, found {jax.process_count()}; start it on one host"
        )
