"""The modes that look at a trained run: opens what the flags name and calls the mode."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from absl import flags

from didicm_jax import config as configuration
from didicm_jax import files, parallel
from didicm_jax.cli import compare, evaluate, options, pictures, predict
from didicm_jax.cli.command_line import flagged, with_flags, writable
from didicm_jax.errors import UserError
from didicm_jax.evaluation import record
from didicm_jax.evaluation.subject import open_subject
from didicm_jax.inference import network, sweep
from didicm_jax.inference.network import Trained
from didicm_jax.inference.predictor import Predictor
from didicm_jax.parallel import one_device
from didicm_jax.run import Places, RunFolder


def run(values: flags.FlagValues, folder: Trained) -> None:
    """Runs the mode of the flags on a run or a bundle.

    Raises:
      UserError: a flag is wrong, or what it names is not there.
    """
    {"evaluate": _evaluate, "compare": _compare, "predict": _predict}[values.mode](values, folder)


def _evaluate(values: flags.FlagValues, folder: Trained) -> None:
    with parallel.together():
        output = _output(values, "evaluation" if values.pretrained else "")
        _check_not_of_another(output, folder)
        names, severities = options.chosen_corruptions(values)
        configs = sweep.variations(folder.config, options.sampler_choices(values))
        other = _baseline(values) if values.baseline else None
        real_labels = files.local(values.real_labels, "real_labels") if values.real_labels else None
    asked = values.checkpoint, options.other_data(values)
    with _data_flags(values):
        subject = open_subject(folder, *asked)
        with flagged("baseline"):
            baseline = open_subject(other, *asked) if other else None
    requests = evaluate.Requests(
        names,
        severities,
        baseline,
        real_labels,
        values.trajectories,
    )
    with parallel.Watch(values.peer_timeout, "start all of them again") as watch:
        images = record.images_of(folder.config, asked[1])
        evaluate.run(subject, configs, requests, output, watch.waiting, images)


def _compare(values: flags.FlagValues, folder: Trained) -> None:
    if not values.baseline:
        raise UserError("--baseline: expected the workdir of a run, found none; add --baseline=DIR")
    with parallel.together():
        output = _output(values, "comparison")
        other = _baseline(values)
        ours = _chosen(values, folder, other)
        with flagged("baseline"):
            theirs = _chosen(values, other, folder)
    if values.images is not None:
        _only_one_process()
        paths = _images(values, output, compare.WRITTEN)
        first = _network(values, ours)
        with flagged("baseline"):
            second = _network(values, theirs)
        compare.unlabelled((first, second), paths, values.sheet, output)
        return
    asked = values.checkpoint, options.other_data(values)
    with _data_flags(values):
        subject = open_subject(ours, *asked)
        with flagged("baseline"):
            baseline = open_subject(theirs, *asked)
    images = record.images_of(folder.config, asked[1])
    with parallel.Watch(values.peer_timeout, "start all of them again") as watch:
        compare.labelled((subject, baseline), images, values.sheet, output, watch.waiting)


def _predict(values: flags.FlagValues, folder: Trained) -> None:
    _only_one_process()
    output = _output(values, "predictions")
    paths = _images(values, output, (*predict.TABLES, predict.FIGURES))
    predictor = Predictor(_network(values, _chosen(values, folder)))
    predict.run(predictor, paths, output, gif=values.gif, max_figures=values.max_figures)


def _chosen(values: flags.FlagValues, folder: Trained, other: Trained | None = None) -> Trained:
    """The network with the one sampler that the flags name.

    Beside a diffusion a classifier takes of the flags what it reads: views and temperature.

    Raises:
      UserError: they name several.
    """
    choices = options.sampler_choices(values)
    if other is not None and other.config.method == "didicm" != folder.config.method:
        read = configuration.sampler_reads(folder.config.method, "")
        choices = {key: given for key, given in choices.items() if key in read}
    configs = sweep.variations(folder.config, choices)
    if len(configs) > 1:
        raise UserError(
            f"expected one sampler, found {len(configs)}; give one value to each flag",
            about=f"--mode={values.mode}",
        )
    return replace(folder, config=configs[0])


def _baseline(values: flags.FlagValues) -> RunFolder:
    with flagged("baseline"):
        return RunFolder.open(values.baseline)


@contextlib.contextmanager
def _data_flags(values: flags.FlagValues) -> Iterator[None]:
    """What is said within of settings that flags were given for is said of the flags."""
    flag_of = {"data.eval_split": "split"} if values.split or values.dataset else {}
    if values.dataset or values.pretrained:
        flag_of |= {"data.name": "dataset", "data.data_dir": "data_dir"}
    try:
        yield
    except UserError as error:
        raise UserError(with_flags(error.message, flag_of), about=error.about) from error


def _network(values: flags.FlagValues, folder: Trained) -> network.Network:
    """The network on one device."""
    return network.load(folder, values.checkpoint, one_device())


def _output(values: flags.FlagValues, name: str) -> Path:
    """Where to write: `name` in the workdir, or, without one, in the current folder."""
    if values.output:
        return writable("output", files.place(values.output, "--output"))
    return writable("output", files.place(values.workdir or "") / name)


def _check_not_of_another(output: Path, folder: Trained) -> None:
    """Refuses to write an evaluation over that of another run, whose model card would quote it.

    Raises:
      UserError: there is another run.
    """
    if Places(output).config_file.exists() and files.resolved(output) != files.resolved(
        folder.path
    ):
        raise UserError(
            f"expected a folder without another run, whose evaluation would be lost, found one in "
            f"{output}; name another with --output=DIR",
            about="output",
        )


def _images(values: flags.FlagValues, output: Path, written: Sequence[str]) -> list[Path]:
    """What `--images` names, without what an earlier start of the mode has left among it."""
    left = [Places(output).compilation_cache, *(output / name for name in written)]
    return pictures.find(values.images or [], without=left)


def _only_one_process() -> None:
    import jax

    if jax.process_count() > 1:
        raise UserError(
            f"--images: expected one process, found {jax.process_count()}; start it on one host "
            "alone, with --num_processes=1"
        )
