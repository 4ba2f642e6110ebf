"""What divides two networks, image by image, as their posteriors come.

Shapes: n images at a time, K classes.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from didicm_jax.evaluation import comparison
from didicm_jax.plots.prediction import Card

_CLASSES_SHOWN = 3


class Disputed(NamedTuple):
    """An image that the two call by other names."""

    distance: float  # the total variation between their posteriors
    place: int  # among all images
    name: str
    label: str | None
    classes: tuple[str, str]  # what the first says, and the second


class Disputes:
    """All images that two networks call by other names, and cards of the most disputed ones.

    Nothing else is kept of posteriors and pixels, so their number is not limited by memory.
    """

    def __init__(self, class_names: Sequence[str], cards: int) -> None:
        """Takes the names of the K classes, and how many images to keep as cards."""
        self._class_names, self._limit = class_names, cards
        self._differ: list[Disputed] = []
        # Distance and place, the most disputed first.
        self._cards: list[tuple[float, int, Card]] = []
        self._sum = 0.0
        self.total = 0

    @property
    def mean(self) -> float:
        """The mean total variation between the posteriors."""
        return self._sum / self.total

    @property
    def differing(self) -> int:
        """How many images the two call by other names."""
        return len(self._differ)

    def differ(self) -> list[Disputed]:
        """These images, the most disputed first; of equally disputed ones the first."""
        return sorted(self._differ, key=lambda each: (-each.distance, each.place))

    def cards(self) -> list[Card]:
        """The most disputed images, whatever the two call them, in the same order."""
        return [card for _, _, card in self._cards]

    def add(
        self,
        ours: np.ndarray,
        theirs: np.ndarray,
        labels: np.ndarray | None,
        name: Callable[[int], str],
        image: Callable[[int], np.ndarray],
    ) -> None:
        """Takes the next n images.

        Args:
          ours: posteriors f32[n, K] of the first network.
          theirs: of the second.
          labels: i32[n], where they are known.
          name: of a row 0..n-1; asked for where it is needed, as it may cost reading a record.
          image: u8[H, W, C] of a row.
        """
        names = self._class_names
        distance = comparison.discrepancy(ours, theirs)
        first, second = np.argmax(ours, axis=1), np.argmax(theirs, axis=1)
        label = [None] * len(ours) if labels is None else [names[k] for k in labels]
        for row in np.flatnonzero(first != second).tolist():
            said = names[first[row]], names[second[row]]
            place = self.total + row
            self._differ.append(Disputed(float(distance[row]), place, name(row), label[row], said))
        full = len(self._cards) == self._limit
        least = self._cards[-1][0] if full else -1.0
        for row in np.argsort(-distance, kind="stable")[: self._limit].tolist():
            if distance[row] <= least:
                break  # nor can those that follow be among the most disputed
            # A copy: the image may be one row of a large array.
            bars = self._bars(ours[row], theirs[row])
            card = Card(Path(name(row)).name, image(row).copy(), label[row], bars)
            self._cards.append((float(distance[row]), self.total + row, card))
        self._cards = sorted(self._cards, key=lambda each: (-each[0], each[1]))[: self._limit]
        self._sum += float(distance.sum())
        self.total += len(ours)

    def _bars(self, ours: np.ndarray, theirs: np.ndarray) -> list[tuple[str, float, float]]:
        top = np.argsort(-np.maximum(ours, theirs), kind="stable")[:_CLASSES_SHOWN]
        return [(self._class_names[k], float(ours[k]), float(theirs[k])) for k in top]
