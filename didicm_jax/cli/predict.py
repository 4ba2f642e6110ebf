"""`--mode=predict`: a user's own images, their posteriors, and how they came about."""

import codecs
import csv
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from tabulate import tabulate

from didicm_jax import files, plots
from didicm_jax.cli import pictures
from didicm_jax.cli.command_line import counted, printable
from didicm_jax.inference.predictor import Prediction, Predictor
from didicm_jax.plots import prediction as figures

FIGURES = "prediction_figures"
TABLES = ("predictions.csv", "predictions.json")
_FIGURE = re.compile(r"\d{4,}-.*\.(png|gif)", re.DOTALL)
_CLASSES_LISTED = 5
_ROWS_PRINTED = 30
_NAME_PRINTED = 60
# Of a name, so that it and what is put around it stay within the 255 that file systems allow.
_STEM_BYTES = 200


def run(
    predictor: Predictor, paths: Sequence[Path], output: Path, *, gif: bool, max_figures: int
) -> None:
    """Predicts images, writes tables and figures, and prints the first rows.

    The tables are whole before the first figure is drawn, and nothing but the first rows and one
    chunk of images is in memory, so the images that are drawn are predicted once more.

    Args:
      predictor: with trajectories, where its sampler has them.
      paths: the files.
      output: the folder for what is written.
      gif: also an animation of each figure.
      max_figures: at most so many.

    Raises:
      UserError: none of the files is an image.
    """
    tables = _Tables(predictor, paths, max(max_figures, _ROWS_PRINTED))
    output.mkdir(parents=True, exist_ok=True)
    files.write_whole(
        output / TABLES[0],
        lambda table: files.write_whole(
            output / TABLES[1], lambda objects: tables.write(table, objects)
        ),
    )
    _print(tables.first[:_ROWS_PRINTED], tables.total)
    chosen = [Path(record["file"]) for record in tables.first[:max_figures]]
    drawn = _draw(predictor, chosen, output / FIGURES, gif=gif)
    rest = ""
    if len(chosen) < tables.total:
        rest = f" of the first of {counted(tables.total, 'image')}: --max_figures"
    print(
        f"\nwrote {', '.join(TABLES)} and {FIGURES} ({counted(drawn, 'figure')}{rest}) in "
        f"{printable(str(output))}"
    )


class _Tables:
    """The predictions on their way to two files.

    Raises:
      UserError: none of the files is an image, so that there is nothing to write.
    """

    def __init__(self, predictor: Predictor, paths: Sequence[Path], kept: int) -> None:
        self._names, self._kept = predictor.class_names, kept
        self._chunks = pictures.chunks([predictor], paths)
        self._made = [next(self._chunks)]
        self.total = 0
        self.first: list[dict[str, Any]] = []  # records without their posteriors

    def write(self, table: IO[bytes], objects: IO[bytes]) -> None:
        """Writes a CSV with a row, and a JSON list with an object, for each image."""
        names = self._names
        rows = csv.writer(codecs.getwriter("utf-8")(table), lineterminator="\n")
        rows.writerow(["file", "class", *names])
        for chunk in self._all():
            (answer,) = chunk.answers
            for row, path in enumerate(chunk.paths):
                record = _record(path, answer, row, names)
                posterior = answer.probs[row].tolist()
                rows.writerow([printable(str(path)), answer.classes[row], *posterior])
                text = textwrap.indent(json.dumps(record, indent=2), "  ")
                objects.write((",\n" if self.total else "[\n").encode() + text.encode())
                self.total += 1
                if len(self.first) < self._kept:
                    self.first.append(record)
        objects.write(b"\n]\n")

    def _all(self) -> Iterator[pictures.Chunk]:
        while self._made:
            yield self._made.pop()  # so that it is not in memory beside those after it
        yield from self._chunks


def _record(path: Path, answer: Prediction, row: int, names: Sequence[str]) -> dict[str, Any]:
    probs = answer.probs[row]
    top = np.argsort(-probs, kind="stable")[:_CLASSES_LISTED]
    record: dict[str, Any] = {
        "file": str(path),
        "class": answer.classes[row],
        "probability": float(probs[answer.labels[row]]),
        "top": [{"class": names[k], "probability": float(probs[k])} for k in top],
    }
    if answer.steps_used is not None:
        record["steps_used"] = int(answer.steps_used[row])
    return record


def _draw(predictor: Predictor, paths: Sequence[Path], folder: Path, *, gif: bool) -> int:
    """A figure for each image, and how many there are in the end; those of before go."""
    number = drawn = 0
    found = files.tree(folder) if folder.exists() else []
    # By their names: what someone keeps among them stays.
    old = {p.name: p for p in found if p.parent == folder and _FIGURE.fullmatch(p.name)}
    if paths:
        folder.mkdir(exist_ok=True)
    for chunk in pictures.chunks([predictor], paths) if paths else ():
        (answer,), (shown,) = chunk.answers, chunk.shown
        for row, path in enumerate(chunk.paths):
            number += 1
            way = None if answer.trajectory is None else answer.trajectory[row]
            story = figures.Story(
                printable(path.name), shown[row], predictor.class_names, answer.probs[row], way
            )
            stem = f"{number:04d}-{_stem(path)}"
            new = {f"{stem}.png": partial(_save, story)}
            if gif:
                new[f"{stem}.gif"] = partial(figures.animate, story)
            for name, write in new.items():
                if pictures.draw(folder / name, write):
                    old.pop(name, None)
                    drawn += name.endswith(".png")
    for path in old.values():
        path.unlink()
    return drawn


def _save(story: figures.Story, path: Path) -> None:
    plots.save(figures.refinement(story), path)


def _stem(path: Path) -> str:
    """The name without its suffix, in as many bytes of UTF-8 as a figure's name has room for."""
    name = "".join(c if c.isprintable() else "_" for c in path.stem)
    return name.encode()[:_STEM_BYTES].decode(errors="ignore")


def _end(name: str) -> str:
    """The end of a long name, which tells files apart better than its beginning."""
    return name if len(name) <= _NAME_PRINTED else "…" + name[1 - _NAME_PRINTED :]


def _print(records: Sequence[dict[str, Any]], total: int) -> None:
    rows = [
        [
            _end(printable(record["file"])),
            record["class"],
            f"{100 * record['probability']:.1f}",
            ", ".join(
                f"{each['class']} {100 * each['probability']:.1f}" for each in record["top"][1:3]
            ),
        ]
        for record in records
    ]
    headers = ["file", "class", "probability %", "then"]
    print(tabulate(rows, headers, disable_numparse=True))
    if total > len(records):
        print(f"... and {total - len(records):,} more in predictions.csv")
