"""What a run is at a step: everything that a checkpoint must hold.

The keys of a step are a function of the seed and the step, and so is the order of the data, so
neither is part of the state.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from didicm_jax.models.variables import Variables


class TrainState(NamedTuple):
    """The state of training, replicated over the devices."""

    step: chex.Array  # i32[], optimizer steps tried so far
    variables: Variables
    opt_state: optax.OptState
    ema: Variables | None  # exponential moving average of `variables`, if asked for
    skipped: chex.Array  # i32[], non-finite steps so far
    skipped_in_row: chex.Array  # i32[], and since the last finite one

    @property
    def averaged(self) -> Variables:
        """What to evaluate: the average where there is one."""
        return self.variables if self.ema is None else self.ema


def create(
    variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool
) -> TrainState:
    """The state at step 0."""

    # One buffer per counter: the step donates its state, and a buffer can be donated once.
    def zero() -> chex.Array:
        return jnp.zeros((), jnp.int32)

    return TrainState(
        step=zero(),
        variables=variables,
        opt_state=optimizer.init(variables.params),
        ema=jax.tree.map(jnp.copy, variables) if ema else None,
        skipped=zero(),
        skipped_in_row=zero(),
    )
