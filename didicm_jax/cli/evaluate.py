"""`--mode=evaluate`: how good a run's posteriors are, in numbers and in pictures."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from matplotlib.figure import Figure
from tabulate import tabulate

from didicm_jax import evaluation, files, pages, parallel, plots
from didicm_jax.cli import evaluation_page, pictures
from didicm_jax.cli.command_line import counted
from didicm_jax.errors import UserError
from didicm_jax.evaluation import (
    classes,
    corruptions,
    loop,
    notable,
    real_labels,
    record,
    temperature,
)
from didicm_jax.evaluation.predictions import Predictions
from didicm_jax.evaluation.subject import Subject, check_comparable
from didicm_jax.inference import sweep
from didicm_jax.plots import evaluation as figures
from didicm_jax.run import Places, journal

_PAIRS = 20  # of classes, in the table
_CORRUPTIONS = "corruptions.png"  # the figure that not every evaluation has


class Requests(NamedTuple):
    """What to find out besides the metrics."""

    corruptions: Sequence[str]
    severities: Sequence[int]
    baseline: Subject | None  # of the corruptions
    real_labels: Path | None
    trajectories: bool


class Scored(NamedTuple):
    """What one sampler gave."""

    config: ml_collections.ConfigDict
    evaluation: loop.Evaluation

    @property
    def name(self) -> str:
        """Of the sampler, with its steps."""
        steps = sweep.describe(self.config)["steps"]
        return f"{sweep.label(self.config)}, {counted(steps, 'step')}"


def run(
    subject: Subject,
    configs: Sequence[ml_collections.ConfigDict],
    requests: Requests,
    output: Path,
    waiting: loop.Waiting,
    images: Mapping[str, Any],
) -> None:
    """Evaluates with each sampler; writes the files and prints the tables on the first process.

    The last sampler is the one that everything but the comparison of samplers is about.

    Args:
      subject: the network and the examples.
      configs: of the run, one for each sampler.
      requests: what else to find out.
      output: the folder for what is written.
      waiting: surrounds each wait for the other processes.
      images: which examples they are, from `record.images_of`.

    Raises:
      UserError: the ReaL labels or the baseline are not of these images, the last sampler has no
        trajectories to keep, or the posteriors are not finite.
    """
    path, real = requests.real_labels, None
    with parallel.together():  # before the work
        if requests.trajectories and not sweep.has_trajectory(configs[-1]):
            name = sweep.describe(configs[-1])["sampler"]
            raise UserError(
                f"expected cp as the last sampler, found {name}, which diffuses no probabilities; "
                "leave it out or change the sampler",
                about="trajectories",
            )
        if path is not None:
            real = real_labels.read(path, subject.source, len(subject.class_names))
        if requests.baseline is not None:
            check_comparable(subject, requests.baseline)
    with Predictions(output) as kept:
        scored = []
        for number, config in enumerate(configs):
            last = number == len(configs) - 1
            chosen = subject.program(config, trajectory=last and requests.trajectories)
            keep = kept.add if last else None
            scored.append(Scored(config, subject.evaluate(chosen, waiting=waiting, keep=keep)))
            if len(configs) > 1:  # a whole list may take long
                _say(f"{scored[-1].name}: {journal.summary(scored[-1].evaluation.metrics)}")
        if real is not None:  # what was scored in the place of an image has other labels
            gone = scored[-1].evaluation.replaced
            real = [frozenset() if lost else own for own, lost in zip(real, gone, strict=True)]
        corrupted = None
        if requests.corruptions:
            corrupted = corruptions.evaluate(
                subject,
                configs[-1],
                requests.baseline,
                requests.corruptions,
                requests.severities,
                say=_say,
                waiting=waiting,
            )
        with parallel.alone() as mine:
            found = (
                _report(subject, scored, corrupted, real, kept, images, output) if mine else None
            )
    # The page comes when all else is on the disk: for it, the images that it shows run once more.
    scores = scored[-1].evaluation.scores
    shown = notable.choose(scores, len(subject.class_names))
    places = evaluation_page.places(shown)
    ways = subject.trajectories(configs[-1], places, waiting=waiting)
    with parallel.alone() as mine:
        if mine and found is not None:
            write = partial(evaluation_page.write, subject, scores, found, shown, ways, real)
            page = output / "evaluation.html"
            written = [*found.files, *([page.name] if pictures.draw(page, write) else [])]
            print(f"wrote {', '.join(written)} in {output}")


def _report(
    subject: Subject,
    scored: Sequence[Scored],
    corrupted: corruptions.Found | None,
    real: Sequence[frozenset[int]] | None,
    kept: Predictions,
    images: Mapping[str, Any],
    output: Path,
) -> evaluation_page.Found:
    """Writes and prints all but the page, which needs the network once more."""
    last = scored[-1].evaluation
    records = [record.of_sampler(each.config, each.evaluation.scores, real) for each in scored]
    plain = scored[-1].config.sampler.temperature == 1  # so that what is found can be asked for
    scaled = temperature.best(kept.probs, last.scores.labels) if plain else None
    whole = record.of(
        records,
        last,
        step=subject.network.step,
        images=images,
        class_names=subject.class_names,
        best_temperature=scaled,
        corruptions=None if corrupted is None else corrupted.record,
    )
    corruption_table = None
    if corrupted is not None:
        corruption_table = _corruption_table(corrupted.record)
        print(f"\n{_printed(corruption_table)}{_relative(corrupted.record)}\n")
    sampler_table = _sampler_table(scored, records)
    print(_printed(sampler_table))
    if scaled is not None:
        print(_temperature_line(scaled, records[-1]))
    print(_class_tables(whole["classes"]))
    output.mkdir(parents=True, exist_ok=True)
    written = [Places(output).evaluation_file.name]
    for name, rows in classes.tables(last.scores, subject.class_names, pairs=_PAIRS).items():
        files.write_csv(output / name, rows)
        written.append(name)
    names = [subject.source.name(index) for index in range(len(subject.source))]
    kept.write(
        output / "predictions.npz",
        labels=last.scores.labels,
        ids=np.array(names),
        class_names=np.array(subject.class_names),
        replaced=last.replaced,
    )
    record.write(output, whole)
    written += ["predictions.npz", *_draw(scored, records, subject.class_names, corrupted, output)]
    return evaluation_page.Found(whole, sampler_table, scored[-1].name, corruption_table, written)


def _say(line: str) -> None:
    if parallel.is_main():
        print(line, flush=True)


def _printed(table: pages.Table) -> str:
    return tabulate(table.rows, table.header, disable_numparse=True)


def _temperature_line(scaled: dict[str, float], plain: dict[str, Any]) -> str:
    return (
        f"\nWith --temperature={scaled['temperature']:.4g}, the best on these images, NLL "
        f"{plain['nll']:.4f} -> {scaled['nll']:.4f}, ECE {plain['ece']:.4f} -> {scaled['ece']:.4f} "
        "(choose it on images that are held out)"
    )


def _sampler_table(scored: Sequence[Scored], records: Sequence[dict[str, Any]]) -> pages.Table:
    headers = ["sampler", "steps", "top-1 % [95 %]", "top-5 %", "NLL [95 %]", "Brier"]
    headers += ["ECE [95 %]", "ECE, equal mass", "entropy"]
    has_real = "top1_real" in records[0]
    rows = []
    for each, found in zip(scored, records, strict=True):

        def ranged(key: str, scale: float, digits: int, found: dict[str, Any] = found) -> str:
            low, high = (f"{scale * end:.{digits}f}" for end in found["intervals"][key])
            return f"{scale * found[key]:.{digits}f} [{low}, {high}]"

        row = [sweep.label(each.config), str(found["steps"]), ranged("top1", 100, 2)]
        row += [f"{100 * found['top5']:.2f}", ranged("nll", 1, 4), f"{found['brier']:.4f}"]
        row += [ranged("ece", 1, 4), f"{found['ece_equal_mass']:.4f}", f"{found['entropy']:.3f}"]
        if has_real:
            row.append(f"{100 * found['top1_real']:.2f}")
        rows.append(row)
    if has_real:
        headers.append("ReaL top-1 %")
    return pages.Table("Samplers", headers, rows)


def _class_tables(summary: dict[str, Any]) -> str:
    shares = ("accuracy", "confidence", "bias")
    worst = [
        [each["class"], each["count"], *(f"{100 * each[key]:.1f}" for key in shares)]
        for each in summary["worst"]
    ]
    pairs = [
        [" / ".join(each["classes"]), each["errors"], f"{100 * each['mass']:.1f}"]
        for each in summary["most_confused"]
    ]
    headers = ["worst classes", "images", "accuracy %", "confidence %", "bias %"]
    confused = ["most confused", "errors", "mass exchanged %"]
    return (
        f"\n{tabulate(worst, headers, disable_numparse=True)}\n"
        f"\n{tabulate(pairs, confused, disable_numparse=True)}\n"
    )


def _corruption_table(found: dict[str, Any]) -> pages.Table:
    runs = [key for key in ("run", "baseline") if key in found]
    names = [name for name in found["run"] if name != "mean_corruption_error"]
    rows = [
        [name, *(f"{100 * (1 - np.mean(found[key][name]['top1'])):.1f}" for key in runs)]
        for name in names
    ]
    rows.append(["mean", *(f"{100 * found[key]['mean_corruption_error']:.1f}" for key in runs)])
    return pages.Table("Corruptions", ["error %, mean of severities", *runs], rows)


def _relative(found: dict[str, Any]) -> str:
    keys = {other: f"mce_relative_to_{other}" for other in ("baseline", "alexnet")}
    return "".join(
        f"\nmCE relative to {other}: {100 * found[key]:.1f} %"
        for other, key in keys.items()
        if key in found
    )


def _draw(
    scored: Sequence[Scored],
    records: Sequence[dict[str, Any]],
    class_names: tuple[str, ...],
    corrupted: corruptions.Found | None,
    output: Path,
) -> list[str]:
    """Draws the figures, and returns the names of those that could be drawn; others are gone."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for each, found in zip(scored, records, strict=True):
        curves.setdefault(sweep.label(each.config), []).append(found)
    scores = scored[-1].evaluation.scores
    bins = evaluation.reliability(scores.outcomes)
    selective = {
        each.name: evaluation.selective(each.evaluation.scores.outcomes) for each in scored
    }
    of_classes = classes.per_class(scores, len(class_names))
    makers = {
        "steps.png": partial(figures.steps, curves),
        "reliability.png": partial(figures.reliability, bins, records[-1]["ece"], scored[-1].name),
        "selective.png": partial(figures.selective, selective),
        "classes.png": partial(figures.classes, of_classes, class_names),
    }
    if corrupted is None:
        (output / _CORRUPTIONS).unlink(missing_ok=True)  # that of an evaluation before
    else:
        makers[_CORRUPTIONS] = partial(
            figures.corruptions, corrupted.names, corrupted.severities, corrupted.accuracies
        )
    return [
        file for file, make in makers.items() if pictures.draw(output / file, partial(_save, make))
    ]


def _save(make: Callable[[], Figure], path: Path) -> None:
    plots.save(make(), path)
