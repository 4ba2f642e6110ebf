"""How noisy the gradient of the diffusion loss is: `launch/bench.py variance`.

On a fixed batch, with the randomness of noise level and label alone, for M draws per image. With
independent draws the noise falls as 1 / sqrt(M); stratified times make it fall faster as long as
they, and not the labels, are most of it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from benchmarks import networks
from flax import nnx

from didicm_jax import augment, data, diffusion, parallel
from didicm_jax.errors import UserError
from didicm_jax.models.variables import Variables
from didicm_jax.training import objectives, optimizers, state
from didicm_jax.training.step import make_local_gradients, make_train_step

_VARIANTS = {"head": 0, "1 stage": 1}

# key -> a gradient with the draws of that key
Gradient = Callable[[jax.Array], Any]


def run(
    repeats: int = 16,
    draws: Sequence[int] = (1, 2, 4, 8, 16),
    batch: int = 64,
    training_steps: int = 100,
) -> Iterator[dict[str, Any]]:
    """Compares gradients on one batch of Fashion-MNIST, or of digits where that is not installed.

    Args:
      repeats: pairs of independent gradients for each figure.
      draws: the numbers of draws per image, M.
      batch: images.
      training_steps: before it is measured: a new network's gradient is that of its last layer.

    Yields:
      One record per score model, way to draw the times, and M: `ratio`, the root mean square of
      the norm of the difference of two independent gradients over the norm of their mean, and
      `ratio_times_sqrt_draws`, constant where the noise falls as 1 / sqrt(M). The norm of the mean
      is that of the expectation, without the noise that is left in an average over the repeats,
      and comes from the largest M.
    """
    name, dataset = _dataset()
    for variant, stages in _VARIANTS.items():
        task = _Task(dataset, stages, batch)
        variables = task.train(training_steps)
        for stratified in (False, True):
            found = {
                count: _moments(task.gradient(variables, count, stratified), repeats)
                for count in draws
            }
            mean = found[max(draws)][1]
            for count, (difference, _) in found.items():
                ratio = difference / mean
                yield {
                    "benchmark": f"variance/didirn18/{variant}",
                    "data": name,
                    "batch": batch,
                    "training_steps": training_steps,
                    "stratified": stratified,
                    "draws_per_image": count,
                    "pairs": repeats,
                    "norm_of_mean": mean,
                    "ratio": ratio,
                    "ratio_times_sqrt_draws": ratio * math.sqrt(count),
                }


def _dataset() -> tuple[str, data.Dataset]:
    try:
        return "fashion-mnist", data.load("idx")
    except UserError:
        return "digits", data.load("digits")


def _moments(gradient: Gradient, pairs: int) -> tuple[float, float]:
    """Root mean square of the norm of the difference of two gradients, norm of the expectation."""

    @jax.jit
    def moments(first: Any, second: Any) -> tuple[Any, jax.Array, jax.Array]:
        difference = optax.tree.norm(optax.tree.sub(first, second), squared=True)
        squares = optax.tree.norm((first, second), squared=True)
        return optax.tree.add(first, second), difference, squares

    keys = jax.random.split(jax.random.key(0), (pairs, 2))
    found = (moments(gradient(first), gradient(second)) for first, second in keys)
    total, difference, squares = functools.reduce(optax.tree.add, found)
    count = 2 * pairs
    # Of independent terms, the products of different ones have the squared mean as expectation.
    mean = (float(optax.tree.norm(total, squared=True)) - float(squares)) / (count * (count - 1))
    return math.sqrt(float(difference) / pairs), math.sqrt(max(mean, 0.0)) or math.nan


class _Task:
    """A small score model on a fixed batch."""

    def __init__(self, dataset: data.Dataset, stages: int, batch: int) -> None:
        self._dataset, self._batch = dataset, batch
        self._objective = objectives.DiDiCM(diffusion.loglinear())
        size = networks.Setting(batch, dataset.image_shape[0], dataset.num_classes, jnp.float32)
        options = {
            "in_channels": dataset.image_shape[-1],
            "width": 0.25,
            "stem": "small",
            "conditioned_stages": stages,
        }
        graphdef, self._variables = networks.create("didirn18", size, options)
        self._graphdef = graphdef

        @jax.jit
        def gradient(variables: Variables, batch: objectives.Batch) -> Any:
            def loss(params: Any) -> jax.Array:
                model = nnx.merge(graphdef, params, variables.stats)
                model.train()
                return self._objective(model, batch).mean()

            return jax.grad(loss)(variables.params)

        self._gradient = gradient

    def train(self, steps: int) -> Variables:
        """The network after so many steps."""
        optimizer, mesh = optimizers.adamw(1e-3), parallel.make_mesh(jax.local_devices()[:1])
        local = make_local_gradients(self._graphdef, self._objective, self._prepare, seed=0)
        step = make_train_step(local, optimizer, mesh)
        current = jax.device_put(
            state.create(self._variables, optimizer, ema=False), parallel.replicated(mesh)
        )
        hosts = {key: parallel.from_hosts(0, mesh) for key in ("stop", "replaced")}
        for index in range(steps):
            current, _ = step(current, parallel.shard(self._inputs(index), mesh) | hosts)
        return current.variables

    def gradient(self, variables: Variables, draws: int, stratified: bool) -> Gradient:
        """The gradient on the first batch, with M draws per image."""
        inputs = self._inputs(0)
        keys = jax.random.split(jax.random.key(0), self._batch)
        images, targets = self._prepare(keys, **inputs)
        objective = dataclasses.replace(
            self._objective, draws_per_image=draws, stratified=stratified
        )

        def of(key: jax.Array) -> Any:
            rows = objectives.Rows(0, self._batch, self._batch)
            noise = objective.draw(jax.random.split(key), rows)
            return self._gradient(variables, objectives.Batch(images, targets, noise))

        return of

    def _inputs(self, index: int) -> dict[str, Any]:
        batch = data.train_batch(self._dataset.train, step=index, batch_size=self._batch, seed=0)
        return {key: batch[key] for key in ("image", "label", "index")}

    def _prepare(
        self, keys: jax.Array, image: jax.Array, label: jax.Array, index: jax.Array
    ) -> augment.Mixed:
        channels = self._dataset.image_shape[-1]
        # The labels of the recipes: with hard ones, rare draws near t = 0 are most of the noise.
        policy = augment.Policy((0.5,) * channels, (0.5,) * channels, label_smoothing=0.1)
        return policy.train(keys, jnp.asarray(image), label, self._dataset.num_classes, index)
