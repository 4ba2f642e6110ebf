"""The order of the examples and the batches made of them.

The order is a pure function of (seed, step): batch n of training holds the positions n·B to
(n+1)·B - 1 of an endless sequence of shuffled epochs, so any batch can be asked for directly,
resuming saves nothing, and the batches do not depend on how many processes share them. What is
random about a row (its crop) is a pure function of (seed, position) in the same way.

Shapes: N examples in a source, B the global batch, P processes, b = B/P the share of one of them.
"""

import functools
import sys
from collections.abc import Callable

import grain
import numpy as np

from didicm_jax.data.draws import row_draws
from didicm_jax.data.source import Batch, Source, frozen_permutation
from didicm_jax.errors import UserError


def _positions(
    step: int, batch_size: int, repeats: int, process_index: int, process_count: int
) -> np.ndarray:
    """The places i64[b] in the endless sequence that this process's rows have."""
    share = _share(batch_size, process_index, process_count)
    if repeats < 1:
        raise UserError(
            f"expected 1 or more repeats of each image, found {repeats}: give 1 or more"
        )
    rows = np.concatenate([np.arange(copy, batch_size, repeats) for copy in range(repeats)])
    return step * batch_size + rows[process_index * share : (process_index + 1) * share]


def _indices(num_examples: int, positions: np.ndarray, seed: int, repeats: int) -> np.ndarray:
    # One permutation per epoch, kept while it is in use: 100 times faster than Grain's shuffle,
    # which computes each index by itself, and 40 ms per epoch for the 1.28 M images of ImageNet.
    epochs, places = np.divmod(positions // repeats, -(-num_examples // repeats))
    indices = np.empty(len(positions), np.int64)
    for epoch in range(int(epochs.min()), int(epochs.max()) + 1):
        rows = epochs == epoch
        indices[rows] = _epoch_order(num_examples, seed, epoch)[places[rows]]
    return indices


def train_batch(
    source: Source,
    *,
    step: int,
    batch_size: int,
    seed: int,
    repeats: int = 1,
    process_index: int = 0,
    process_count: int = 1,
) -> Batch:
    """This process's share of training batch `step`, computed without any other batch.

    Each epoch is a fresh permutation; a batch runs on into the next epoch where one ends, so no
    example is dropped. The share is the contiguous rows [process_index·b, (process_index+1)·b).

    With `repeats` above 1, each example is in `repeats` consecutive positions, and an epoch, still
    of about N positions, is the first ceil(N / repeats) of its permutation (Hoffer et al. 2019; as
    timm's RepeatAugSampler). A batch that `repeats` divides holds all copies of its examples. They
    stand B / repeats rows apart in it, so that they go to different processes and devices where
    these have fewer rows. What mixes images must tell copies by their index.

    Returns:
      `image` u8[b,H,W,C], `label` i32[b], and `index` i64[b], the place of each in `source`.

    Raises:
      UserError: fewer examples than a batch, or a batch that the processes do not divide.
    """
    _check_train(len(source), batch_size, seed, process_count)
    positions = _positions(step, batch_size, repeats, process_index, process_count)
    indices = _indices(len(source), positions, seed, repeats)
    return {**source.batch(indices, row_draws(seed, positions)), "index": indices}


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    repeats: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 4,
) -> grain.DatasetIterator[Batch]:
    """Training batches start_step, start_step + 1, … without end, as `train_batch` gives them.

    They are made ahead of need by background threads. `.close()` ends these at once; an iterator
    that is merely dropped ends them when it is collected.

    Args:
      source: the training examples.
      batch_size: the global batch B.
      seed: of the order, and of what is random about each row.
      start_step: the first batch; any costs the same.
      repeats: how many rows of a batch show the same example (see `train_batch`).
      process_index: which share of each batch to give, 0..P-1.
      process_count: the number of shares P.
      num_threads: threads that make batches, each a whole one; 0 makes them when asked for.
      prefetch: how many finished batches to hold ready.

    Raises:
      UserError: fewer examples than a batch, or a batch that the processes do not divide; here,
        not at the first batch.
    """
    _check_train(len(source), batch_size, seed, process_count)
    _positions(start_step, batch_size, repeats, process_index, process_count)

    def make(step: int) -> Batch:
        return train_batch(
            source,
            step=step,
            batch_size=batch_size,
            seed=seed,
            repeats=repeats,
            process_index=process_index,
            process_count=process_count,
        )

    # Grain takes no endless range; this one outlasts any run.
    return _iterate(start_step, sys.maxsize, make, num_threads, prefetch)


def num_eval_batches(num_examples: int, batch_size: int) -> int:
    """How many batches `eval_batches` gives, on every process: ceil(N / B)."""
    return -(-num_examples // batch_size)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 4,
    only: np.ndarray | None = None,
) -> grain.DatasetIterator[Batch]:
    """Every example exactly once over all processes, in order, in batches of one shape.

    Every process gets `num_eval_batches` batches. The rows that fill up the last one repeat the
    last example, so that they are as harmless to a network as any image; `valid` tells them apart.

    Args:
      source: the N examples.
      batch_size: the global batch B.
      process_index: which share of each batch to give, 0..P-1.
      process_count: the number of shares P.
      num_threads: threads that make batches, each a whole one; 0 makes them when asked for.
      prefetch: how many finished batches to hold ready.
      only: the examples at these places i64[M], M > 0, in this order, in place of all N.

    Returns:
      An iterator of `image` u8[b,H,W,C], `label` i32[b], `index` i64[b], `valid` bool[b], and
      `replaced` bool[b]: the valid rows that show another image, as theirs cannot be decoded.
      Summed over all batches and processes these are the distinct broken examples of one pass.

    Raises:
      UserError: a batch below 1, or one that the processes do not divide.
    """
    chosen = np.arange(len(source)) if only is None else only
    total = len(chosen)
    share = _share(batch_size, process_index, process_count)

    def make(step: int) -> Batch:
        start = step * batch_size + process_index * share
        positions = np.arange(start, start + share)
        indices, valid = chosen[np.minimum(positions, total - 1)], positions < total
        batch = source.batch(indices)
        # Asked after the batch is made: only then is it known which of its rows are broken.
        replaced = valid & np.isin(indices, source.broken())
        return {**batch, "index": indices, "valid": valid, "replaced": replaced}

    return _iterate(0, num_eval_batches(total, batch_size), make, num_threads, prefetch)


def _iterate(
    start: int, stop: int, make: Callable[[int], Batch], num_threads: int, prefetch: int
) -> grain.DatasetIterator[Batch]:
    # The elements that Grain orders and prefetches are whole batches: its cost is per batch, and
    # nothing in Python runs per example.
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options))


@functools.lru_cache(maxsize=2)  # The current epoch and, at its end, the next.
def _epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    order = frozen_permutation(num_examples, seed, epoch)
    order.flags.writeable = False
    return order


def _share(batch_size: int, process_index: int, process_count: int) -> int:
    """The rows b of each process; checks that they divide the batch."""
    if not 0 <= process_index < process_count:
        raise ValueError(f"expected a process index within {process_count}, found {process_index}")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"expected a batch size that the {process_count} processes divide evenly, found"
            f" {batch_size}: use a positive multiple of {process_count}"
        )
    return batch_size // process_count


def _check_train(num_examples: int, batch_size: int, seed: int, process_count: int) -> None:
    if batch_size > num_examples:
        raise UserError(
            f"expected at least one batch of {batch_size} training images, found {num_examples}"
            " images: lower the batch size or use more images"
        )
    if seed < 0:
        raise UserError(f"expected a seed of 0 or more, found {seed}: set config.seed to one")
