"""Heun's method and the walk over whole posteriors, against references of their own."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from didicm_jax import diffusion

# Its rate is bounded by 4.6 where loglinear's is 999 at t = 1: orders show at few steps.
GENTLE = diffusion.geometric(1e-2, 1.0)


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
    step = diffusion.bayes_cp_step
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
            grid="noise",
        )

    run(jax.random.key(0))
    jax.effects_barrier()
    query = diffusion.times("noise", 4, 1e-5, GENTLE).query
    np.testing.assert_allclose(sorted(asked), np.sort(GENTLE.total(query)), rtol=1e-6)
