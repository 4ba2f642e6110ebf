"""Runs a network over a data set, every example exactly once, on all devices.

Shapes: `B` global evaluation batch, `K` classes.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from didicm_jax import data, parallel
from didicm_jax.evaluation.metrics import Outcomes, outcomes, summarize
from didicm_jax.inference.posterior import Posterior, Traced, TracedPosterior
from didicm_jax.parallel import AXIS, shard, to_host

# (params, stats), {image u8[B,H,W,C], index i32[B]} -> probabilities f32[B,K], or `Traced`
Predict = Callable[[chex.ArrayTree, dict[str, jax.Array]], Any]


def make_predict(
    graphdef: nnx.GraphDef,
    posterior: Posterior | TracedPosterior,
    normalize: Callable[[chex.Array], chex.Array],
    mesh: Mesh,
    *,
    seed: int,
) -> Predict:
    """Builds the jitted map from bytes to posteriors, each device taking its share of a batch.

    Args:
      graphdef: structure of the model.
      posterior: from `posterior.create`.
      normalize: `images u8[B,H,W,C] -> f32[B,H,W,C]`.
      mesh: one axis, `data`.
      seed: of samplers that draw; an example's key is a function of it and the example's index.
    """

    def per_device(variables: chex.ArrayTree, batch: dict[str, chex.Array]) -> Any:
        model = nnx.merge(graphdef, *variables)
        model.eval()
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(seed), batch["index"])
        return posterior(model, normalize(batch["image"]), keys)

    specs = (PartitionSpec(), PartitionSpec(AXIS))
    mapped = jax.shard_map(per_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS))
    return jax.jit(mapped)


def evaluate(
    predict: Predict,
    variables: chex.ArrayTree,
    source: data.Source,
    mesh: Mesh,
    *,
    batch_size: int,
    proceed: Callable[[], bool] = lambda: True,
) -> dict[str, float] | None:
    """The metrics of `metrics.summarize` over all of `source`, and `replaced_images`.

    The latter counts the images that could not be decoded, in whose place others were scored. Every
    process scores its share; all return the same, whatever their number.

    Args:
      predict: from `make_predict`.
      variables: `(params, stats)`.
      source: the examples.
      mesh: the devices.
      batch_size: global; the last batch is padded, and the padding left out.
      proceed: asked before each batch and at the end, with the same answer on every process.

    Returns:
      None if `proceed` said no.

    Raises:
      UserError: the network's posteriors are not finite.
    """

    def score(probs: np.ndarray, batch: data.Batch) -> Outcomes:
        return outcomes(probs, batch["label"])

    replaced = source.replaced
    results = _over(predict, variables, source, mesh, score, batch_size, proceed)
    if results is None:
        return None
    return summarize(results) | {
        "replaced_images": parallel.sum_processes(source.replaced - replaced)
    }


class Predictions(NamedTuple):
    """The posteriors of all N examples of a source, in its order."""

    labels: np.ndarray  # i32[N]
    answer: Traced  # NumPy arrays


def collect(
    predict: Predict,
    variables: chex.ArrayTree,
    source: data.Source,
    mesh: Mesh,
    *,
    batch_size: int,
    proceed: Callable[[], bool] = lambda: True,
) -> Predictions | None:
    """As `evaluate`, but the posteriors themselves, all of them on every process.

    Args:
      predict: from `make_predict` with a `TracedPosterior`.
      variables: `(params, stats)`.
      source: the examples.
      mesh: the devices.
      batch_size: global.
      proceed: asked before each batch and at the end, with the same answer on every process.

    Returns:
      None if `proceed` said no.
    """

    def keep(answer: Traced, batch: data.Batch) -> Predictions:
        return Predictions(batch["label"], answer)

    return _over(predict, variables, source, mesh, keep, batch_size, proceed)


def _over(
    predict: Predict,
    variables: chex.ArrayTree,
    source: data.Source,
    mesh: Mesh,
    reduce: Callable[[Any, data.Batch], Any],
    batch_size: int,
    proceed: Callable[[], bool],
) -> Any:
    """What `reduce` makes of the posteriors of each batch, joined: each example once, in order.

    So sums do not depend on who scored an example. Of the padding too, which repeats the last
    example, and keeps the shapes of all processes equal until it is dropped.
    """
    parts: list[Any] = []
    waiting: tuple[Any, data.Batch] | None = None
    batches = data.eval_batches(
        source,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )

    def finish(answer: Any, batch: data.Batch) -> None:
        local = jax.tree.map(to_host, answer)
        parts.append((batch["index"], batch["valid"], reduce(local, batch)))

    with contextlib.closing(batches):
        for batch in batches:
            if not proceed():
                return None
            inputs = {"image": batch["image"], "index": batch["index"].astype(np.int32)}
            answer = predict(variables, shard(inputs, mesh))
            if waiting is None:
                parallel.barrier()  # for whoever compiles longest
            # The devices work on this batch while the host takes the one before.
            if waiting is not None:
                finish(*waiting)
            waiting = answer, batch
    assert waiting is not None
    finish(*waiting)
    if not proceed():
        return None
    joined = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
    index, valid, results = jax.tree.map(parallel.gather, joined)
    rows = np.flatnonzero(valid)
    rows = rows[np.argsort(index[rows], kind="stable")]
    return jax.tree.map(lambda column: column[rows], results)
