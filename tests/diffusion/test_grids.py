from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import diffusion
from didicm_jax.diffusion import grids, integrators

SCHEDULE = diffusion.loglinear()
STEPS = (1, 2, 4, 8, 16)
ROWS = [("original", "euler")] + [
    (grid, integrator)
    for grid in ("linear", "log", "noise")
    for integrator in ("euler", "heun", "exact")
]


def test_the_original_grid_asks_at_both_ends_and_steps_by_a_share(x64):
    times = diffusion.times("original", 4, 1e-5, SCHEDULE)
    np.testing.assert_allclose(times.query, np.linspace(1, 1e-5, 4), rtol=1e-12)
    np.testing.assert_allclose(times.width, (1 - 1e-5) / 4, rtol=1e-12)
    np.testing.assert_allclose(times.edges, np.linspace(1, 1e-5, 5), rtol=1e-12)


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, diffusion.geometric(1e-2, 5.0)], ids=["loglinear", "geometric"]
)
@pytest.mark.parametrize("grid", ["linear", "log", "noise"])
def test_grids_are_even_in_their_own_measure(x64, grid, schedule):
    times = diffusion.times(grid, 8, 1e-3, schedule)
    np.testing.assert_array_equal(times.query, times.edges[:-1])
    np.testing.assert_allclose(times.width, -np.diff(times.edges), rtol=1e-12)
    measure = {"linear": lambda t: t, "log": np.log, "noise": schedule.total}[grid]
    expected = np.linspace(*(float(measure(np.float64(t))) for t in (1.0, 1e-3)), 9)
    np.testing.assert_allclose(measure(np.asarray(times.edges)), expected, rtol=1e-9)


@pytest.mark.parametrize("grid", ["original", "linear", "log", "noise"])
def test_float32_times_fall_strictly_and_hit_the_ends(grid):
    times = diffusion.times(grid, 64, 1e-5, SCHEDULE)
    assert times.edges.dtype == times.width.dtype == times.query.dtype == jnp.float32
    assert times.edges[0] == 1
    assert times.edges[-1] == np.float32(1e-5)
    assert (np.diff(times.edges) < 0).all()
    np.testing.assert_allclose(times.width.sum(), 1 - 1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("grid", "steps", "min_time", "message"),
    [
        ("cosine", 2, 0.1, "grid: expected one of .*'noise'.*found 'cosine'"),
        ("log", 2, 0, "min_time: expected min_time > 0 for grid='log', found 0"),
        ("linear", 0, 0.1, "steps: expected at least 1, found 0"),
        ("linear", 2, 1.0, "min_time: expected 0 <= min_time < 1, found 1.0"),
    ],
)
def test_bad_arguments_are_named(grid, steps, min_time, message):
    with pytest.raises(ValueError, match=message):
        diffusion.times(grid, steps, min_time, SCHEDULE)


def table(error):
    """The text of a table of the module."""
    lines = ["| grid | integrator | " + " | ".join(f"S = {s}" for s in STEPS) + " |"]
    lines.append("|---" * (2 + len(STEPS)) + "|")
    for row, errors in error.items():
        lines.append(f"| {' | '.join(row)} | " + " | ".join(f"{e:.4f}" for e in errors) + " |")
    return "\n".join(lines)


def tables():
    """What `sample_cp` makes of a true score, and of a score with an error, as the module says."""
    # RandomState, unlike Generator, promises the same numbers in every version of NumPy.
    rng = np.random.RandomState(0)
    q0 = jnp.asarray(np.concatenate([rng.dirichlet(np.full(10, a), 64) for a in (0.1, 1.0)]))
    even, odd = jnp.asarray(rng.normal(size=(2, 128, 10)))

    def score_fn(labels, sigma):
        """The true score for the first half of the batch, one with an error for the second."""
        log_q = jnp.log(diffusion.marginal(q0, sigma[:128]))
        time = 3 * SCHEDULE.time(sigma[:128])[:, None]
        wrong = log_q + 0.1 * (even * jnp.cos(time) + odd * jnp.sin(time))
        log_q = jnp.concatenate([log_q, wrong])
        return log_q - jnp.take_along_axis(log_q, labels[:, None], axis=-1)

    # Step by step, and all levels at once: the loops of `sample_cp` would be compiled 50 times.
    @jax.jit
    def levels():
        return {
            (grid, integrator, steps): integrators.levels(
                SCHEDULE,
                diffusion.times(grid, steps, 1e-5, SCHEDULE),
                at_edges=integrator != "euler",
            )
            for grid, integrator in ROWS
            for steps in STEPS
        }

    step = {
        name: jax.jit(integrators.cp_step(name, "min", score_fn))
        for name in get_args(diffusion.Integrator)
    }
    start = jnp.full((256, 10), 0.1)
    found = {row: [] for row in ROWS}
    for (grid, integrator, steps), stacked in jax.device_get(levels()).items():
        state = integrators.CPState(start, start)
        for i in range(steps):
            state, _ = step[integrator](state, jax.tree.map(lambda x, i=i: x[i], stacked))
        variation = np.abs(state.probs - np.tile(q0, (2, 1))).sum(-1) / 2
        found[grid, integrator].append(variation.reshape(2, 128).mean(-1))
    return [table({row: np.stack(errors)[:, i] for row, errors in found.items()}) for i in range(2)]


def test_the_tables_of_the_module(x64):
    for text in tables():
        assert text in grids.__doc__
