"""One training step, written per device and mapped over the mesh.

What is random belongs to an example of the global batch, not to a device: keys and times are
functions of (seed, step, position in the batch). So the same step on another number of devices
draws the same numbers.

Shapes: `B` global batch, `D` devices, `A` micro-batches, `b = B / D / A`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from didicm_jax import diffusion
from didicm_jax.devices import AXIS
from didicm_jax.training.objectives import Batch, Objective
from didicm_jax.training.state import TrainState, Variables, split

# (keys [b], images u8[b,H,W,C], labels i32[b]) -> images f32[b,H,W,C], targets f32[b,K]
Prepare = Callable[[chex.PRNGKey, chex.Array, chex.Array], tuple[chex.Array, chex.Array]]
TrainStep = Callable[[TrainState, dict[str, chex.Array]], tuple[TrainState, "Metrics"]]


class Metrics(NamedTuple):
    """What a step reports, each a scalar over the global batch."""

    loss: chex.Array  # f32[]
    grad_norm: chex.Array  # f32[], before clipping
    skipped: chex.Array  # i32[], non-finite steps so far
    skipped_in_row: chex.Array  # i32[]


class Draws(NamedTuple):
    """The randomness of this device's examples."""

    augment: chex.PRNGKey  # key[B / D]
    noise: chex.PRNGKey  # key[B / D]
    time: chex.Array  # f32[B / D]


def make_train_step(
    graphdef: nnx.GraphDef,
    objective: Objective,
    prepare: Prepare,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    min_time: float,
    stratified: bool = True,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> TrainStep:
    """Builds the jitted step `(state, batch) -> (state, metrics)`; it donates `state`.

    Gradients, running statistics and the loss are averaged over the devices in one all-reduce.
    Each micro-batch of each device normalises with its own statistics, so D devices with A
    micro-batches give what D A devices give. A step whose loss or gradient is not finite leaves
    everything as it was but the counters.

    Args:
      graphdef: structure of the model, from `state.split`.
      objective: the loss per example.
      prepare: augmentation, normalisation and targets.
      optimizer: an optax transformation.
      mesh: one axis, `data`.
      seed: of every draw.
      min_time: smallest diffusion time.
      stratified: spread the times over the global batch, or draw them independently.
      accumulate: A, micro-batches per device.
      ema_decay: of the average of the weights, approached as (1 + n) / (10 + n); 0: none.

    Returns:
      The step; `batch` holds `image` u8[B,H,W,C] and `label` i32[B], sharded over `data`.
    """

    def loss_fn(
        params: chex.ArrayTree, stats: chex.ArrayTree, batch: Batch
    ) -> tuple[chex.Array, chex.ArrayTree]:
        model = nnx.merge(graphdef, params, stats)
        model.train()
        loss = objective(model, batch).mean()
        return loss, split(model)[1].stats

    def micro_step(
        variables: Variables, batch: Batch
    ) -> tuple[chex.Array, chex.ArrayTree, chex.ArrayTree]:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, stats), grads = grad_fn(variables.params, variables.stats, batch)
        return loss, grads, stats

    def per_device(state: TrainState, batch: dict[str, chex.Array]) -> tuple[TrainState, Metrics]:
        draws = _draws(seed, state.step, len(batch["label"]), min_time, stratified)
        images, targets = prepare(draws.augment, batch["image"], batch["label"])
        # Marked as this device's own, so that their gradients are too, and the all-reduce is ours.
        variables = jax.lax.pcast(state.variables, AXIS, to="varying")
        whole = Batch(images, targets, draws.noise, draws.time)
        sums = _accumulate(lambda part: micro_step(variables, part), whole, accumulate)
        loss, grads, stats = jax.lax.pmean(jax.tree.map(lambda x: x / accumulate, sums), AXIS)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new = _update(state, grads, stats, optimizer, ema_decay)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        state = kept._replace(
            step=state.step + 1,
            skipped=jnp.where(finite, state.skipped, state.skipped + 1),
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        return state, Metrics(loss, grad_norm, state.skipped, state.skipped_in_row)

    mapped = jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
    )
    return jax.jit(mapped, donate_argnums=0)


def _draws(seed: int, step: chex.Array, rows: int, min_time: float, stratified: bool) -> Draws:
    """Keys and times of this device's rows of the global batch."""
    devices = jax.lax.axis_size(AXIS)
    start = jax.lax.axis_index(AXIS) * rows
    augment_key, noise_key, time_key = jax.random.split(
        jax.random.fold_in(jax.random.key(seed), step), 3
    )
    position = start + jnp.arange(rows)
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    # The whole batch's times on every device: B numbers, and the strata are dealt over all of it.
    time = diffusion.sample_times(
        time_key, (rows * devices,), min_time=min_time, stratified=stratified
    )
    time = jax.lax.dynamic_slice_in_dim(time, start, rows)
    return Draws(fold_in(augment_key, position), fold_in(noise_key, position), time)


def _accumulate(step: Callable[[Batch], Any], batch: Batch, parts: int) -> Any:
    """Sums the results of `step` over `parts` micro-batches, one in memory at a time."""
    if parts == 1:
        return step(batch)
    micro = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def body(sums: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, step(part)), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(step, jax.tree.map(lambda x: x[0], micro)),
    )
    return jax.lax.scan(body, jax.lax.pcast(zeros, AXIS, to="varying"), micro)[0]


def _update(
    state: TrainState,
    grads: chex.ArrayTree,
    stats: chex.ArrayTree,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """The state after a finite step, the counters untouched."""
    params = state.variables.params
    # optax's bias correction mixes integers and floats, which a strict caller forbids elsewhere.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
    variables = Variables(optax.apply_updates(params, updates), stats)
    ema = state.ema
    if ema is not None:
        done = (state.step - state.skipped).astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + done) / (10 + done))
        ema = optax.incremental_update(variables, ema, 1 - decay)
    return state._replace(variables=variables, opt_state=opt_state, ema=ema)
