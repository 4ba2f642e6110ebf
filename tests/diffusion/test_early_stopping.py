"""Walks that end when the posterior has stopped moving."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from didicm_jax import diffusion
from didicm_jax.diffusion import integrators, loops
from tests.diffusion.conftest import WALKS, time_of

SCHEDULE = diffusion.loglinear()
STEPS = 8


def learning_score(q0, settle):
    """A score whose posterior wanders until t = `settle` [B], and is q0 [B, K] from there on."""

    def score_fn(labels, sigma):
        time = time_of(sigma)
        off = jnp.maximum(time - settle, 0.0)[:, None]
        phase = 3 * jnp.arange(q0.shape[-1], dtype=q0.dtype)[None] + 40 * time[:, None]
        logits = jnp.log(q0) + 20 * off * jnp.cos(phase)
        log_q = jnp.log(diffusion.marginal(jax.nn.softmax(logits), sigma))
        return log_q - jnp.take_along_axis(log_q, labels[:, None], axis=-1)

    return score_fn


@partial(jax.jit, static_argnames=("tolerance", "integrator", "grid"))
def sample(q0, settle, tolerance=0.01, integrator="exact", grid="linear"):
    return diffusion.sample_cp(
        learning_score(q0, settle),
        SCHEDULE,
        batch_size=len(q0),
        num_classes=q0.shape[-1],
        steps=STEPS,
        tolerance=tolerance,
        integrator=integrator,
        grid=grid,
        return_trajectory=True,
    )


@pytest.fixture
def settle():
    return jnp.linspace(1.0, 0.0, 8)


def test_a_true_score_is_decided_by_the_second_step(posteriors):
    found = sample(posteriors, jnp.ones(8))
    np.testing.assert_array_equal(found.steps_used, 2)
    np.testing.assert_allclose(found.probs, posteriors, atol=5e-4)


def test_images_are_decided_one_by_one_and_keep_their_posterior(posteriors, settle):
    """`steps_used` grows with the time until the score settles; then nothing moves."""
    found = sample(posteriors, settle)
    used = np.asarray(found.steps_used)
    # Edges at t = 1 - n / 8: the first two calls at t <= settle are the last.
    np.testing.assert_array_equal(used, np.minimum(np.ceil(8 * (1 - np.asarray(settle))) + 2, 8))
    for b in range(8):
        path = np.asarray(found.trajectory[b])
        np.testing.assert_array_equal(path[used[b] :], np.tile(path[-1], (9 - used[b], 1)))
        assert np.abs(path[used[b]] - path[used[b] - 1]).sum() > 1e-3
    np.testing.assert_array_equal(found.trajectory[:, -1], found.probs)
    full = sample(posteriors, settle, tolerance=0.0)
    np.testing.assert_array_equal(full.steps_used, STEPS)
    # What was given up by stopping.
    assert (np.abs(found.probs - full.probs).sum(-1) / 2 < 0.02).all()


@pytest.mark.parametrize(("integrator", "grid"), WALKS)
def test_where_nothing_is_decided_the_walk_is_the_plain_one(posteriors, settle, integrator, grid):
    options = {"integrator": integrator, "grid": grid}
    found = sample(posteriors, settle - 1, tolerance=1e-30, **options)
    full = sample(posteriors, settle - 1, tolerance=0.0, **options)
    np.testing.assert_array_equal(found.steps_used, STEPS)
    np.testing.assert_allclose(found.trajectory, full.trajectory, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("integrator", "grid"), [("euler", "original"), ("heun", "linear")])
def test_the_early_answer_is_nearer_the_truth_than_the_state_or_its_denoising(
    posteriors, integrator, grid
):
    """For a true score; why the answer is p carried on, and neither p nor `denoise` of p."""
    found = sample(posteriors, jnp.ones(8), tolerance=0.05, integrator=integrator, grid=grid)
    full = sample(posteriors, jnp.ones(8), tolerance=0.0, integrator=integrator, grid=grid)
    assert (found.steps_used < STEPS).all()
    used = int(found.steps_used[0])
    state = full.trajectory[:, used]
    sigma = jnp.full(8, SCHEDULE.total(diffusion.times(grid, STEPS, 1e-5).edges[used]))

    def error(probs):
        return np.abs(probs - posteriors).sum(-1).mean() / 2

    assert error(found.probs) < 0.01
    assert error(found.probs) < error(diffusion.denoise(jnp.log(state), sigma)) < error(state)
    if grid == "original":
        assert error(found.probs) < error(full.probs)


def test_a_posterior_that_moves_steadily_is_decided_by_what_is_left():
    """0.01 a step, and a tolerance of 0.045: decided with four of eight steps left."""

    def clean(level):
        first = 0.3 + 0.01 * level.key
        return jnp.stack([first, 1 - first])[None]

    class Steady:
        def init(self, probs):
            return None

        def step(self, probs, memory, log_score, level):
            return diffusion.marginal(clean(level), level.sigma_end[None]), None

    def ask(probs, level):
        return jnp.log(diffusion.marginal(clean(level), level.sigma[None]))

    times = diffusion.times("linear", STEPS, 1e-5)
    levels = integrators.levels(SCHEDULE, times)._replace(key=jnp.arange(8.0))
    start = jnp.full((1, 2), 0.5)
    found = loops.until_still(Steady(), ask, start, levels, tolerance=0.045, keep_path=False)
    assert found.steps_used == 4
    np.testing.assert_allclose(found.probs, [[0.33, 0.67]], atol=1e-4)


def test_calls_end_with_the_last_undecided_image(posteriors):
    calls = []

    def score_fn(labels, sigma):
        jax.debug.callback(lambda x: calls.append(float(x[0])), sigma, ordered=True)
        return learning_score(posteriors, jnp.linspace(1.0, 0.5, 8))(labels, sigma)

    found = diffusion.sample_cp(
        score_fn,
        SCHEDULE,
        batch_size=8,
        num_classes=10,
        steps=STEPS,
        tolerance=0.01,
        integrator="exact",
        grid="linear",
    )
    jax.effects_barrier()
    assert len(calls) == found.steps_used.max() == 6
    assert found.steps_used.min() == 2
    assert found.trajectory is None


def test_the_answer_depends_on_no_other_image(posteriors):
    """Not in a batch, not with a loop on each device, and not when mapped one by one."""
    settle = jnp.repeat(jnp.asarray([1.0, 0.75, 0.5, 0.0]), 2)
    expected = sample(posteriors, settle)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    mapped = jax.jit(jax.shard_map(sample, mesh=mesh, in_specs=spec, out_specs=spec))
    each = jax.vmap(lambda q, t: jax.tree.map(lambda x: x[0], sample(q[None], t[None])))
    for found in (mapped(posteriors, settle), each(posteriors, settle)):
        np.testing.assert_array_equal(found.steps_used, expected.steps_used)
        np.testing.assert_allclose(found.trajectory, expected.trajectory, atol=1e-6)


def test_random_queries_draw_with_the_keys_of_the_plain_walk(posteriors, settle):
    """The label is heard: a score with a bias for the label asked about tells the draws apart."""

    @partial(jax.jit, static_argnums=0)
    def probs(tolerance, key):
        score_fn = learning_score(posteriors, settle)
        return diffusion.sample_cp(
            lambda c, s: score_fn(c, s) + jax.nn.one_hot(c, 10),
            SCHEDULE,
            batch_size=8,
            num_classes=10,
            steps=3,
            query="random",
            tolerance=tolerance,
            key=key,
        ).probs

    first, second = jax.random.key(0), jax.random.key(1)
    np.testing.assert_allclose(probs(1e-30, first), probs(0.0, first), atol=1e-6)
    assert (probs(1e-30, second) != probs(1e-30, first)).any()


def test_a_tolerance_that_is_no_total_variation_is_refused(posteriors):
    with pytest.raises(ValueError, match=r"tolerance: expected 0 <= tolerance <= 1, found 1\.5"):
        sample(posteriors, jnp.ones(8), tolerance=1.5)
