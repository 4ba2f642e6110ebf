"""`--mode=compare`: two runs on the same images, paired, and the images that divide them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from tabulate import tabulate

from didicm_jax import evaluation, files, parallel, plots
from didicm_jax.cli import pictures
from didicm_jax.evaluation import comparison, loop, scores
from didicm_jax.evaluation.subject import Subject, check_classes, check_comparable
from didicm_jax.inference import posterior
from didicm_jax.inference.predictor import Predictor
from didicm_jax.plots import prediction as figures

_CLASSES_SHOWN = 3
# In tables and pictures.
_NAMES = ("run", "baseline")


class Pair(NamedTuple):
    """Two runs and how each is sampled."""

    subjects: tuple[Subject, Subject]
    configs: tuple[ml_collections.ConfigDict, ml_collections.ConfigDict]


class _Disputed(NamedTuple):
    """N images that both runs have seen, and what each says."""

    ids: Sequence[str]
    probs: tuple[np.ndarray, np.ndarray]  # f32[N, K]
    labels: np.ndarray | None  # i32[N]
    pixels: Callable[[np.ndarray], np.ndarray]  # indices to u8[n, H, W, C]
    class_names: Sequence[str]


def labelled(pair: Pair, sheet: int, output: Path, waiting: loop.Waiting) -> None:
    """Compares on a labelled data set, and says which of the two is better.

    Raises:
      UserError: the two data sets hold other images.
    """
    ours, theirs = pair.subjects
    check_comparable(ours, theirs)
    found: list[loop.Rows] = []
    for subject, config in zip(*pair, strict=True):
        rows = subject.batches(subject.program(config), lambda rows: rows, waiting=waiting)
        found.append(scores.join(rows))
    if not parallel.is_main():
        return
    results = [evaluation.outcomes(each.posterior.probs, each.labels) for each in found]
    differences = comparison.differences(*results)
    test = comparison.mcnemar(*results)
    summaries = [evaluation.summarize(each) for each in results]
    record: dict[str, Any] = {
        name: summary | posterior.describe(config) | {"workdir": subject.folder.name}
        for name, summary, config, subject in zip(
            _NAMES, summaries, pair.configs, pair.subjects, strict=True
        )
    }
    record["difference"] = {name: value._asdict() for name, value in differences.items()}
    record["mcnemar"] = test._asdict()
    print(_table(summaries, differences))
    better = "the run" if test.only_ours > test.only_theirs else "the baseline"
    verdict = (
        f"{better} is right more often" if test.p_value < 0.05 else "no difference beyond chance"
    )
    print(
        f"\nMcNemar: {test.only_ours} right by the run alone, {test.only_theirs} by the baseline "
        f"alone, p = {test.p_value:.3g}: {verdict} (at 5 %)\n"
    )
    larger = max(pair.subjects, key=lambda subject: subject.network.description.image_shape[0])
    disputed = _Disputed(
        # Read where they are shown: a name may cost a record.
        _Names(ours),
        (found[0].posterior.probs, found[1].posterior.probs),
        found[0].labels,
        lambda indices: larger.source.batch(indices)["image"],
        ours.class_names,
    )
    _write(disputed, record, sheet, output)


def unlabelled(
    predictors: tuple[Predictor, Predictor], paths: Sequence[Path], sheet: int, output: Path
) -> None:
    """Compares on images without labels: where the two disagree is shown, to judge by eye.

    Raises:
      UserError: no image can be used.
    """
    check_classes(predictors[0].class_names, predictors[1].class_names)
    usable, shown, probs = pictures.predict_all(predictors, paths)
    chosen = [int(p.image_shape[0]) for p in predictors]
    pixels = shown[int(np.argmax(chosen))]
    disputed = _Disputed(
        [str(path) for path in usable],
        (probs[0], probs[1]),
        None,
        lambda indices: pixels[indices],
        predictors[0].class_names,
    )
    _write(disputed, {}, sheet, output)


class _Names(Sequence[str]):
    """The names of a source's examples, read when asked for."""

    def __init__(self, subject: Subject) -> None:
        self._source = subject.source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        return self._source.name(int(index))


def _table(summaries: Sequence[dict], differences: dict[str, comparison.Difference]) -> str:
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
    return tabulate(rows, ["", *_NAMES, "difference", "95 %"], disable_numparse=True)


def _write(disputed: _Disputed, record: dict[str, Any], sheet: int, output: Path) -> None:
    """The table of the images on which the two disagree, and the sheet of the most disputed."""
    distance = comparison.discrepancy(*disputed.probs)
    predicted = [np.argmax(each, axis=1) for each in disputed.probs]
    order = np.argsort(-distance, kind="stable")
    differ = [int(i) for i in order if predicted[0][i] != predicted[1][i]]
    names, labels = disputed.class_names, disputed.labels
    header = ["id", "label", *_NAMES, "total_variation"]
    rows = [
        [
            disputed.ids[i],
            "" if labels is None else names[labels[i]],
            *(names[each[i]] for each in predicted),
            f"{distance[i]:.6f}",
        ]
        for i in differ
    ]
    output.mkdir(parents=True, exist_ok=True)
    record |= {
        "num_images": len(distance),
        "num_disagreements": len(differ),
        "mean_total_variation": float(distance.mean()),
    }
    files.write_csv(output / "disagreements.csv", [header, *rows])
    chosen = order[:sheet]
    cards = [
        _card(disputed, int(i), pixels)
        for i, pixels in zip(chosen, disputed.pixels(chosen), strict=True)
    ]
    plots.save(figures.sheet(cards, _NAMES), output / "disagreements.png")
    files.write_json(output / "comparison.json", record)
    print(
        f"the two name different classes for {len(differ):,} of {len(distance):,} images\n"
        f"wrote comparison.json, disagreements.csv, disagreements.png in {output}"
    )


def _card(disputed: _Disputed, index: int, pixels: np.ndarray) -> figures.Card:
    ours, theirs = (each[index] for each in disputed.probs)
    top = np.argsort(-np.maximum(ours, theirs), kind="stable")[:_CLASSES_SHOWN]
    label = None if disputed.labels is None else disputed.class_names[disputed.labels[index]]
    return figures.Card(
        title=Path(disputed.ids[index]).name,
        image=pixels,
        label=label,
        bars=[(disputed.class_names[k], float(ours[k]), float(theirs[k])) for k in top],
    )
