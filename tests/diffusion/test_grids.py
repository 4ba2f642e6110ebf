from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import diffusion
from didicm_jax.diffusion import grids, integrators
from tests.diffusion.conftest import time_of

SCHEDULE = diffusion.loglinear()
STEPS = (1, 2, 4, 8, 16)
ROWS = [("original", "euler"), ("linear", "euler"), ("linear", "heun"), ("linear", "exact")]


def test_the_original_grid_asks_at_both_ends_and_steps_by_a_share(x64):
    times = diffusion.times("original", 4, 1e-5)
    np.testing.assert_allclose(times.query, np.linspace(1, 1e-5, 4), rtol=1e-12)
    np.testing.assert_allclose(times.width, (1 - 1e-5) / 4, rtol=1e-12)
    np.testing.assert_allclose(times.edges, np.linspace(1, 1e-5, 5), rtol=1e-12)


def test_the_linear_grid_is_even_and_asks_where_its_intervals_start(x64):
    times = diffusion.times("linear", 8, 1e-3)
    np.testing.assert_array_equal(times.query, times.edges[:-1])
    np.testing.assert_allclose(times.width, -np.diff(times.edges), rtol=1e-12)
    np.testing.assert_allclose(times.edges, np.linspace(1, 1e-3, 9), rtol=1e-9)


@pytest.mark.parametrize("grid", ["original", "linear"])
def test_float32_times_fall_strictly_and_hit_the_ends(grid):
    times = diffusion.times(grid, 64, 1e-5)
    assert times.edges.dtype == times.width.dtype == times.query.dtype == jnp.float32
    assert times.edges[0] == 1
    assert times.edges[-1] == np.float32(1e-5)
    assert (np.diff(times.edges) < 0).all()
    np.testing.assert_allclose(times.width.sum(), 1 - 1e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("grid", "steps", "min_time", "message"),
    [
        ("cosine", 2, 0.1, "grid: expected one of .*'linear'.*found 'cosine'"),
        ("linear", 0, 0.1, "steps: expected at least 1, found 0"),
        ("linear", 2, 1.0, "min_time: expected 0 <= min_time < 1, found 1.0"),
    ],
)
def test_bad_arguments_are_named(grid, steps, min_time, message):
    with pytest.raises(ValueError, match=message):
        diffusion.times(grid, steps, min_time)


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
        time = 3 * time_of(sigma[:128])[:, None]
        wrong = log_q + 0.1 * (even * jnp.cos(time) + odd * jnp.sin(time))
        log_q = jnp.concatenate([log_q, wrong])
        return log_q - jnp.take_along_axis(log_q, labels[:, None], axis=-1)

    # Step by step, and all levels at once: the loops of `sample_cp` would be compiled 20 times.
    @jax.jit
    def levels():
        return {
            (grid, integrator, steps): integrators.levels(
                SCHEDULE, diffusion.times(grid, steps, 1e-5)
            )
            for grid, integrator in ROWS
            for steps in STEPS
        }

    @partial(jax.jit, static_argnums=0)
    def step(integrator, probs, memory, level):
        labels = jnp.argmin(probs, axis=-1).astype(jnp.int32)
        log_score = score_fn(labels, jnp.full(len(probs), level.sigma))
        return diffusion.INTEGRATORS[integrator].step(probs, memory, log_score, level)

    start = jnp.full((256, 10), 0.1)
    found = {row: [] for row in ROWS}
    for (grid, integrator, steps), stacked in jax.device_get(levels()).items():
        probs, memory = start, diffusion.INTEGRATORS[integrator].init(start)
        for i in range(steps):
            level = jax.tree.map(lambda x, i=i: x[i], stacked)
            probs, memory = step(integrator, probs, memory, level)
        variation = np.abs(probs - np.tile(q0, (2, 1))).sum(-1) / 2
        found[grid, integrator].append(variation.reshape(2, 128).mean(-1))
    return [table({row: np.stack(errors)[:, i] for row, errors in found.items()}) for i in range(2)]


def test_the_tables_of_the_module(x64):
    for text in tables():
        assert text in grids.__doc__
