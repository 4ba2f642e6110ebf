"""Runs a network over a data set, every example exactly once, on all devices.

Shapes: `B` global evaluation batch, `K` classes.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from didicm_jax import data, distributed
from didicm_jax.devices import AXIS, shard, to_host
from didicm_jax.evaluation.metrics import Outcomes, outcomes, summarize
from didicm_jax.evaluation.posterior import Posterior

# (params, stats), {image u8[B,H,W,C], index i32[B]} -> probabilities f32[B,K]
Predict = Callable[[chex.ArrayTree, dict[str, jax.Array]], jax.Array]


def make_predict(
    graphdef: nnx.GraphDef,
    posterior: Posterior,
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

    def per_device(variables: chex.ArrayTree, batch: dict[str, chex.Array]) -> chex.Array:
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
      proceed: asked before each batch, with the same answer on every process.

    Returns:
      None if `proceed` said no.

    Raises:
      UserError: the network's posteriors are not finite.
    """
    parts: list[_Scored] = []
    replaced = source.replaced
    waiting: tuple[jax.Array, data.Batch] | None = None
    batches = data.eval_batches(
        source,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with contextlib.closing(batches):
        for batch in batches:
            if not proceed():
                return None
            inputs = {"image": batch["image"], "index": batch["index"].astype(np.int32)}
            probs = predict(variables, shard(inputs, mesh))
            # The devices work on this batch while the host scores the one before.
            if waiting is not None:
                parts.append(_score(*waiting))
            waiting = probs, batch
    assert waiting is not None
    parts.append(_score(*waiting))
    scored = _Scored(*map(np.concatenate, zip(*parts, strict=True)))
    result = summarize(_of_all_processes(scored))
    return result | {"replaced_images": distributed.sum_processes(source.replaced - replaced)}


class _Scored(NamedTuple):
    """Outcomes of a process, padding included, and which examples they are of."""

    indices: np.ndarray
    valid: np.ndarray
    outcomes: np.ndarray  # f64[n, 5], the columns of `Outcomes`


def _score(probs: jax.Array, batch: data.Batch) -> _Scored:
    local = to_host(probs)
    # Of the padding too: it repeats the last example, and keeps the shapes of all processes equal.
    columns = [np.asarray(column, np.float64) for column in outcomes(local, batch["label"])]
    return _Scored(batch["index"], batch["valid"], np.stack(columns, axis=1))


def _of_all_processes(scored: _Scored) -> Outcomes:
    """Each example once, in the order of the source: sums do not depend on who scored it."""
    index, valid, columns = map(distributed.gather, scored)
    rows = np.flatnonzero(valid)
    columns = columns[rows[np.argsort(index[rows], kind="stable")]]
    correct1, correct5, nll, brier, confidence = columns.T
    return Outcomes(correct1 > 0, correct5 > 0, nll, brier, confidence)
