"""Labels that are wrong at random: the clean posterior is what losses find and samplers end at.

Every expectation is enumerated: the observed label z and the noised one c have K values each.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy.linalg import expm

from didicm_jax import diffusion
from didicm_jax.diffusion.parameterization import posterior
from tests.diffusion.conftest import WALKS

K = 4
SHARE, TIME = 0.4, 0.3
CLEAN = np.array([0.62, 0.25, 0.13, 0.0]) * 0.96 + 0.01
INNER = diffusion.loglinear()
SCHEDULE = diffusion.shifted(INNER, diffusion.total_noise(SHARE))


def chain(sigma, classes=K):
    """The transition matrix of total noise sigma, by a matrix exponential."""
    return expm(sigma * (np.ones((classes, classes)) / classes - np.eye(classes)))


def test_a_share_of_redrawn_labels_is_the_chain_at_its_total_noise():
    redrawn = (1 - SHARE) * np.eye(K) + SHARE / K
    np.testing.assert_allclose(chain(diffusion.total_noise(SHARE)), redrawn, atol=1e-15)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="expected 0 <= redrawn < 1"):
            diffusion.total_noise(share)


def test_a_schedule_is_shifted_as_far_as_it_is_told_and_not_at_all_by_nothing():
    time = jnp.asarray([1e-3, 0.5, 1.0])
    twice = diffusion.shifted(diffusion.shifted(INNER, 0.25), 0.5)
    np.testing.assert_allclose(twice.total(time), 0.75 + np.asarray(INNER.total(time)), rtol=1e-6)
    np.testing.assert_array_equal(twice.rate(time), INNER.rate(time))
    assert diffusion.shifted(INNER, diffusion.total_noise(0.0)) is INNER
    for sigma_0 in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="expected sigma_0 >= 0"):
            diffusion.shifted(INNER, sigma_0)


def test_marginals_of_logits_are_exact(x64):
    logits = jnp.log(jnp.asarray([CLEAN, np.full(K, 1 / K)])) + 3.0
    sigma = jnp.asarray([0.7, 2.0])
    expected = [CLEAN @ chain(0.7), np.full(K, 1 / K)]
    np.testing.assert_allclose(np.exp(diffusion.log_marginal(logits, sigma)), expected, rtol=1e-12)
    certain = diffusion.log_marginal(jnp.asarray([0.0, -jnp.inf]), jnp.asarray(0.5))
    np.testing.assert_allclose(np.exp(certain), chain(0.5, 2)[0], rtol=1e-12)


def expected_loss(loss, outputs, observed, added):
    """The mean of a loss of (outputs [K, K] of all c, z, c) over z and c, by enumeration."""
    noised = jnp.arange(K)
    total = 0.0
    for label in range(K):
        targets = jnp.tile(jnp.eye(K)[label], (K, 1))
        weights = observed[label] * added[label]
        total = total + (weights * loss(outputs, targets, noised)).sum()
    return total


def entropy_of(read):
    def loss(outputs, targets, noised):
        log_score = read(outputs, noised)
        time = jnp.full(K, TIME)
        return diffusion.weighted_score_entropy(log_score, targets, noised, time, SCHEDULE)

    return loss


def total():
    return jnp.full(K, SCHEDULE.total(jnp.asarray(TIME, float)))


def from_posterior(outputs, noised):
    # `posterior` itself answers in float32.
    log_marginal = diffusion.log_marginal(outputs, total())
    return log_marginal - jnp.diagonal(log_marginal)[:, None]


def cross(outputs, targets, noised):
    sigma = jnp.full(K, INNER.total(jnp.asarray(TIME, float)))
    return diffusion.denoising_cross_entropy(
        outputs, targets, noised, sigma, diffusion.total_noise(SHARE)
    )


def corrected(outputs, targets, noised):
    sigma_0 = jnp.full(K, diffusion.total_noise(SHARE))
    return -(targets * diffusion.log_marginal(outputs, sigma_0)).sum(-1)


ADDED = chain(-np.log1p(-(1 - 1e-3) * TIME))
# A loss, how q_0 is read from the outputs [K, K], one row for each noised label, and how that came
# from the observed label. A classifier sees no noised label: what it could see says nothing.
OBJECTIVES = {
    "score entropy of ratios": (
        entropy_of(lambda outputs, noised: outputs),
        # The entry at the label is not read by the loss; it is 0.
        lambda outputs: diffusion.denoise(jnp.where(np.eye(K) > 0, 0.0, outputs), total()),
        ADDED,
    ),
    "score entropy of log q_0": (entropy_of(from_posterior), jax.nn.softmax, ADDED),
    "denoising cross-entropy": (cross, jax.nn.softmax, ADDED),
    "forward-corrected softmax": (corrected, jax.nn.softmax, np.full((K, K), 1 / K)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_minimiser_is_the_clean_posterior(x64, name):
    """Free outputs for each noised label; the data are of the chain by its matrix exponential."""
    loss, read, added = OBJECTIVES[name]
    observed = CLEAN @ chain(-np.log1p(-SHARE))
    assert np.abs(observed - CLEAN).sum() > 0.2

    def expected(raw):
        return expected_loss(loss, raw.reshape(K, K), observed, jnp.asarray(added))

    value = jax.jit(jax.value_and_grad(expected))
    found = optimize.minimize(value, np.zeros(K * K), jac=True, method="BFGS", tol=1e-11).x
    # Rounding of the loss ends that search, at another point on each machine; Newton's step does
    # not compare losses. By least squares: a constant added to a row of logits changes nothing.
    found = found - np.linalg.lstsq(jax.hessian(expected)(found), value(found)[1], rcond=1e-9)[0]
    outputs = jnp.asarray(found.reshape(K, K))
    np.testing.assert_allclose(read(outputs), np.tile(CLEAN, (K, 1)), atol=1e-6)
    # No other output does better.
    assert value(found + 0.01 * np.random.default_rng(0).normal(size=K * K))[0] > value(found)[0]


def test_with_all_noise_added_the_cross_entropy_is_forward_corrected(x64):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(K, K)))
    targets = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(K), size=K))
    far = diffusion.denoising_cross_entropy(
        logits, targets, jnp.arange(K), jnp.full(K, 60.0), diffusion.total_noise(SHARE)
    )
    probs = np.asarray(jax.nn.softmax(logits))
    expected = -(targets * np.log((1 - SHARE) * probs + SHARE / K)).sum(-1)
    np.testing.assert_allclose(far, expected, rtol=1e-9)


def test_a_network_hears_the_noise_since_the_clean_label_and_targets_have_that_of_the_schedule():
    time = jnp.asarray([[1e-3, 0.9], [1e-3, 0.2], [1e-3, 0.5]])
    targets = jnp.eye(3, K)
    keys = jax.random.split(jax.random.key(0), 3)
    raw = np.random.default_rng(0).normal(size=(6, K)).astype(np.float32)

    @jax.jit
    def ask():
        heard = []

        def output(*arguments):
            heard.append(arguments)
            return jnp.asarray(raw)

        entropy = diffusion.loss_at_times(keys, output, targets, time, SCHEDULE)
        explained = diffusion.loss_at_times(keys, output, targets, time, SCHEDULE, "cross_entropy")
        return (entropy, explained), heard

    found, ((labels, sigma), _) = ask()
    inner = -np.log1p(-(1 - 1e-3) * np.asarray(time, float).reshape(-1))
    np.testing.assert_allclose(sigma, inner - np.log1p(-SHARE), rtol=1e-5)
    # At the least of times the schedule leaves the observed label alone.
    np.testing.assert_array_equal(labels[::2], [0, 1, 2])
    expected = [], []
    for row, (c, s) in enumerate(zip(labels, inner, strict=True)):
        q = chain(s)[row // 2]
        r, log_s = q / q[c], raw[row]
        terms = np.exp(log_s) - r * log_s + r * (np.log(r) - 1)
        rate = (1 - 1e-3) / np.exp(-s)
        expected[0].append(rate / K * (terms.sum() - terms[c]))
        # Bayes: the observed label behind the noised one, with the model's q_0 carried forward.
        model = np.exp(raw[row]) / np.exp(raw[row]).sum() @ chain(-np.log1p(-SHARE)) * chain(s)[c]
        expected[1].append(-np.log(model[row // 2] / model.sum()))
    for loss, values in zip(found, expected, strict=True):
        np.testing.assert_allclose(loss, np.reshape(values, (3, 2)).mean(1), rtol=1e-3)


def only_where_trained(score_fn):
    """NaN where no network of `SCHEDULE` was trained."""
    low, high = (float(SCHEDULE.total(jnp.asarray(t))) for t in (1e-5, 1.0))

    def guarded(labels, sigma):
        inside = (sigma >= low * (1 - 1e-6)) & (sigma <= high * (1 + 1e-6))
        return jnp.where(inside[..., None], score_fn(labels, sigma), jnp.nan)

    return guarded


# Largest total variation after 16 steps of a true score: as without label noise, where a test of
# the grids has the means. Steps of `original` overshoot.
NEAR = {"linear": 2e-2, "original": 0.1}


@pytest.mark.parametrize("tolerance", [0.0, 1e-4])
@pytest.mark.parametrize(("integrator", "grid"), WALKS)
def test_every_walk_ends_at_the_clean_posterior(
    posteriors, exact_score, integrator, grid, tolerance
):
    score_fn = only_where_trained(exact_score(posteriors))
    sample = jax.jit(
        partial(
            diffusion.sample_cp,
            score_fn,
            SCHEDULE,
            batch_size=8,
            num_classes=10,
            steps=16,
            integrator=integrator,
            grid=grid,
            tolerance=tolerance,
            return_trajectory=True,
        )
    )()
    far = np.abs(sample.probs - posteriors).sum(-1) / 2
    assert far.max() < (1e-4 if integrator == "exact" else NEAR[grid])
    np.testing.assert_allclose(sample.probs.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(sample.trajectory[:, -1], sample.probs)
    # What is observed is far from it, and no walk may end there.
    observed = diffusion.marginal(posteriors, jnp.full(8, diffusion.total_noise(SHARE)))
    assert (np.abs(observed - posteriors).sum(-1) / 2).max() > 0.2


def test_one_call_is_enough_for_a_true_score(posteriors, exact_score):
    score_fn = only_where_trained(exact_score(posteriors))
    size = {"batch_size": 8, "num_classes": 10}

    @jax.jit
    def ask():
        shots = [diffusion.one_shot(score_fn, SCHEDULE, **size, time=t) for t in (1e-3, 0.6)]
        one = diffusion.sample_cp(score_fn, SCHEDULE, **size, steps=1, integrator="exact")
        return shots, one.probs

    shots, one = ask()
    for found in shots:
        np.testing.assert_allclose(found, posteriors, atol=1e-5)
    np.testing.assert_allclose(one, posteriors, atol=2e-3)


def test_chains_end_at_clean_labels(posteriors, exact_score):
    score_fn = only_where_trained(exact_score(posteriors))
    sample = jax.jit(
        lambda key: diffusion.sample_cl(
            key,
            score_fn,
            SCHEDULE,
            batch_size=8,
            num_classes=10,
            steps=16,
            chains=4000,
            grid="linear",
        )
    )(jax.random.key(0))
    # 4000 draws over ten classes are about 0.02 away.
    assert (np.abs(sample.probs - posteriors).sum(-1) / 2).max() < 0.05


def test_the_parameterization_posterior_is_told_the_noise_since_the_clean_label():
    """So its scores are those of the chain of the clean label, without a change."""
    logits = jnp.log(jnp.asarray(CLEAN, jnp.float32))[None]
    sigma = SCHEDULE.total(jnp.asarray([TIME]))
    found = posterior(logits, jnp.asarray([1]), sigma)[0]
    q = CLEAN @ chain(-np.log1p(-SHARE)) @ chain(-np.log1p(-(1 - 1e-3) * TIME))
    np.testing.assert_allclose(found, np.log(q / q[1]), atol=1e-5)
