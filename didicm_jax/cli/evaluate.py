"""`--mode=evaluate`: how good a run's posteriors are, in numbers and in pictures."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from tabulate import tabulate

from didicm_jax import evaluation, files, parallel, plots
from didicm_jax.cli import corrupted
from didicm_jax.cli.command_line import counted
from didicm_jax.cli.subject import Subject
from didicm_jax.errors import UserError
from didicm_jax.evaluation import classes
from didicm_jax.evaluation.loop import Predictions
from didicm_jax.inference import posterior, sweep
from didicm_jax.plots import evaluation as figures
from didicm_jax.run import journal

# Coverages at which the selective accuracy is given as a number.
_COVERAGES = (0.5, 0.8, 0.9)
_WORST = 5
_PAIRS = 20


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
    predictions: Predictions
    outcomes: evaluation.Outcomes
    record: dict[str, Any]


def run(
    subject: Subject,
    configs: Sequence[ml_collections.ConfigDict],
    requests: Requests,
    output: Path,
    proceed: Callable[[], bool],
) -> None:
    """Evaluates with each sampler; writes the files and prints the tables on the first process.

    The last sampler is the one that everything but the comparison of samplers is about.

    Raises:
      UserError: the ReaL labels are not of these images, or the posteriors are not finite.
    """
    real = _real_labels(requests.real_labels, subject)
    replaced = subject.source.replaced
    scored = []
    for number, config in enumerate(configs):
        keep = requests.trajectories and number == len(configs) - 1
        predictions = subject.ask(config, proceed, trajectory=keep)(subject.source)
        with parallel.alone() as mine:
            if mine:
                scored.append(_score(config, predictions, real))
                if len(configs) > 1:  # a whole list may take long
                    print(f"{_name(scored[-1])}: {journal.summary(scored[-1].record)}", flush=True)
    corruptions = corrupted.evaluate(
        subject,
        configs[-1],
        requests.baseline,
        requests.corruptions,
        requests.severities,
        proceed,
    )
    with parallel.alone() as mine:
        if mine:
            _report(subject, scored, corruptions, replaced, output)


def _report(
    subject: Subject,
    scored: Sequence[Scored],
    corruptions: corrupted.Found | None,
    replaced: int,
    output: Path,
) -> None:
    last = scored[-1]
    result = last.record | {
        "step": subject.network.step,
        "dataset": subject.dataset_name,
        "replaced_images": subject.source.replaced - replaced,
        "samplers": [each.record for each in scored],
        "classes": _class_summary(last.predictions, subject.class_names),
    }
    if corruptions is not None:
        result["corruptions"] = corruptions.record
    print(_table(scored))
    print(_class_table(result["classes"]))
    output.mkdir(parents=True, exist_ok=True)
    written = _draw(scored, subject, corruptions, output)
    written += _tables_of_classes(last.predictions, subject.class_names, output)
    written.append(_write_predictions(last.predictions, subject, output / "predictions.npz"))
    files.write_json(output / "evaluation.json", result)
    print(f"wrote evaluation.json, {', '.join(path.name for path in written)} in {output}")


def _name(scored: Scored) -> str:
    return f"{sweep.label(scored.config)}, {counted(scored.record['steps'], 'step')}"


def _score(
    config: ml_collections.ConfigDict, predictions: Predictions, real: list[set[int]] | None
) -> Scored:
    probs = predictions.answer.probs
    results = evaluation.outcomes(probs, predictions.labels)
    curve = evaluation.selective(results)
    total = len(results.correct1)
    record: dict[str, Any] = evaluation.summarize(results) | posterior.describe(config)
    record["intervals"] = evaluation.intervals(results)
    record["selective_accuracy"] = {
        str(share): float(curve.accuracy[max(1, round(share * total)) - 1]) for share in _COVERAGES
    }
    if predictions.answer.steps_used is not None:
        record["mean_steps_used"] = float(np.mean(predictions.answer.steps_used))
    if real is not None:
        predicted = np.argmax(probs, axis=1)
        right = [predicted[i] in labels for i, labels in enumerate(real) if labels]
        record["top1_real"] = float(np.mean(right))
        record["num_examples_real"] = len(right)
    return Scored(config, predictions, results, record)


def _real_labels(path: Path | None, subject: Subject) -> list[set[int]] | None:
    """The ReaL labels of each example (Beyer et al. 2020, arXiv 2006.07159).

    The file has a list of labels for each of the 50,000 validation images, in the order of their
    numbers; an empty one leaves the image out.
    """
    if path is None:
        return None
    try:
        lists = json.loads(path.read_text())
        if not all(isinstance(label, int) for labels in lists for label in labels):
            raise ValueError("entries that are no lists of labels")
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"--real_labels: expected the file real.json, lists of labels, found {error}; check "
            "the path"
        ) from error
    labels = []
    for index in range(len(subject.source)):
        name = subject.source.name(index)
        match = re.search(r"ILSVRC2012_val_(\d{8})", name)
        if match is None or not 1 <= int(match[1]) <= len(lists):
            raise UserError(
                f"--real_labels: expected ImageNet's validation images, one list each, found an "
                f"image called {name} and {len(lists)} lists; leave it out for other data"
            )
        labels.append(set(lists[int(match[1]) - 1]))
    return labels


def _table(scored: Sequence[Scored]) -> str:
    headers = ["sampler", "steps", "top-1 % [95 %]", "top-5 %", "NLL [95 %]", "Brier"]
    headers += ["ECE [95 %]", "ECE, equal mass", "entropy"]
    has_real = "top1_real" in scored[0].record
    rows = []
    for each in scored:
        record = each.record

        def ranged(key: str, scale: float, digits: int, record: dict[str, Any] = record) -> str:
            low, high = (f"{scale * end:.{digits}f}" for end in record["intervals"][key])
            return f"{scale * record[key]:.{digits}f} [{low}, {high}]"

        row = [sweep.label(each.config), record["steps"], ranged("top1", 100, 2)]
        row += [f"{100 * record['top5']:.2f}", ranged("nll", 1, 4), f"{record['brier']:.4f}"]
        row += [ranged("ece", 1, 4), f"{record['ece_equal_mass']:.4f}", f"{record['entropy']:.3f}"]
        if has_real:
            row.append(f"{100 * record['top1_real']:.2f}")
        rows.append(row)
    if has_real:
        headers.append("ReaL top-1 %")
    return tabulate(rows, headers, disable_numparse=True)


def _class_summary(predictions: Predictions, names: Sequence[str]) -> dict[str, Any]:
    """Best, worst and most confused classes; the whole tables are in the CSV files."""
    found = classes.per_class(predictions.answer.probs, predictions.labels)
    order = [int(k) for k in np.argsort(found.accuracy, kind="stable") if found.examples[k]]
    confused = classes.confusions(predictions.answer.probs, predictions.labels, top=_WORST)
    accuracies = found.accuracy[order]
    return {
        "accuracy_of_best": float(accuracies[-1]),
        "accuracy_of_worst": float(accuracies[0]),
        "worst": [
            {
                "class": names[k],
                "count": int(found.examples[k]),
                "accuracy": float(found.accuracy[k]),
                "confidence": float(found.confidence[k]),
                "bias": float(found.bias[k]),
            }
            for k in order[:_WORST]
        ],
        "most_confused": [
            {"classes": [names[a], names[b]], "errors": int(errors), "mass": float(mass)}
            for (a, b), errors, mass in zip(*confused, strict=True)
        ],
    }


def _class_table(summary: dict[str, Any]) -> str:
    worst = [
        [each["class"], each["count"], *(f"{100 * each[key]:.1f}" for key in keys)]
        for keys in [("accuracy", "confidence", "bias")]
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


def _draw(
    scored: Sequence[Scored],
    subject: Subject,
    corruptions: corrupted.Found | None,
    output: Path,
) -> list[Path]:
    last = scored[-1]
    curves: dict[str, list[dict[str, Any]]] = {}
    for each in scored:
        curves.setdefault(sweep.label(each.config), []).append(each.record)
    per_class = classes.per_class(last.predictions.answer.probs, last.predictions.labels)
    drawn = {
        "steps.png": figures.steps(curves),
        "reliability.png": figures.reliability(
            evaluation.reliability(last.outcomes), last.record["ece"], _name(last)
        ),
        "selective.png": figures.selective(
            {_name(each): evaluation.selective(each.outcomes) for each in scored}
        ),
        "classes.png": figures.classes(per_class, subject.class_names),
    }
    if corruptions is not None:
        drawn["corruptions.png"] = figures.corruptions(corruptions.accuracies)
    for file, figure in drawn.items():
        plots.save(figure, output / file)
    return [output / file for file in drawn]


def _tables_of_classes(predictions: Predictions, names: Sequence[str], output: Path) -> list[Path]:
    found = classes.per_class(predictions.answer.probs, predictions.labels)
    confused = classes.confusions(predictions.answer.probs, predictions.labels, top=_PAIRS)
    first = [["class", *found._fields]]
    first += [[names[k], *(column[k] for column in found)] for k in range(len(names))]
    second: list[list[Any]] = [["class", "other", "errors", "mass"]]
    second += [
        [names[a], names[b], errors, mass] for (a, b), errors, mass in zip(*confused, strict=True)
    ]
    paths = [output / "classes.csv", output / "confusions.csv"]
    for path, rows in zip(paths, (first, second), strict=True):
        files.write_csv(path, rows)
    return paths


def _write_predictions(predictions: Predictions, subject: Subject, path: Path) -> Path:
    """`probs` f32[N,K], `labels` i32[N], `ids` str[N], `class_names`, and `trajectory` if kept."""
    ids = [subject.source.name(index) for index in range(len(subject.source))]
    arrays = {
        "probs": predictions.answer.probs,
        "labels": predictions.labels,
        "ids": np.array(ids),
        "class_names": np.array(subject.class_names),
    }
    for key in ("trajectory", "steps_used"):
        value = getattr(predictions.answer, key)
        if value is not None:
            arrays[key] = value
    files.write_whole(path, lambda file: np.savez_compressed(file, **arrays))
    return path
