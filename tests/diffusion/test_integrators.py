"""What every integrator must do, then what is one's own, against references of their own."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from didicm_jax import diffusion
from didicm_jax.diffusion.integrators import Euler
from didicm_jax.diffusion.steps import bayes_step
from tests.diffusion.conftest import WALKS

SCHEDULE = diffusion.loglinear()
every = pytest.mark.parametrize(("integrator", "grid"), WALKS)

# Its rate is bounded by 4.6 where loglinear's is 999 at t = 1: orders show at few steps.
GENTLE = diffusion.geometric(1e-2, 1.0)


@every
def test_a_true_score_gives_the_posterior(posteriors, exact_score, integrator, grid):
    found = diffusion.sample_cp(
        exact_score(posteriors),
        diffusion.loglinear(1e-4),
        batch_size=8,
        num_classes=10,
        steps=512,
        integrator=integrator,
        grid=grid,
    )
    np.testing.assert_allclose(found.probs, posteriors, atol=0.02)


def test_the_exact_integrator_needs_one_step(posteriors, exact_score):
    found = diffusion.sample_cp(
        exact_score(posteriors),
        diffusion.loglinear(1e-4),
        batch_size=8,
        num_classes=10,
        steps=1,
        integrator="exact",
    )
    np.testing.assert_allclose(found.probs, posteriors, atol=2e-3)


@partial(jax.jit, static_argnums=(1, 2, 3))
def constant_score_path(table, steps, integrator, grid):
    return diffusion.sample_cp(
        lambda c, s: table - jnp.take_along_axis(table, c[:, None], axis=-1),
        SCHEDULE,
        batch_size=table.shape[0],
        num_classes=table.shape[1],
        steps=steps,
        integrator=integrator,
        grid=grid,
        return_trajectory=True,
    ).trajectory


@every
@settings(deadline=None, max_examples=15)
@given(st.sampled_from([2, 3, 17]), st.sampled_from([1, 8]), st.integers(0, 2**31 - 1))
def test_p_stays_on_the_simplex_for_any_score(integrator, grid, k, steps, seed):
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.normal(size=(4, k)) * 20, jnp.float32)
    path = constant_score_path(table, steps, integrator, grid)
    assert path.dtype == jnp.float32
    assert ((path >= 0) & (path <= 1)).all()
    np.testing.assert_allclose(path.sum(-1), 1, rtol=1e-5)


@every
def test_permuting_the_classes_permutes_the_posterior(
    x64, posteriors, exact_score, integrator, grid
):
    order = np.random.default_rng(2).permutation(10)

    @jax.jit
    def probs(q0):
        return diffusion.sample_cp(
            exact_score(q0),
            SCHEDULE,
            batch_size=8,
            num_classes=10,
            steps=4,
            integrator=integrator,
            grid=grid,
        ).probs

    np.testing.assert_allclose(probs(posteriors[:, order]), probs(posteriors)[:, order], rtol=1e-9)


@every
@pytest.mark.parametrize("tolerance", [0.0, 1e-30])
def test_the_network_is_asked_once_a_step_at_the_times_of_the_grid(
    posteriors, exact_score, integrator, grid, tolerance
):
    asked = []

    def score_fn(labels, sigma):
        jax.debug.callback(lambda x: asked.append(float(x[0])), sigma, ordered=True)
        return exact_score(posteriors)(labels, sigma) * (2 - jnp.cos(sigma))[:, None]

    walk = diffusion.sample_cp(
        score_fn,
        SCHEDULE,
        batch_size=8,
        num_classes=10,
        steps=4,
        integrator=integrator,
        grid=grid,
        tolerance=tolerance,
    )
    jax.effects_barrier()
    expected = SCHEDULE.total(diffusion.times(grid, 4, 1e-5).query)
    np.testing.assert_allclose(asked, expected, rtol=1e-6)
    np.testing.assert_array_equal(walk.steps_used, 4)


@pytest.mark.parametrize(
    ("integrator", "own"), [("euler", "original"), ("exact", "linear"), ("heun", "linear")]
)
def test_without_a_grid_an_integrator_walks_its_own(posteriors, exact_score, integrator, own):
    found = [
        diffusion.sample_cp(
            exact_score(posteriors),
            SCHEDULE,
            batch_size=8,
            num_classes=10,
            steps=3,
            integrator=integrator,
            **options,
        ).probs
        for options in ({}, {"grid": own})
    ]
    np.testing.assert_array_equal(*found)


def test_a_new_integrator_is_one_class_and_one_entry(posteriors, exact_score, monkeypatch):
    """The mean of two Euler steps with memory of its own: nothing else has to know of it."""

    class Smoothed(Euler):
        grids = ("linear",)

        def init(self, probs):
            return {"last": probs}

        def step(self, probs, memory, log_score, level):
            ahead, _ = super().step(probs, None, log_score, level)
            return (ahead + memory["last"]) / 2, {"last": ahead}

    monkeypatch.setitem(diffusion.INTEGRATORS, "smoothed", Smoothed())
    for tolerance in (0.0, 0.01):
        found = diffusion.sample_cp(
            exact_score(posteriors),
            SCHEDULE,
            batch_size=8,
            num_classes=10,
            steps=16,
            integrator="smoothed",
            tolerance=tolerance,
        )
        np.testing.assert_allclose(found.probs, posteriors, atol=0.1)


def drift(p, q):
    """The equation of DiDiCM-CP per unit of noise: p times the reverse-rate matrix, in loops."""
    k = len(p)
    change = np.zeros(k)
    for j in range(k):
        for i in range(k):
            if i != j:
                flow = p[j] * q[i] / q[j] / k
                change[i] += flow
                change[j] -= flow
    return change


def gentle_marginal(q0, t):
    keep = np.exp(-(1e-2 ** (1 - t)))
    return keep * q0 + (1 - keep) / len(q0)


def gentle_rate(t):
    return 1e-2 ** (1 - t) * np.log(100)


def walk(exact_score, q0, **options):
    return diffusion.sample_cp(
        exact_score(q0), GENTLE, batch_size=len(q0), num_classes=q0.shape[-1], **options
    )


@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence_to_the_equation(x64, exact_score, integrator, order):
    q0 = np.asarray([[0.5, 0.3, 0.15, 0.05]])
    exact = solve_ivp(
        lambda s, p: gentle_rate(1 - s) * drift(p, gentle_marginal(q0[0], 1 - s)),
        (0.0, 0.9),
        np.full(4, 0.25),
        rtol=1e-10,
        atol=1e-12,
    ).y[:, -1]
    errors = [
        np.abs(
            walk(
                exact_score,
                jnp.asarray(q0),
                steps=steps,
                integrator=integrator,
                grid="linear",
                min_time=0.1,
            ).probs[0]
            - exact
        ).max()
        for steps in (32, 64)
    ]
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.2)


def test_heun_is_heun_written_out_with_one_call_a_step(x64, posteriors, exact_score):
    """Against two calls a step in a plain loop: the true score needs no label."""
    calls = []
    q0 = posteriors.astype(float)

    def score_fn(labels, sigma):
        jax.debug.callback(lambda x: calls.append(float(x[0])), sigma, ordered=True)
        return exact_score(q0)(labels, sigma)

    steps, found = 4, []
    for integrator in ("heun", "euler"):
        found.append(
            diffusion.sample_cp(
                score_fn,
                GENTLE,
                batch_size=8,
                num_classes=10,
                steps=steps,
                integrator=integrator,
                grid="linear",
                min_time=0.1,
            ).probs
        )
    jax.effects_barrier()
    times = np.linspace(1, 0.1, steps + 1)
    np.testing.assert_allclose(calls, np.tile(GENTLE.total(times[:-1]), 2), rtol=1e-12)
    width = 0.9 / steps
    for b, q in enumerate(np.asarray(q0)):

        def euler(p, t, q=q):
            p = np.clip(p + width * gentle_rate(t) * drift(p, gentle_marginal(q, t)), 0, 1)
            return p / p.sum()

        p = np.full(10, 0.1)
        for now, later in pairwise(times[:-1]):
            p = (p + euler(euler(p, now), later)) / 2
        np.testing.assert_allclose(found[0][b], euler(p, times[-2]), rtol=1e-9)


def test_bayes_steps_compose(x64, posteriors):
    """Two steps with one q_0 are one over both, for any p."""
    p = jax.nn.softmax(2 * jax.random.normal(jax.random.key(1), (8, 10)))
    first, second, third = (jnp.full(8, s) for s in (2.0, 0.7, 0.1))
    step = bayes_step
    np.testing.assert_allclose(
        step(step(p, posteriors, first, second), posteriors, second, third),
        step(p, posteriors, first, third),
        rtol=1e-10,
    )
    np.testing.assert_allclose(step(p, posteriors, third, third), p, rtol=1e-10)


def test_cl_walks_the_grid_it_is_given(posteriors, exact_score):
    asked = []

    def score_fn(labels, sigma):
        jax.debug.callback(lambda x: asked.append(float(x[0])), sigma)
        return exact_score(posteriors)(labels, sigma)

    @jax.jit
    def run(key):
        return diffusion.sample_cl(
            key,
            score_fn,
            GENTLE,
            batch_size=8,
            num_classes=10,
            steps=4,
            chains=1,
            grid="linear",
        )

    run(jax.random.key(0))
    jax.effects_barrier()
    query = diffusion.times("linear", 4, 1e-5).query
    np.testing.assert_allclose(sorted(asked), np.sort(GENTLE.total(query)), rtol=1e-6)
