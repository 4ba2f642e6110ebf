"""Time grids: where on the way from t = 1 to `min_time` the score is asked for.

Shape symbols: `S` steps.

- `original`: the original's. The score is asked for at S equally spaced times, both ends included,
  and every step is the S-th part of the way. Steps and times so drift apart, and the last, full
  step is taken with the score of all but no noise.
- `linear`: S equal intervals; the score of each is asked for where the interval starts.
- `log`: the same for intervals of equal ratio, so dense near t = 0.
- `noise`: the same for intervals of equal total noise, so dense where the noise grows fastest: for
  the log-linear schedule near t = 1.

Only Euler steps read the times of `original`: `exact` and `heun` walk intervals from their start,
so that for them it is `linear`.

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
| log | euler | 0.1180 | 0.1176 | 0.1114 | 0.0884 | 0.0526 |
| log | heun | 0.1180 | 0.1212 | 0.0796 | 0.0311 | 0.0141 |
| log | exact | 0.0000 | 0.0000 | 0.0000 | 0.0000 | 0.0000 |
| noise | euler | 0.1180 | 0.4293 | 0.0666 | 0.0000 | 0.0000 |
| noise | heun | 0.1180 | 0.0163 | 0.0000 | 0.0000 | 0.0000 |
| noise | exact | 0.0000 | 0.0000 | 0.0000 | 0.0000 | 0.0000 |

For a score whose `log q_t` is off by `0.1 (u cos 3t + v sin 3t)`, u and v standard normal for each
image and class: at t = 1, where q_t is all but flat, that drowns the image.

| grid | integrator | S = 1 | S = 2 | S = 4 | S = 8 | S = 16 |
|---|---|---|---|---|---|---|
| original | euler | 0.6705 | 0.3248 | 0.2715 | 0.1974 | 0.1127 |
| linear | euler | 0.6705 | 0.1774 | 0.0533 | 0.0415 | 0.0377 |
| linear | heun | 0.6705 | 0.0766 | 0.0424 | 0.0367 | 0.0352 |
| linear | exact | 0.7276 | 0.1253 | 0.0559 | 0.0413 | 0.0370 |
| log | euler | 0.6705 | 0.4333 | 0.3160 | 0.1923 | 0.1042 |
| log | heun | 0.6705 | 0.2523 | 0.1537 | 0.0680 | 0.0388 |
| log | exact | 0.7276 | 0.4947 | 0.3449 | 0.1870 | 0.0884 |
| noise | euler | 0.6705 | 0.6047 | 0.4717 | 0.0729 | 0.0514 |
| noise | heun | 0.6705 | 0.4056 | 0.1102 | 0.0754 | 0.0500 |
| noise | exact | 0.7276 | 0.5171 | 0.1827 | 0.0889 | 0.0563 |

A true score is walked best by `exact`, in one step on any grid, and a score with errors by `heun`
on `linear`. Euler steps on `original` stay far from both posteriors: where some classes are all but
impossible, its last step, a full one at all but no noise, overshoots, and clipping then leaves the
possible ones alike. That overshoot sharpens a posterior, which can suit a network whose posteriors
are too flat, such as one trained on smoothed labels: the likelihood of held-out labels decides.
"""

from typing import Literal, NamedTuple, get_args

import chex
import jax.numpy as jnp

from didicm_jax.diffusion.schedules import Schedule

Grid = Literal["original", "linear", "log", "noise"]


class Times(NamedTuple):
    """The times of a sampler; they fall from 1 to `min_time`."""

    query: chex.Array  # f32[S], where an Euler step asks for the score
    width: chex.Array  # f32[S], the length of each step in t
    edges: chex.Array  # f32[S + 1], where the steps start and end


def times(grid: Grid, steps: int, min_time: float, schedule: Schedule) -> Times:
    """The times of S steps from t = 1 to `min_time`.

    Args:
      grid: see the module.
      steps: S >= 1.
      min_time: where the last step ends, in [0, 1); `log` needs it positive.
      schedule: read by `noise` alone.

    Returns:
      `Times`.

    Raises:
      ValueError: an argument is outside the ranges above.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, found {steps}")
    if not 0 <= min_time < 1:
        raise ValueError(f"min_time: expected 0 <= min_time < 1, found {min_time}")
    if grid in ("original", "linear"):
        edges = jnp.linspace(1.0, min_time, steps + 1)
        query = jnp.linspace(1.0, min_time, steps) if grid == "original" else edges[:-1]
        return Times(query, jnp.full((steps,), (1 - min_time) / steps), edges)
    if grid == "log":
        if min_time == 0:
            raise ValueError("min_time: expected min_time > 0 for grid='log', found 0")
        edges = min_time ** jnp.linspace(0.0, 1.0, steps + 1)
    elif grid == "noise":
        noise = jnp.linspace(schedule.total(1.0), schedule.total(min_time), steps + 1)
        # The ends are set: the inverse of a large noise has lost digits in float32.
        edges = schedule.time(noise).at[0].set(1.0).at[-1].set(min_time)
    else:
        raise ValueError(f"grid: expected one of {get_args(Grid)}, found {grid!r}")
    return Times(edges[:-1], edges[:-1] - edges[1:], edges)
