"""The ReaL labels of ImageNet's validation images (Beyer et al. 2020, arXiv 2006.07159)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from didicm_jax import data
from didicm_jax.errors import UserError


def read(path: Path, source: data.Source, num_classes: int) -> list[frozenset[int]]:
    """The labels that are right for each example of `source`; none for those to be left out.

    Args:
      path: the file `real.json`: a list of labels for each of the 50,000 validation images, in the
        order of their numbers.
      source: those images, or some of them, by the names of their files.
      num_classes: K of the network: the file's labels are numbers of its classes.

    Raises:
      UserError: it is another file, or these are other images or classes, or none has a label.
    """
    lists = _lists(path)
    highest = max((label for labels in lists for label in labels), default=0)
    if highest >= num_classes:
        raise UserError(
            f"expected labels of {num_classes} classes, those of the run, found label {highest}; "
            "leave it out for other classes than ImageNet's",
            about="real_labels",
        )
    labels = []
    for index in range(len(source)):
        name = source.name(index)
        match = re.search(r"ILSVRC2012_val_(\d{8})", name)
        if match is None or not 1 <= int(match[1]) <= len(lists):
            raise UserError(
                f"expected ImageNet's validation images, one list each, found an image called "
                f"{name} and {len(lists)} lists; leave it out for other data",
                about="real_labels",
            )
        labels.append(frozenset(lists[int(match[1]) - 1]))
    if not any(labels):
        raise UserError(
            f"expected labels for some of the {len(labels)} images, found none; evaluate on more",
            about="real_labels",
        )
    return labels


def accuracy(predicted: np.ndarray, labels: Sequence[frozenset[int]]) -> dict[str, float]:
    """The share of the predicted classes i32[N] that are right, and of how many examples."""
    right = [
        int(chosen) in allowed for chosen, allowed in zip(predicted, labels, strict=True) if allowed
    ]
    return {"top1_real": float(np.mean(right)), "num_examples_real": len(right)}


def _lists(path: Path) -> list[list[int]]:
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        kinds = {type(each) for each in (lists, *lists)}, {type(k) for each in lists for k in each}
        if kinds[0] != {list} or not kinds[1] <= {int}:
            raise ValueError("entries that are no lists of labels")
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(
            f"expected the file real.json, lists of labels, found {error}; check the path",
            about="real_labels",
        ) from error
    return lists
