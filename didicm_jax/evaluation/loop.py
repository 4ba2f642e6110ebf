"""Runs a network over a data set, every example exactly once, on all devices.

Shapes: `N` examples of a source, `n` of them in a batch, on all processes; `K` classes.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import numpy as np

from didicm_jax import data, parallel
from didicm_jax.errors import UserError
from didicm_jax.evaluation import scores
from didicm_jax.evaluation.metrics import summarize
from didicm_jax.evaluation.scores import Scores
from didicm_jax.inference.program import Program
from didicm_jax.inference.sampling import Posterior

Columns = TypeVar("Columns")  # a tree of arrays [n, ...]
# What surrounds each wait for the other processes: `Watch.waiting`, say. Only there does a process
# depend on the others, so only that time may count against them.
Waiting = Callable[[], contextlib.AbstractContextManager[Any]]


class Rows(NamedTuple):
    """Neighbouring examples of a source, and what a network says of them."""

    labels: np.ndarray  # i32[n]
    replaced: np.ndarray  # bool[n]: could not be decoded, so the network saw another example
    posterior: Posterior  # NumPy arrays [n, ...]


class Evaluation(NamedTuple):
    """A network's scores on a whole source."""

    scores: Scores
    replaced: np.ndarray  # bool[N]: could not be decoded, so others were scored in their place

    @property
    def metrics(self) -> dict[str, float]:
        """Those of `metrics.summarize`, and `replaced_images`."""
        return summarize(self.scores.outcomes) | {"replaced_images": int(self.replaced.sum())}


def evaluate(
    program: Program,
    variables: chex.ArrayTree,
    source: data.Source,
    *,
    batch_size: int,
    proceed: Callable[[], bool] = lambda: True,
    waiting: Waiting = contextlib.nullcontext,
    keep: Callable[[Posterior], None] | None = None,
) -> Evaluation | None:
    """Scores all of `source`; the same on every process, whatever their number.

    Args:
      program: of the network and the sampler.
      variables: `(params, stats)`.
      source: the examples.
      batch_size: as for `batches`.
      proceed: as for `batches`.
      waiting: as for `batches`.
      keep: gets the posteriors too, batch after batch, on process 0 alone; given on all processes
        or on none.

    Returns:
      None if `proceed` said no.

    Raises:
      UserError: the network's posteriors are not finite.
    """

    def reduce(rows: Rows) -> tuple[Scores, np.ndarray, Posterior | None]:
        found = scores.of(rows.posterior.probs, rows.labels, rows.posterior.steps_used)
        return found, rows.replaced, None if keep is None else rows.posterior

    parts, replaced = [], []
    found = batches(
        program,
        variables,
        source,
        reduce,
        batch_size=batch_size,
        proceed=proceed,
        waiting=waiting,
    )
    for part, others, answer in found:
        parts.append(part)
        replaced.append(others)
        if keep is not None and answer is not None:
            with parallel.alone() as mine:  # a full disk of one process is told to the others
                if mine:
                    keep(answer)
    if sum(len(part.labels) for part in parts) < len(source):
        return None
    return Evaluation(scores.join(parts), np.concatenate(replaced))


def batches(
    program: Program,
    variables: chex.ArrayTree,
    source: data.Source,
    reduce: Callable[[Rows], Columns],
    *,
    batch_size: int,
    proceed: Callable[[], bool] = lambda: True,
    waiting: Waiting = contextlib.nullcontext,
    only: np.ndarray | None = None,
) -> Iterator[Columns]:
    """What `reduce` makes of the posteriors, batch after batch, in the order of the source.

    Each process works on its share of a batch, and all get the whole of it, without padding. So
    the processes go in step, and none waits for another longer than a batch takes.

    Args:
      program: of the network and the sampler.
      variables: `(params, stats)`.
      source: the examples.
      reduce: from a process's rows to as many rows of other columns: what the processes exchange.
      batch_size: of all processes; rounded up to a multiple of the devices, for padding is harmless
        and is dropped.
      proceed: asked before each batch, with the same answer on every process; False ends it.
      waiting: surrounds each wait for the other processes.
      only: the examples at these places i64[M] of the source, in place of all; what a sampler draws
        for them is what it draws among all.

    Raises:
      UserError: `reduce` failed on another process; on this one, what it raised.
    """
    loaded = data.eval_batches(
        source,
        batch_size=parallel.round_up(batch_size, program.mesh.size),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        only=only,
    )

    def finish(answer: Posterior, batch: data.Batch, waiting: Waiting) -> Columns:
        replaced = batch["replaced"]
        rows = Rows(batch["label"], replaced, jax.tree.map(parallel.to_host, answer))
        fault: Exception | None = None
        try:
            reduced = reduce(rows)
        except Exception as error:
            fault = error
        with waiting():
            # Or the others would wait for this process in vain.
            if parallel.any_process(fault is not None):
                raise fault or UserError(
                    "expected posteriors that can be scored, found some on another process that "
                    "cannot; see its message"
                )
            valid, columns = _gather((batch["valid"], reduced))
        return jax.tree.map(lambda column: column[valid], columns)

    previous: tuple[Posterior, data.Batch] | None = None
    # Of the first batch nobody counts: a process may compile longer than the others.
    patience: Waiting = contextlib.nullcontext
    with contextlib.closing(loaded):
        for batch in loaded:
            if not proceed():
                return
            answer = program(variables, batch)
            # The devices work on this batch while the host takes the one before.
            if previous is not None:
                yield finish(*previous, patience)
                patience = waiting
            previous = answer, batch
    if previous is not None:
        yield finish(*previous, patience)


def _gather(columns: Columns) -> Columns:
    """A tree of columns [b, ...] of each process as one of [P·b, ...], in one exchange."""
    if jax.process_count() == 1:
        return columns
    leaves, structure = jax.tree.flatten(columns)
    raw = [np.ascontiguousarray(leaf).reshape(len(leaf), -1).view(np.uint8) for leaf in leaves]
    ends = np.cumsum([part.shape[1] for part in raw])
    together = parallel.gather(np.concatenate(raw, axis=1))
    parts = np.split(together, ends[:-1], axis=1)
    return jax.tree.unflatten(
        structure,
        [
            np.ascontiguousarray(part).view(leaf.dtype).reshape(-1, *leaf.shape[1:])
            for part, leaf in zip(parts, leaves, strict=True)
        ],
    )
