"""The corners of every range that the schedules document: all is finite, in float32, for any K."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import diffusion
from tests.diffusion.conftest import WALKS

BATCH = 4
BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
SCHEDULES = {
    "eps_least": diffusion.loglinear(diffusion.MIN_EPS),
    "eps_largest": diffusion.loglinear(BELOW_ONE),
    "geometric_widest": diffusion.geometric(diffusion.MIN_NOISE, diffusion.MAX_NOISE),
    "geometric_low": diffusion.geometric(diffusion.MIN_NOISE, 2 * diffusion.MIN_NOISE),
    "geometric_high": diffusion.geometric(diffusion.MAX_NOISE / 2, diffusion.MAX_NOISE),
}
MIN_TIMES = (0.0, 1e-5, BELOW_ONE)
PARAMETERIZATIONS = diffusion.PARAMETERIZATIONS.values()

schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
# The corner where most can overflow; the other one, and what lies between, are more of the same.
classes = pytest.mark.parametrize(
    "k", [*(pytest.param(k, marks=pytest.mark.slow) for k in (2, 10)), 1000]
)


@pytest.fixture
def no_jit():
    """One operation at a time: so many corners, each a program of its own, compile for minutes."""
    with jax.disable_jit():
        yield


def output(k):
    """Of networks: flat, wild at two seeds, and sure of itself, f32[BATCH, K]."""
    wild = jax.random.uniform(jax.random.key(0), (2, k), minval=-60, maxval=60)
    return jnp.concatenate([jnp.zeros((1, k)), wild, 60 * jnp.eye(1, k)])


def assert_on_simplex(probs):
    assert ((probs >= 0) & (probs <= 1)).all()
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-4)


def assert_finite_with_gradient(loss, at, *, norm):
    value, grad = jax.value_and_grad(loss)(at)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()
    if norm:  # which the optimizer takes: the squares have to be finite, too
        assert np.isfinite(jnp.square(grad).sum())


@schedules
@classes
def test_losses_and_their_gradients(no_jit, schedule, k):
    """At drawn times, and at the ends themselves."""
    hard = jax.nn.one_hot(jnp.arange(BATCH) % k, k)
    targets = jnp.where(jnp.arange(BATCH)[:, None] % 2 == 0, hard, 0.9 * hard + 0.1 / k)
    keys = jax.random.split(jax.random.key(1), BATCH)
    drawn = [diffusion.sample_times(keys[0], (BATCH, 1), min_time=each) for each in MIN_TIMES]
    drawn = jnp.concatenate([*drawn, jnp.ones((BATCH, 1))], axis=1)

    for time, norm in ((drawn, True), (jnp.zeros((BATCH, 1)), False)):

        def loss(x, read, kind, time=time):
            x = jnp.repeat(x, time.shape[1], axis=0)
            return diffusion.loss_at_times(
                keys, lambda c, s: read(x, c, s), targets, time, schedule, kind
            ).sum()

        for each in PARAMETERIZATIONS:
            assert_finite_with_gradient(
                partial(loss, read=each, kind="score_entropy"),
                output(k),
                norm=norm and each is not diffusion.parameterization.ratio,
            )
        assert_finite_with_gradient(
            partial(loss, read=lambda x, c, s: x, kind="cross_entropy"), output(k), norm=norm
        )


@schedules
@classes
def test_a_wrong_label_at_the_least_noise(no_jit, schedule, k):
    """What is hardly ever drawn: a hard label that has changed. At no noise it cannot."""
    for time in (0.0, 1e-10, 1e-5, 1.0):
        sigma = schedule.total(jnp.full(BATCH, time))
        if sigma[0] < diffusion.MIN_NOISE / 2:
            continue
        targets, labels = jnp.tile(jnp.eye(1, k), (BATCH, 1)), jnp.ones(BATCH, jnp.int32)
        for each in PARAMETERIZATIONS:

            def loss(x, each=each, sigma=sigma, time=time, targets=targets, labels=labels):
                return diffusion.weighted_score_entropy(
                    each(x, labels, sigma), targets, labels, jnp.full(BATCH, time), schedule
                ).sum()

            free = each is diffusion.parameterization.ratio
            assert_finite_with_gradient(loss, output(k), norm=not free)


@schedules
@classes
@pytest.mark.parametrize(("integrator", "grid"), WALKS)
def test_class_probabilities(no_jit, schedule, k, integrator, grid):
    # A walk of one step is over before anything can be decided early.
    walks = [(1, 0.0), (3, 0.0), (3, 1e-30), (3, 1.0)]
    corners = itertools.product(walks, MIN_TIMES)
    for ((steps, tolerance), min_time), each in zip(
        corners, itertools.cycle(PARAMETERIZATIONS), strict=False
    ):
        found = diffusion.sample_cp(
            lambda labels, sigma, each=each: each(output(k), labels, sigma),
            schedule,
            batch_size=BATCH,
            num_classes=k,
            steps=steps,
            integrator=integrator,
            grid=grid,
            min_time=min_time,
            tolerance=tolerance,
            return_trajectory=True,
        )
        assert_on_simplex(found.trajectory)


@schedules
@classes
def test_class_labels_and_single_calls(no_jit, schedule, k):
    for each in PARAMETERIZATIONS:

        def score_fn(labels, sigma, each=each):
            return each(output(k), labels, sigma)

        size = {"batch_size": BATCH, "num_classes": k}
        for steps, grid, min_time in ((1, "original", 0.0), (3, "linear", BELOW_ONE)):
            found = diffusion.sample_cl(
                jax.random.key(0),
                score_fn,
                schedule,
                steps=steps,
                chains=2,
                grid=grid,
                min_time=min_time,
                **size,
            )
            assert_on_simplex(found.probs)
        for time in (1e-45, 1e-5, 1.0):
            assert_on_simplex(diffusion.one_shot(score_fn, schedule, time=time, **size))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_at_their_ends(schedule):
    ends = jnp.asarray([0.0, 1e-30, 1e-5, BELOW_ONE, 1.0])
    assert np.isfinite(schedule.total(ends)).all()
    assert np.isfinite(schedule.rate(ends)).all()


def test_more_steps_than_there_are_times_to_tell_apart():
    found = diffusion.sample_cp(
        lambda labels, sigma: diffusion.parameterization.posterior(output(10), labels, sigma),
        diffusion.loglinear(diffusion.MIN_EPS),
        batch_size=BATCH,
        num_classes=10,
        steps=100_000,
        min_time=1 - 1e-3,
    )
    assert_on_simplex(found.probs)


def test_a_share_that_float32_cannot_hold_is_the_least_that_it_can():
    """1 - 1e-8 is 1 in float32: total noise and rate at t = 1 were infinite, posteriors NaN."""
    tiny, least = diffusion.loglinear(1e-8), diffusion.loglinear(diffusion.MIN_EPS)
    t = jnp.asarray([0.0, 0.5, 1.0])
    np.testing.assert_array_equal(tiny.total(t), least.total(t))
    np.testing.assert_array_equal(tiny.rate(t), least.rate(t))
    np.testing.assert_allclose(tiny.total(t)[-1], 24 * np.log(2), rtol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(tiny.total(jnp.ones((), jnp.float64)), -np.log(1e-8), rtol=1e-7)
