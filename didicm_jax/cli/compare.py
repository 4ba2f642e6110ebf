"""`--mode=compare`: two runs on the same images, paired, and the images that divide them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from tabulate import tabulate

from didicm_jax import data, evaluation, files, pages, parallel, plots
from didicm_jax.cli import pictures
from didicm_jax.cli.command_line import counted, printable
from didicm_jax.cli.disputes import Disputes
from didicm_jax.evaluation import comparison, loop, scores
from didicm_jax.evaluation import record as records
from didicm_jax.evaluation.subject import (
    Subject,
    check_classes,
    check_comparable,
    side_by_side,
)
from didicm_jax.inference import sweep
from didicm_jax.inference.predictor import Predictor
from didicm_jax.plots import prediction as figures
from didicm_jax.plots import style

# In tables and pictures.
_NAMES = ("run", "baseline")
_ROWS = 200  # of disagreements on the page; all are in the CSV file


class Pair(NamedTuple):
    """Two runs, how each is sampled, and which examples they are compared on."""

    subjects: tuple[Subject, Subject]
    configs: tuple[ml_collections.ConfigDict, ml_collections.ConfigDict]
    images: Mapping[str, Any]  # from `evaluation.record.images_of`


class _Judgement(NamedTuple):
    """Which of two runs is better, in words and numbers."""

    described: Sequence[str]  # the runs and the data, a sentence each
    table: pages.Table
    verdict: str


def labelled(pair: Pair, sheet: int, output: Path, waiting: loop.Waiting) -> None:
    """Compares on a labelled data set, and says which of the two is better.

    Raises:
      UserError: the two data sets hold other images.
    """
    ours, theirs = pair.subjects
    check_comparable(ours, theirs)
    programs = ours.program(pair.configs[0]), theirs.program(pair.configs[1])
    larger = max(pair.subjects, key=lambda subject: subject.network.description.image_shape[0])
    disputes = Disputes(ours.class_names, sheet)
    parts = []
    for first, second in side_by_side(pair.subjects, programs, waiting=waiting):
        probs = first.posterior.probs, second.posterior.probs
        parts.append(tuple(evaluation.outcomes(each, first.labels) for each in probs))
        with parallel.alone() as mine:
            if mine:
                start = disputes.total
                name = partial(_name, ours.source, start)
                disputes.add(*probs, first.labels, name, partial(_image, larger.source, start))
    with parallel.alone() as mine:
        if mine:
            _judge(pair, scores.join(parts), disputes, output)


def unlabelled(
    predictors: tuple[Predictor, Predictor], paths: Sequence[Path], sheet: int, output: Path
) -> None:
    """Compares on images without labels: where the two disagree is shown, to judge by eye.

    Raises:
      UserError: no image can be used.
    """
    check_classes(predictors[0].class_names, predictors[1].class_names)
    larger = int(np.argmax([each.image_shape[0] for each in predictors]))
    found = Disputes(predictors[0].class_names, sheet)
    for chunk in pictures.chunks(predictors, paths):
        ours, theirs = (answer.probs for answer in chunk.answers)
        names = [printable(str(path)) for path in chunk.paths]
        found.add(ours, theirs, None, names.__getitem__, chunk.shown[larger].__getitem__)
    _write(found, {}, output)


def _judge(
    pair: Pair,
    results: tuple[evaluation.Outcomes, evaluation.Outcomes],
    disputes: Disputes,
    output: Path,
) -> None:
    """Tells which is better, and writes it with the images that divide the two."""
    differences = comparison.differences(*results)
    test = comparison.mcnemar(*results)
    summaries = [evaluation.summarize(each) for each in results]
    record: dict[str, Any] = {
        name: summary | sweep.describe(config) | {"workdir": subject.folder.name}
        for name, summary, config, subject in zip(
            _NAMES, summaries, pair.configs, pair.subjects, strict=True
        )
    }
    record |= pair.images
    record["difference"] = {name: value._asdict() for name, value in differences.items()}
    record["mcnemar"] = test._asdict()
    table = _table(summaries, differences)
    print(tabulate(table.rows, table.header, disable_numparse=True))
    better = "the run" if test.only_ours > test.only_theirs else "the baseline"
    verdict = (
        f"{better} is right more often" if test.p_value < 0.05 else "no difference beyond chance"
    )
    said = (
        f"McNemar: {test.only_ours} right by the run alone, {test.only_theirs} by the baseline "
        f"alone, p = {test.p_value:.3g}: {verdict} (at 5 %)"
    )
    print(f"\n{said}\n")
    described = [
        f"The {name}: {subject.folder.name}, checkpoint of step {subject.network.step:,}, by "
        f"{sweep.label(config)} with {counted(record[name]['steps'], 'step')}."
        for name, subject, config in zip(_NAMES, pair.subjects, pair.configs, strict=True)
    ]
    described.append(f"The data: {pair.images['dataset']}{records.part(pair.images)}.")
    _write(disputes, record, output, _Judgement(described, table, said))


def _name(source: data.Source, start: int, row: int) -> str:
    return source.name(start + row)


def _image(source: data.Source, start: int, row: int) -> np.ndarray:
    return source.batch(np.array([start + row]))["image"][0]


def _table(summaries: Sequence[dict], differences: dict[str, comparison.Difference]) -> pages.Table:
    rows = []
    for key, difference in differences.items():
        percent = key in ("top1", "top5")
        scale, digits = (100, 2) if percent else (1, 4)
        rows.append(
            [
                f"{key} %" if percent else key,
                *(f"{scale * summary[key]:.{digits}f}" for summary in summaries),
                f"{scale * difference.value:+.{digits}f}",
                f"[{scale * difference.low:+.{digits}f}, {scale * difference.high:+.{digits}f}]",
            ]
        )
    return pages.Table("Metrics", ["metric", *_NAMES, "difference", "95 %"], rows)


def _write(
    found: Disputes, record: dict[str, Any], output: Path, judgement: _Judgement | None = None
) -> None:
    """The images on which the two disagree, the sheet of the most disputed, and the page."""
    output.mkdir(parents=True, exist_ok=True)
    record |= {
        "num_images": found.total,
        "num_disagreements": found.differing,
        "mean_total_variation": found.mean,
    }
    rows = [
        [each.name, each.label or "", *each.classes, f"{each.distance:.6f}"]
        for each in found.differ()
    ]
    header = ["id", "label", *_NAMES, "total_variation"]
    files.write_csv(output / "disagreements.csv", [header, *rows])
    files.write_json(output / "comparison.json", record)
    print(
        f"the two name different classes for {found.differing:,} of {counted(found.total, 'image')}"
    )
    cards = found.cards()
    written = ["comparison.json", "disagreements.csv"]
    makers = {
        "disagreements.png": lambda path: plots.save(figures.sheet(cards, _NAMES), path),
        "comparison.html": lambda path: _write_page(found, judgement, path),
    }
    written += [name for name, make in makers.items() if pictures.draw(output / name, make)]
    print(f"wrote {', '.join(written)} in {printable(str(output))}")


def _write_page(found: Disputes, judgement: _Judgement | None, path: Path) -> None:
    rows: list[Sequence[str]] = [
        [
            each.name,
            *([each.label] if each.label is not None else []),
            *each.classes,
            f"{each.distance:.3f}",
        ]
        for each in found.differ()[:_ROWS]
    ]
    header = ["image", *(["true"] if judgement else []), *_NAMES, "total variation"]
    pages.write(
        path,
        "comparison.html",
        title="Comparison of a run and its baseline",
        names=dict(zip(_NAMES, (style.BLUE, style.ORANGE), strict=True)),
        found=found,
        judgement=judgement,
        cards=[(card, pages.picture(card.image)) for card in found.cards()],
        differ=pages.Table("Images on which the two disagree", header, rows),
    )
