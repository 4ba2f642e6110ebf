"""Runs a network over a data set, every example exactly once, on all devices.

Shapes: `B` global evaluation batch, `K` classes.
"""

from collections.abc import Callable

import chex
import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from didicm_jax import data
from didicm_jax.devices import AXIS, shard
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
) -> dict[str, float]:
    """The metrics of `metrics.summarize` over all of `source`, and `replaced_images`.

    The latter counts the images that could not be decoded, in whose place others were scored.

    Args:
      predict: from `make_predict`.
      variables: `(params, stats)`.
      source: the examples.
      mesh: the devices.
      batch_size: global; the last batch is padded, and the padding left out.

    Raises:
      UserError: the network's posteriors are not finite.
    """
    parts: list[Outcomes] = []
    replaced = source.replaced
    waiting: tuple[jax.Array, data.Batch] | None = None
    for batch in data.eval_batches(source, batch_size=batch_size):
        inputs = {"image": batch["image"], "index": batch["index"].astype(np.int32)}
        probs = predict(variables, shard(inputs, mesh))
        # The devices work on this batch while the host scores the one before.
        if waiting is not None:
            parts.append(_score(*waiting))
        waiting = probs, batch
    assert waiting is not None
    parts.append(_score(*waiting))
    result = summarize(Outcomes(*map(np.concatenate, zip(*parts, strict=True))))
    return result | {"replaced_images": source.replaced - replaced}


def _score(probs: jax.Array, batch: data.Batch) -> Outcomes:
    valid = batch["valid"]
    return outcomes(np.asarray(probs)[valid], batch["label"][valid])
