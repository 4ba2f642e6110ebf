"""One training step, written per device and mapped over the mesh.

What is random belongs to an example of the global batch, not to a device: it is a function of
(seed, step, position in the batch). So the same step on another number of devices draws the same
numbers.

Shapes: `B` global batch, `D` devices, `A` micro-batches, `b = B / D / A`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from didicm_jax.models.variables import Variables, split
from didicm_jax.parallel import AXIS, replicated
from didicm_jax.training.objectives import Batch, Objective, Rows
from didicm_jax.training.state import TrainState

# (keys [b], images u8[b,H,W,C], labels i32[b], index i32[b]) -> images f32[b,H,W,C] and targets
# f32[b,K]; the index is equal where rows show the same example
Prepare = Callable[
    [chex.PRNGKey, chex.Array, chex.Array, chex.Array], tuple[chex.Array, chex.Array]
]
TrainStep = Callable[[TrainState, dict[str, chex.Array]], tuple[TrainState, "Metrics"]]


class Metrics(NamedTuple):
    """What a step reports, each a scalar over the global batch."""

    loss: chex.Array  # f32[]
    grad_norm: chex.Array  # f32[], before clipping
    skipped: chex.Array  # i32[], non-finite steps so far
    skipped_in_row: chex.Array  # i32[]
    stop: chex.Array  # f32[], how many processes want to stop
    # f32[], images that could not be decoded since the last start: the different ones of each
    # process, summed
    replaced: chex.Array


# (variables, step, batch of these rows, rows) -> sums over the micro-batches of loss, gradients and
# running statistics
LocalGradients = Callable[
    [Variables, chex.Array, dict[str, chex.Array], Rows],
    tuple[chex.Array, chex.ArrayTree, chex.ArrayTree],
]


def make_local_gradients(
    graphdef: nnx.GraphDef,
    objective: Objective,
    prepare: Prepare,
    *,
    seed: int,
    accumulate: int = 1,
    modes: Mapping[str, str] | None = None,
) -> LocalGradients:
    """What one device does with its rows, before anything is exchanged.

    Each micro-batch normalises with its own statistics, so D devices with A micro-batches give what
    D·A devices give, where these do not share statistics.

    Args:
      graphdef: structure of the model, from `models.variables.split`.
      objective: the loss per example, and what it draws.
      prepare: augmentation, normalisation and targets.
      seed: of every draw.
      accumulate: A, micro-batches per device.
      modes: attributes that the layers of the model get, beside those of `train()`: `remat`
        (`models.remat`) and `attention` (`models.vit_layers.Attention`).
    """

    def loss_fn(
        params: chex.ArrayTree, stats: chex.ArrayTree, batch: Batch
    ) -> tuple[chex.Array, chex.ArrayTree]:
        model = nnx.merge(graphdef, params, stats)
        model.train()
        model.set_attributes(**(modes or {}))
        loss = objective(model, batch).mean()
        return loss, split(model)[1].stats

    def micro_step(
        variables: Variables, batch: Batch
    ) -> tuple[chex.Array, chex.ArrayTree, chex.ArrayTree]:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, stats), grads = grad_fn(variables.params, variables.stats, batch)
        return loss, grads, stats

    def local_gradients(
        variables: Variables, step: chex.Array, batch: dict[str, chex.Array], rows: Rows
    ) -> tuple[chex.Array, chex.ArrayTree, chex.ArrayTree]:
        # Whatever JAX's default is: of others `jax.vmap` reads but the first key of a batch.
        key = jax.random.key(seed, impl="threefry2x32")
        keys = jax.random.split(jax.random.fold_in(key, step), 3)
        images, targets = prepare(
            rows.keys(keys[0]), batch["image"], batch["label"], batch["index"]
        )
        whole = Batch(images, targets, objective.draw(keys[1:], rows))
        return _accumulate(lambda part: micro_step(variables, part), whole, accumulate)

    return local_gradients


def make_train_step(
    local_gradients: LocalGradients,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    placement: chex.ArrayTree | None = None,
    donate: bool = True,
) -> TrainStep:
    """Builds the jitted step `(state, batch) -> (state, metrics)`.

    Gradients, running statistics, the loss and what the hosts tell one another are summed over the
    devices in one all-reduce. A step whose loss or gradient is not finite leaves everything as it
    was but the counters.

    Args:
      local_gradients: from `make_local_gradients`.
      optimizer: an optax transformation.
      mesh: one axis, `data`.
      accumulate: A, micro-batches per device.
      ema_decay: of the average of the weights, approached as (1 + n) / (10 + n); 0: none.
      placement: a sharding for each array of the state; None: every device holds all of it. Where
        the optimizer's moments are spread over the devices, each device updates its part and the
        parameters are gathered again.
      donate: let the new state take the memory of the old, which is gone then.

    Returns:
      The step; `batch` holds `image` u8[B,H,W,C], `label` i32[B] and `index` i32[B] (equal where
      rows show the same example), and what the hosts say, `stop` and `replaced` f32[D]
      (`parallel.from_hosts`), all sharded over `data`.
    """

    def per_device(
        variables: Variables, step: chex.Array, batch: dict[str, chex.Array]
    ) -> tuple[Any, ...]:
        size, devices = len(batch["label"]), jax.lax.axis_size(AXIS)
        rows = Rows(jax.lax.axis_index(AXIS) * size, size, size * devices)
        # Marked as this device's own, so that their gradients are too, and the all-reduce is ours.
        variables = jax.lax.pcast(variables, AXIS, to="varying")
        sums = local_gradients(variables, step, batch, rows)
        means = jax.tree.map(lambda x: x / (accumulate * devices), sums)
        hosts = batch["stop"].sum(), batch["replaced"].sum()
        return jax.lax.psum((means, hosts), AXIS)

    everywhere, sharded = PartitionSpec(), PartitionSpec(AXIS)
    reduced = jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(everywhere, everywhere, sharded),
        out_specs=everywhere,
    )

    def train_step(state: TrainState, batch: dict[str, chex.Array]) -> tuple[TrainState, Metrics]:
        (loss, grads, stats), hosts = reduced(state.variables, state.step, batch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        new = _update(state, grads, stats, optimizer, ema_decay)
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        state = kept._replace(
            step=state.step + 1,
            skipped=jnp.where(finite, state.skipped, state.skipped + 1),
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        return state, Metrics(loss, grad_norm, state.skipped, state.skipped_in_row, *hosts)

    everything = replicated(mesh)
    placement = everything if placement is None else placement
    return jax.jit(
        train_step, donate_argnums=0 if donate else (), out_shardings=(placement, everything)
    )


def _accumulate(step: Callable[[Batch], Any], batch: Batch, parts: int) -> Any:
    """Sums the results of `step` over `parts` micro-batches, one in memory at a time."""
    if parts == 1:
        return step(batch)
    micro = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def body(sums: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, sums, step(part)), None

    def zeros(like: jax.ShapeDtypeStruct) -> chex.Array:
        # Within `shard_map` a carry must vary over the devices from the start, if it ever does.
        array = jnp.zeros(like.shape, like.dtype)
        axes = tuple(jax.typeof(like).manual_axis_type.varying)
        return jax.lax.pcast(array, axes, to="varying") if axes else array

    first = jax.tree.map(lambda x: x[0], micro)
    return jax.lax.scan(body, jax.tree.map(zeros, jax.eval_shape(step, first)), micro)[0]


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
