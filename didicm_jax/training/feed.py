"""Batches on their way to the devices, and how long the devices waited for them."""

import time
from typing import Any

import jax
from jax.sharding import Mesh

from didicm_jax import data, parallel


class Feed:
    """Takes batches from a source one step ahead of need.

    While the devices work on a step, the next batch is fetched and its transfer started. `waited`
    sums the seconds in which a batch was fetched and the devices were found idle at the end of it:
    an upper bound of the time that they waited for data.
    """

    def __init__(
        self,
        source: data.Source,
        mesh: Mesh,
        *,
        batch_size: int,
        seed: int,
        repeats: int,
        step: int,
    ) -> None:
        """Starts at this process's share of the batch of step `step`, counted from 0."""
        self.waited = 0.0
        self._mesh, self._source = mesh, source
        self._batches = data.train_batches(
            source,
            batch_size=batch_size,
            seed=seed,
            start_step=step,
            repeats=repeats,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    @property
    def replaced(self) -> int:
        """How many different images this process found broken; others were used instead."""
        return self._source.replaced

    def take(self, running: Any = None) -> dict[str, jax.Array]:
        """The next batch: `image` u8[B,H,W,C], `label` i32[B] and `index` i32[B], on the devices.

        Args:
          running: results of the step that the devices are working on, if they are.
        """
        started = time.monotonic()
        batch = next(self._batches)
        if running is not None and all(x.is_ready() for x in jax.tree.leaves(running)):
            self.waited += time.monotonic() - started
        return parallel.shard({key: batch[key] for key in ("image", "label", "index")}, self._mesh)

    def close(self) -> None:
        """Ends the threads that make batches."""
        self._batches.close()


class Pace:
    """Throughput since the last report, with evaluation left out, and what saving takes of it."""

    def __init__(self, feed: Feed, batch_size: int) -> None:
        """Starts counting; `steps` is for the caller to count up."""
        self._feed, self._batch_size = feed, batch_size
        self.restart()

    def restart(self) -> None:
        """Starts again from nothing."""
        self.steps, self._since, self._waited = 0, time.monotonic(), self._feed.waited
        self._saving = 0.0

    def saved(self, seconds: float) -> None:
        """Tells how long the steps waited for a save to start."""
        self._saving += seconds

    def record(self) -> dict[str, float]:
        """Throughput, and the shares of the time that batches and saves were waited for."""
        elapsed = time.monotonic() - self._since
        record = {
            "images_per_second": self.steps * self._batch_size / elapsed,
            "data_wait": (self._feed.waited - self._waited) / elapsed,
            "save_wait": self._saving / elapsed,
        }
        self.restart()
        return record
