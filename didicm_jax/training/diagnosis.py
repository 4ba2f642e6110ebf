"""What is said of losses that are not finite, and which operation is behind one."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from didicm_jax import parallel
from didicm_jax.errors import UserError
from didicm_jax.models.variables import Variables
from didicm_jax.parallel import AXIS
from didicm_jax.training.objectives import Rows
from didicm_jax.training.state import TrainState
from didicm_jax.training.step import LocalGradients


def diagnose(
    local_gradients: LocalGradients,
    before: TrainState,
    batch: dict[str, chex.Array],
    step: int,
) -> None:
    """Runs a step again, one operation at a time, up to the first result that is not finite.

    On this process's rows. Slow, and only as exact as rounding allows: a compiled step fuses its
    operations.

    Args:
      local_gradients: what a device does with its rows; it may exchange nothing.
      before: the state before the step.
      batch: of the step, sharded over the devices.
      step: its number, from 1.

    Raises:
      FloatingPointError: what the operation is, with a traceback that ends at it.
      UserError: every operation was finite this time, or the one is on another process.
    """
    elsewhere = UserError(
        f"step {step}: expected to find what was not finite, found every operation finite on the "
        "images of this process; see what the process says whose images are behind it"
    )
    with parallel.together(elsewhere, fault=FloatingPointError):
        # An infinity first: a NaN that comes of one would be found at its consequence.
        for run in (_up_to_an_infinity, _up_to_a_nan):
            _run_again(local_gradients, before, batch, step, run)
    raise UserError(
        f"step {step}: expected to find what was not finite, found every operation finite one at a "
        "time: it overflows only in the compiled step; start a new run with a lower "
        "config.optimizer.learning_rate or with config.model.dtype=float32"
    )


def diverged(config: ml_collections.ConfigDict, step: int, in_row: int, where: str) -> UserError:
    """What ends a run whose steps are all thrown away.

    Args:
      config: of the run.
      step: the last one.
      in_row: how many in a row were not finite.
      where: the last good checkpoint, in words.
    """
    diffuses = config.method == "didicm"
    return UserError(
        f"step {step}: expected finite losses, found {in_row} non-finite steps in a row "
        f"({where}); look for the cause with debug_nans, raise config.train.max_skipped, or "
        "start a new run with a lower config.optimizer.learning_rate"
        f"{' or a higher config.diffusion.min_time' if diffuses else ''}"
    )


def _run_again(
    local_gradients: LocalGradients,
    before: TrainState,
    batch: dict[str, chex.Array],
    step: int,
    run: Callable[..., None],
) -> None:
    variables = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), before.variables)
    # One device for all of them, which compiles every operation once.
    device, *_ = batch["label"].sharding.mesh.local_devices
    number = jax.device_put(before.step.addressable_data(0), device)
    total, keys = len(batch["label"]), ("image", "label", "index")
    for parts in zip(*(batch[key].addressable_shards for key in keys), strict=True):
        part = parts[0]
        local = {key: np.asarray(own.data) for key, own in zip(keys, parts, strict=True)}
        rows = Rows(part.index[0].start or 0, len(local["label"]), total)
        inputs = jax.device_put((variables, local), device)

        def one(
            variables: Variables,
            local: dict[str, chex.Array],
            rows: Any = rows,
        ) -> Any:
            return local_gradients(variables, number, local, rows)

        try:
            # As on a mesh of one device, for a BatchNorm that asks the others.
            run(jax.vmap(one, axis_name=AXIS), *jax.tree.map(lambda x: x[None], inputs))
        except FloatingPointError as error:
            error.add_note(
                f"in step {step}, examples {rows.start} to {rows.start + rows.size - 1} of the "
                "batch; the last line above within didicm_jax is the operation"
            )
            raise


def _up_to_a_nan(function: Callable, *inputs: Any) -> None:
    with jax.disable_jit(), jax.debug_nans(True):
        function(*inputs)


def _up_to_an_infinity(function: Callable, *inputs: Any) -> None:
    """Up to the first infinity or NaN that an operation makes of finite inputs, but for log 0.

    Not by `jax.debug_infs`, which stops at the first of any kind: honest ones are in every loss,
    such as the start of a maximum or the logarithm of a hard label.
    """
    with jax.disable_jit():
        traced = jax.make_jaxpr(function)(*inputs)
    jaxpr = traced.jaxpr
    values = dict(zip(jaxpr.constvars, traced.consts, strict=True))
    values |= dict(zip(jaxpr.invars, jax.tree.leaves(inputs), strict=True))
    uses = [
        list(dict.fromkeys(x for x in each.invars if not isinstance(x, Literal)))
        for each in jaxpr.eqns
    ]
    last = {x: number for number, used in enumerate(uses) for x in used}
    for number, (operation, used) in enumerate(zip(jaxpr.eqns, uses, strict=True)):
        alone = jaxpr.replace(
            constvars=[], invars=used, outvars=operation.outvars, eqns=[operation]
        )
        made = jaxpr_as_fun(ClosedJaxpr(alone, ()))(*(values[x] for x in used))
        given = [x.val if isinstance(x, Literal) else values[x] for x in operation.invars]
        name = operation.primitive.name
        if name != "log" and not _any(_odd, given) and _any(_odd, made):
            at = operation.source_info.traceback
            kind = "invalid value (nan)" if _any(jnp.isnan, made) else "infinity"
            error = FloatingPointError(f"{kind} encountered in {name}")
            raise error.with_traceback(at and at.as_python_traceback())
        values |= dict(zip(operation.outvars, made, strict=True))
        for gone in (x for x in used if last[x] == number):
            del values[gone]


def _odd(x: chex.Array) -> chex.Array:
    return ~jnp.isfinite(x)


def _any(predicate: Callable[[chex.Array], chex.Array], arrays: Sequence[Any]) -> bool:
    return any(
        bool(predicate(x).any()) for x in arrays if jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    )
