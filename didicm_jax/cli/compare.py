"""`--mode=compare`: two runs on the same images, paired, and the images that divide them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from didicm_jax.inference.network import Network
from didicm_jax.inference.predictor import Predictor
from didicm_jax.plots import prediction as figures
from didicm_jax.plots import style

# In tables and pictures.
_NAMES = ("run", "baseline")
_ROWS = 200  # of disagreements on the page; all are in the CSV file
WRITTEN = ("comparison.json", "disagreements.csv", "disagreements.png", "comparison.html")
_RECORD, _TABLE, _SHEET, _PAGE = WRITTEN


class _Judgement(NamedTuple):
    """Which of two runs is better, in words and numbers."""

    table: pages.Table
    verdict: str


def labelled(
    pair: tuple[Subject, Subject],
    images: Mapping[str, Any],
    sheet: int,
    output: Path,
    waiting: loop.Waiting,
) -> None:
    """Compares on a labelled data set, and says which of the two is better.

    Args:
      pair: the run and its baseline, each with the sampler of its network's config.
      images: from `evaluation.record.images_of`.
      sheet: how many of the most disputed images are shown.
      output: the folder for what is written.
      waiting: surrounds each wait for the other processes.

    Raises:
      UserError: the two data sets hold other images.
    """
    ours, theirs = pair
    check_comparable(ours, theirs)
    programs = ours.program(ours.network.config), theirs.program(theirs.network.config)
    larger = max(pair, key=lambda subject: subject.network.description.image_shape[0])
    disputes = Disputes(ours.class_names, sheet)
    parts, seen = [], 0
    for first, second in side_by_side(pair, programs, waiting=waiting):
        # One that cannot be decoded is no pair: each would be asked about some other image.
        kept = np.flatnonzero(~(first.replaced | second.replaced))
        probs = first.posterior.probs[kept], second.posterior.probs[kept]
        labels = first.labels[kept]
        parts.append(tuple(evaluation.outcomes(each, labels) for each in probs))
        with parallel.alone() as mine:
            if mine:
                places = seen + kept
                name = partial(_name, ours.source, places)
                disputes.add(*probs, labels, name, partial(_image, larger.source, places))
        seen += len(first.labels)
    with parallel.alone() as mine:
        if mine:
            of = {**images, "left_out_images": seen - disputes.total}
            _judge((ours.network, theirs.network), of, scores.join(parts), disputes, output)


def unlabelled(
    networks: tuple[Network, Network], paths: Sequence[Path], sheet: int, output: Path
) -> None:
    """Compares on images without labels: where the two disagree is shown, to judge by eye.

    Args:
      networks: of the run and its baseline, each with the sampler of its config.
      paths: of the images.
      sheet: how many of the most disputed images are shown.
      output: the folder for what is written.

    Raises:
      UserError: no image can be used.
    """
    predictors = [Predictor(each, trajectory=False) for each in networks]
    check_classes(predictors[0].class_names, predictors[1].class_names)
    larger = int(np.argmax([each.image_shape[0] for each in predictors]))
    found = Disputes(predictors[0].class_names, sheet)
    for chunk in pictures.chunks(predictors, paths):
        ours, theirs = (answer.probs for answer in chunk.answers)
        names = [printable(str(path)) for path in chunk.paths]
        found.add(ours, theirs, None, names.__getitem__, chunk.shown[larger].__getitem__)
    _write(found, _sides(networks), _described(networks), output)


def _judge(
    networks: tuple[Network, Network],
    images: Mapping[str, Any],
    results: tuple[evaluation.Outcomes, evaluation.Outcomes],
    disputes: Disputes,
    output: Path,
) -> None:
    """Tells which is better, and writes it with the images that divide the two."""
    differences = comparison.differences(*results)
    test = comparison.mcnemar(*results)
    summaries = [evaluation.summarize(each) for each in results]
    sides = _sides(networks).items()
    record: dict[str, Any] = {
        name: summary | side for summary, (name, side) in zip(summaries, sides, strict=True)
    }
    record |= images
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
    described = [*_described(networks), f"The data: {images['dataset']}{records.part(images)}."]
    if left_out := images["left_out_images"]:
        described.append(f"Left out: {counted(left_out, 'image')} that cannot be decoded.")
        print(described[-1])
    _write(disputes, record, described, output, _Judgement(table, said))


def _sides(networks: tuple[Network, Network]) -> dict[str, Any]:
    """Which run, checkpoint and sampler each of the two is, for the record."""
    return {
        name: sweep.describe(each.config) | {"workdir": each.name, "step": each.step}
        for name, each in zip(_NAMES, networks, strict=True)
    }


def _described(networks: tuple[Network, Network]) -> list[str]:
    """The same for the page, a sentence each."""
    return [
        f"The {name}: {each.name}, checkpoint of step {each.step:,}, by {sweep.label(each.config)} "
        f"with {counted(side['steps'], 'step')}."
        for (name, side), each in zip(_sides(networks).items(), networks, strict=True)
    ]


def _name(source: data.Source, places: np.ndarray, row: int) -> str:
    return source.name(int(places[row]))


def _image(source: data.Source, places: np.ndarray, row: int) -> np.ndarray:
    return source.batch(places[[row]])["image"][0]


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
    found: Disputes,
    record: dict[str, Any],
    described: Sequence[str],
    output: Path,
    judgement: _Judgement | None = None,
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
    files.write_csv(output / _TABLE, [header, *rows])
    files.write_json(output / _RECORD, record)
    print(
        f"the two name different classes for {found.differing:,} of {counted(found.total, 'image')}"
    )
    cards = found.cards()
    makers = {
        _SHEET: lambda path: plots.save(figures.sheet(cards, _NAMES), path),
        _PAGE: lambda path: _write_page(found, described, judgement, path),
    }
    drawn = [name for name, make in makers.items() if pictures.draw(output / name, make)]
    print(f"wrote {', '.join([_RECORD, _TABLE, *drawn])} in {printable(str(output))}")


def _write_page(
    found: Disputes, described: Sequence[str], judgement: _Judgement | None, path: Path
) -> None:
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
        described=described,
        judgement=judgement,
        cards=[(card, pages.picture(card.image)) for card in found.cards()],
        differ=pages.Table("Images on which the two disagree", header, rows),
    )
