"""`evaluation.html`: what an evaluation found, on one page, with the images behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from didicm_jax import pages
from didicm_jax.evaluation import classes
from didicm_jax.evaluation import record as records
from didicm_jax.evaluation.notable import Notable
from didicm_jax.evaluation.scores import Scores
from didicm_jax.evaluation.subject import Subject

# What the figures show, for who cannot see them.
_ALT = {
    "steps.png": "Top-1 accuracy and negative log-likelihood of each sampler against its steps, "
    "with 95 % intervals; the numbers are in the table of samplers.",
    "reliability.png": "Reliability diagram: accuracy against confidence in bins, and how many "
    "images have each confidence.",
    "selective.png": "Accuracy on the most confident share of the images, against that share.",
    "classes.png": "Accuracy and confidence of each class, from the worst to the best; the numbers "
    "are in the table of classes.",
    "corruptions.png": "Top-1 accuracy against the severity of each corruption.",
}


class Found(NamedTuple):
    """What is on the disk when the page is made."""

    record: dict[str, Any]  # what `evaluation.json` holds
    samplers: pages.Table
    last: str  # the name of the last sampler
    corruptions: pages.Table | None
    files: list[str]  # all that were written


class Card(NamedTuple):
    """An image and what the network says of it."""

    picture: pages.Picture
    title: str
    label: str  # the true class
    said: str  # the most probable class
    confidence: float  # its probability
    mass: float  # the probability of the true class
    right: bool
    real: str  # the classes that are right by the ReaL labels; "" without those
    refinement: pages.Refinement


def places(shown: Notable) -> np.ndarray:
    """Of the examples with a posterior on the page, i64[M], ascending, each once."""
    return np.union1d(shown.mistakes, shown.uncertain)


def write(
    subject: Subject,
    scores: Scores,
    found: Found,
    shown: Notable,
    trajectories: np.ndarray | None,
    real: Sequence[frozenset[int]] | None,
    path: Path,
) -> None:
    """Writes the page.

    Args:
      subject: the network and its N examples; the images that are shown are read again.
      scores: of the last sampler.
      found: by the evaluation; the figures among its files lie beside the page.
      shown: which examples, from `notable.choose`.
      trajectories: f32[M, S + 1, K] of the examples at `places(shown)`; None without any.
      real: from `real_labels.read`; None without.
      path: of the page.
    """
    names = subject.class_names
    ways = {} if trajectories is None else dict(zip(places(shown), trajectories, strict=True))

    def cards(chosen: np.ndarray) -> list[Card]:
        return [_card(subject, scores, int(place), ways, real) for place in chosen]

    pages.write(
        path,
        "evaluation.html",
        title=f"Evaluation of {subject.network.name}",
        record=found.record,
        part=records.part(found.record),
        samplers=found.samplers,
        last=found.last,
        corruptions=found.corruptions,
        figures=[
            pages.figure(path.with_name(name), _ALT.get(name, name))
            for name in found.files
            if name.endswith(".png")
        ],
        classes=_class_table(scores, names),
        confused=[
            {
                "classes": [names[k] for k in pair.classes],
                "errors": pair.errors,
                "mass": pair.mass,
                "cards": cards(pair.examples),
            }
            for pair in shown.confused
        ],
        mistakes=cards(shown.mistakes),
        uncertain=cards(shown.uncertain),
    )


def _card(
    subject: Subject,
    scores: Scores,
    place: int,
    ways: Mapping[int, np.ndarray],
    real: Sequence[frozenset[int]] | None,
) -> Card:
    names, way = subject.class_names, ways.get(place)
    if way is None:
        likely = [names[k] for k in scores.likely[place]]
        refined = pages.refinement(likely, scores.likely_mass[place])
    else:
        refined = pages.refinement(names, way[-1], way)
    label, said = int(scores.labels[place]), int(scores.predicted[place])
    return Card(
        picture=pages.picture(subject.source.batch(np.array([place]))["image"][0]),
        title=subject.source.name(place),
        label=names[label],
        said=names[said],
        confidence=float(scores.outcomes.confidence[place]),
        mass=float(scores.mass[place]),
        right=label == said,
        real="" if real is None else ", ".join(names[k] for k in sorted(real[place])) or "none",
        refinement=refined,
    )


def _class_table(scores: Scores, names: Sequence[str]) -> pages.Table:
    """All classes, those with the lowest accuracy first."""
    found = classes.per_class(scores, len(names))
    order = np.argsort(found.accuracy, kind="stable")  # what is not a number comes last

    def share(value: float, sign: str = "") -> pages.Cell:
        if np.isnan(value):
            return pages.Cell("", None)
        return pages.Cell(f"{100 * value:{sign}.1f}", float(value))

    rows: list[Sequence[str | pages.Cell]] = [
        [
            names[k],
            pages.Cell(f"{found.examples[k]:,}", int(found.examples[k])),
            share(found.accuracy[k]),
            share(found.confidence[k]),
            share(found.mass[k]),
            share(found.bias[k], "+"),
        ]
        for k in order
    ]
    header = ["class", "images", "accuracy %", "confidence %", "own class %", "bias %"]
    return pages.Table("Classes", header, rows, sorted_by=2)
