"""Progress of long work over many items, on a terminal and in a log."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def show_progress(items: Iterable[Item], *, total: int, what: str) -> Iterator[Item]:
    """Passes `items` on and tells stderr how many of the `total` are through.

    A bar on a terminal, and a plain line at each tenth elsewhere, so that a log stays readable.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit="", smoothing=0.05)
        return
    tenths = 0
    for count, item in enumerate(items, start=1):
        if count * 10 // total > tenths:
            tenths = count * 10 // total
            print(f"{what}: {count:,} of {total:,}", file=sys.stderr, flush=True)
        yield item
