"""A small network, its training step on some devices, and steps that are run with it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh

from didicm_jax import diffusion, parallel
from didicm_jax.models.variables import split
from didicm_jax.training import objectives, state
from didicm_jax.training.step import make_local_gradients, make_train_step

CLASSES, BATCH, MIN_TIME, SEED = 5, 16, 0.05, 7
SCHEDULE = diffusion.loglinear()


class Score(nnx.Module):
    """A score model of two layers; with BatchNorm the examples of a micro-batch see each other."""

    def __init__(self, *, norm, rngs):
        self.image = nnx.Linear(12, 8, rngs=rngs)
        axis = parallel.AXIS if norm == "sync" else None
        self.norm = nnx.BatchNorm(8, momentum=0.9, axis_name=axis, rngs=rngs) if norm else None
        self.label = nnx.Embed(CLASSES, 8, rngs=rngs)
        self.out = nnx.Linear(8, CLASSES, rngs=rngs)

    def encode(self, images):
        hidden = self.image(images.reshape(len(images), -1))
        return hidden if self.norm is None else self.norm(hidden)

    def score(self, features, labels, sigma):
        hidden = jnp.tanh(features + self.label(labels) * sigma[:, None])
        at_label = jax.nn.one_hot(labels, CLASSES, dtype=bool)
        return jnp.where(at_label, 0.0, self.out(hidden))

    def __call__(self, images, labels, sigma):
        return self.score(self.encode(images), labels, sigma)


def prepare(keys, images, labels, index):
    """Noise per example, so that the keys matter; an image of 255s becomes a NaN."""
    noise = jax.vmap(lambda key: 0.1 * jax.random.normal(key, images.shape[1:]))(keys)
    images = images.astype(jnp.float32)
    images = jnp.where(images == 255, jnp.nan, images / 255 + noise)
    return images, jax.nn.one_hot(labels, CLASSES, dtype=jnp.float32)


def mesh_of(count):
    return Mesh(np.asarray(jax.devices()[:count]), (parallel.AXIS,), axis_types=(AxisType.Auto,))


# Not Adam: it blows up the rounding of gradients that are 0, like those before a BatchNorm.
SGD = optax.sgd(0.05, momentum=0.9)


def start(mesh, *, norm=True, ema=False, optimizer=SGD, spread=False):
    """The network, its first state, and how that lies on the devices."""
    key = jax.random.key(0, impl="threefry2x32")
    graphdef, variables = split(Score(norm=norm, rngs=nnx.Rngs(key)))
    first = state.create(variables, optimizer, ema=ema)
    placement = jax.tree.map(lambda _: parallel.replicated(mesh), first)
    if spread:
        placement = placement._replace(
            opt_state=parallel.spread(first.opt_state, mesh), ema=parallel.spread(first.ema, mesh)
        )
    return graphdef, jax.device_put(first, placement), placement


@functools.cache  # what several tests ask for is compiled once
def program(
    mesh,
    *,
    norm=True,
    ema_decay=0.0,
    optimizer=SGD,
    objective=None,
    accumulate=1,
    draws_per_image=1,
    spread=False,
):
    graphdef, _, placement = start(
        mesh, norm=norm, ema=ema_decay > 0, optimizer=optimizer, spread=spread
    )
    objective = objective or objectives.DiDiCM(
        SCHEDULE, min_time=MIN_TIME, draws_per_image=draws_per_image
    )
    local = make_local_gradients(graphdef, objective, prepare, seed=SEED, accumulate=accumulate)
    return make_train_step(
        local,
        optimizer,
        mesh,
        accumulate=accumulate,
        ema_decay=ema_decay,
        placement=placement if spread else None,
    )


def make(mesh, **options):
    """A step and the state to begin with; `spread` splits moments and average over the devices."""
    of_state = {key: options[key] for key in ("norm", "optimizer", "spread") if key in options}
    _, first, _ = start(mesh, ema="ema_decay" in options, **of_state)
    return program(mesh, **options), first


def placed(batch, mesh, *, stop=0, replaced=0):
    """The batch on the devices, with what the host has to say."""
    hosts = {"stop": stop, "replaced": replaced}
    return parallel.shard(batch, mesh) | {
        key: parallel.from_hosts(value, mesh) for key, value in hosts.items()
    }


def run(mesh, batch, steps=3, **options):
    """The last state and all losses."""
    step, current = make(mesh, **options)
    losses = []
    for _ in range(steps):
        current, metrics = step(current, placed(batch, mesh))
        losses.append(float(metrics.loss))
    return current, losses


def assert_close(found, expected, rtol=2e-5):
    chex.assert_trees_all_close(found, expected, rtol=rtol, atol=3e-5)
