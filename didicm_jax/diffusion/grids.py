"""Grids: the times of a sampler, from t = 1 to `min_time`.

Shape symbols: `S` steps.

- `original`: the original's. The score is asked for at S equally spaced times, both ends included,
  and every step is the S-th part of the way. Steps and times so drift apart, and the last, full
  step is taken with the score of all but no noise. Only Euler steps can be taken so.
- `linear`: S equal intervals; the score of each is asked for where the interval starts.

Both tables give the mean total variation between the answer of `diffusion.sample_cp` and the true
posterior, over 64 posteriors drawn from each of Dirichlet(0.1) and Dirichlet(1), K = 10,
`loglinear()`, `min_time` 1e-5. Every integrator calls the network S times. A test computes them
again. For the true score:

| grid | integrator | S = 1 | S = 2 | S = 4 | S = 8 | S = 16 |
|---|---|---|---|---|---|---|
| original | euler | 0.1180 | 0.2280 | 0.2628 | 0.2078 | 0.1175 |
| linear | euler | 0.1180 | 0.0958 | 0.0103 | 0.0024 | 0.0005 |
| linear | heun | 0.1180 | 0.0120 | 0.0036 | 0.0009 | 0.0002 |
| linear | exact | 0.0000 | 0.0000 | 0.0000 | 0.0000 | 0.0000 |

For a score whose `log q_t` is off by `0.1 (u cos 3t + v sin 3t)`, u and v standard normal for each
image and class: at t = 1, where q_t is all but flat, that drowns the image.

| grid | integrator | S = 1 | S = 2 | S = 4 | S = 8 | S = 16 |
|---|---|---|---|---|---|---|
| original | euler | 0.6705 | 0.3248 | 0.2715 | 0.1974 | 0.1127 |
| linear | euler | 0.6705 | 0.1774 | 0.0533 | 0.0415 | 0.0377 |
| linear | heun | 0.6705 | 0.0766 | 0.0424 | 0.0367 | 0.0352 |
| linear | exact | 0.7276 | 0.1253 | 0.0559 | 0.0413 | 0.0370 |

A true score is walked best by `exact`, in one step, and a score with errors by `heun`. Euler steps
on `original` stay far from both posteriors: where some classes are all but impossible, its last
step, a full one at all but no noise, overshoots, and clipping then leaves the possible ones alike.
That overshoot sharpens a posterior, which can suit a network whose posteriors are too flat, such as
one trained on smoothed labels: the likelihood of held-out labels decides. (Intervals of equal ratio
and of equal total noise were tried too: with errors in the score they are behind `linear`.)
"""

from typing import Literal, NamedTuple, get_args

import chex
import jax.numpy as jnp

Grid = Literal["original", "linear"]


class Times(NamedTuple):
    """The times of a sampler; they fall from 1 to `min_time`. f64 where JAX has 64 bits."""

    query: chex.Array  # f32[S], where a step asks for the score
    width: chex.Array  # f32[S], the length of each step in t
    edges: chex.Array  # f32[S + 1], where the steps start and end


def times(grid: Grid, steps: int, min_time: float) -> Times:
    """The times of S steps from t = 1 to `min_time`.

    Args:
      grid: see the module.
      steps: S >= 1.
      min_time: where the last step ends, in [0, 1).

    Returns:
      `Times`.

    Raises:
      ValueError: an argument is outside the ranges above.
    """
    if grid not in get_args(Grid):
        raise ValueError(f"grid: expected one of {get_args(Grid)}, found {grid!r}")
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, found {steps}")
    if not 0 <= min_time < 1:
        raise ValueError(f"min_time: expected 0 <= min_time < 1, found {min_time}")
    edges = jnp.linspace(1.0, min_time, steps + 1)
    query = jnp.linspace(1.0, min_time, steps) if grid == "original" else edges[:-1]
    return Times(query, jnp.full((steps,), (1 - min_time) / steps), edges)
