import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didicm_jax import diffusion

CLASSES = [2, 10, 100]
SCHEDULE = diffusion.loglinear()


@pytest.mark.parametrize("k", CLASSES)
def test_golden_hard_labels(golden, x64, k):
    group = {
        name: jnp.asarray(golden[f"sedd/{k}/{name}"]) for name in ("x0", "xt", "sigma", "log_score")
    }
    one_hot = jax.nn.one_hot(group["x0"], k, dtype=float)

    def loss(log_score):
        log_ratio = diffusion.log_ratio(one_hot, group["sigma"], group["xt"])
        return diffusion.score_entropy(log_score, log_ratio, group["xt"])

    value, pullback = jax.jit(lambda x: jax.vjp(loss, x))(group["log_score"])
    (grad,) = pullback(jnp.ones(24))
    np.testing.assert_allclose(value, golden[f"sedd/{k}/loss"], rtol=1e-5)
    np.testing.assert_allclose(grad, golden[f"sedd/{k}/grad"], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("k", CLASSES)
def test_golden_soft_labels(golden, x64, k):
    p0, t, labels = (jnp.asarray(golden[f"didicm/{k}/{name}"]) for name in ("p0", "t", "ct"))

    def loss(log_score):
        return diffusion.weighted_score_entropy(log_score, p0, labels, t, SCHEDULE)

    log_score = jnp.asarray(golden[f"didicm/{k}/raw_log_score"])
    # The original leaves the constant of its i = c term in.
    expected = golden[f"didicm/{k}/loss"] + SCHEDULE.rate(t) / k
    value, pullback = jax.jit(lambda x: jax.vjp(loss, x))(log_score)
    (grad,) = pullback(jnp.ones(6))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, golden[f"didicm/{k}/grad"], rtol=1e-5, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([2, 3, 30]), st.floats(1e-3, 5.0), st.integers(0, 2**31 - 1))
def test_zero_at_the_true_score_and_positive_beside_it(k, sigma, seed):
    rng = np.random.default_rng(seed)
    p0 = jnp.asarray(rng.dirichlet(np.ones(k), size=4), jnp.float32)
    labels = jnp.asarray(rng.integers(0, k, 4))
    log_ratio = jax.jit(diffusion.log_ratio)(p0, jnp.full(4, sigma), labels)
    loss = jax.jit(diffusion.score_entropy)
    np.testing.assert_array_equal(loss(log_ratio, log_ratio, labels), 0.0)
    other = (labels + 1) % k
    for shift in (-1e-3, 1e-3, 3.0, -3.0):
        moved = log_ratio.at[jnp.arange(4), other].add(shift)
        assert (loss(moved, log_ratio, labels) > 0).all()


def test_matches_the_formula_written_out(x64):
    rng = np.random.default_rng(0)
    log_s, log_r = rng.normal(size=(2, 6, 5)) * 3
    labels = rng.integers(0, 5, 6)
    expected = np.zeros(6)
    for b in range(6):
        for i in range(5):
            if i != labels[b]:
                s, r = np.exp(log_s[b, i]), np.exp(log_r[b, i])
                expected[b] += (s - r * np.log(s) + r * (np.log(r) - 1)) / 5
    found = diffusion.score_entropy(jnp.asarray(log_s), jnp.asarray(log_r), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_gradient_is_score_minus_ratio_on_both_sides_of_the_switch(x64):
    """The loss changes its form at |log s - log r| = 1; value and gradient must not."""
    log_r = jnp.full((5, 2), 0.3)
    log_s = log_r.at[:, 1].add(jnp.asarray([-5.0, -1.0, 0.0, 1.0, 5.0]))
    labels = jnp.zeros(5, int)
    grad = jax.grad(lambda x: diffusion.score_entropy(x, log_r, labels).sum())(log_s)
    expected = (jnp.exp(log_s) - jnp.exp(log_r)) / 2
    np.testing.assert_allclose(grad[:, 1], expected[:, 1], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(grad[:, 0], 0.0)
    below, above = (
        diffusion.score_entropy(log_r.at[:, 1].add(d), log_r, labels) for d in (1 - 1e-9, 1 + 1e-9)
    )
    np.testing.assert_allclose(below, above, rtol=1e-8)


def test_float32_keeps_the_digits_of_a_small_error_at_a_huge_ratio():
    """Ratios reach 1e6 at small noise; an error of 1e-3 in log s is a loss of 0.5, not noise."""
    log_r = jnp.asarray([[0.0, 14.0]])
    found = diffusion.score_entropy(log_r + jnp.asarray([[0.0, 1e-3]]), log_r, jnp.zeros(1, int))
    shift = float(np.float32(14.001)) - 14.0  # what float32 made of 14 + 1e-3
    np.testing.assert_allclose(found, np.exp(14.0) * (np.expm1(shift) - shift) / 2, rtol=1e-3)


@pytest.mark.parametrize("k", [2, 100_000])
@pytest.mark.parametrize("log_score", [-80.0, 80.0])
@pytest.mark.parametrize("sigma", [1e-6, 6.9])
@pytest.mark.parametrize("kind", ["one_hot", "uniform"])
def test_extremes_are_finite(k, log_score, sigma, kind):
    p0 = jnp.eye(1, k) if kind == "one_hot" else jnp.full((1, k), 1 / k)
    labels = jnp.ones(1, int)

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        log_ratio = diffusion.log_ratio(p0, jnp.full(1, sigma), labels)
        return diffusion.score_entropy(x, log_ratio, labels).sum()

    value, grad = loss(jnp.full((1, k), log_score))
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_no_loss_without_noise_at_the_score_of_a_hard_label():
    """All its ratios but one are 0, and so are those of the true score."""
    true = np.asarray([[0.0, -np.inf, -np.inf]], np.float32)

    @jax.jit
    @jax.value_and_grad
    def loss(log_score, log_ratio):
        return diffusion.score_entropy(log_score, log_ratio, jnp.zeros(1, int)).sum()

    value, grad = loss(true, true)
    assert value == 0
    np.testing.assert_array_equal(grad, 0)
    assert loss(true, np.zeros_like(true))[0] == np.inf  # it denies ratios that are there


def test_no_noise_and_no_mass():
    """At sigma = 0 a one-hot q_0 has ratios of 0; the terms are the scores alone."""
    labels = jnp.zeros(1, int)
    log_ratio = diffusion.log_ratio(jnp.eye(1, 3), jnp.zeros(1), labels)
    value, grad = jax.value_and_grad(lambda x: diffusion.score_entropy(x, log_ratio, labels).sum())(
        jnp.asarray([[0.0, 0.5, 1.0]])
    )
    np.testing.assert_allclose(value, (np.exp(0.5) + np.exp(1.0)) / 3, rtol=1e-6)
    np.testing.assert_allclose(grad[0, 1:], np.exp([0.5, 1.0]) / 3, rtol=1e-6)


def test_bfloat16_scores_are_promoted(posteriors):
    log_ratio = diffusion.log_ratio(posteriors, jnp.ones(8), jnp.arange(8))
    loss = diffusion.score_entropy(log_ratio.astype(jnp.bfloat16), log_ratio, jnp.arange(8))
    assert loss.dtype == jnp.float32
    assert (loss < 1e-4).all()


def test_permuting_the_classes_changes_nothing(posteriors):
    order = np.random.default_rng(0).permutation(10)
    inverse = np.argsort(order)
    log_score = jax.random.normal(jax.random.key(1), (8, 10))
    labels, time = jnp.arange(8), jnp.linspace(0.01, 1.0, 8)
    loss = diffusion.weighted_score_entropy
    np.testing.assert_allclose(
        loss(
            log_score[:, order], posteriors[:, order], jnp.asarray(inverse)[labels], time, SCHEDULE
        ),
        loss(log_score, posteriors, labels, time, SCHEDULE),
        rtol=1e-5,
    )


def test_the_loss_and_its_gradient_match_their_exact_expectation():
    """Monte Carlo over (t, c) against quadrature over t and enumeration over c."""
    k, batch = 4, 1 << 18
    p0 = jnp.asarray([0.55, 0.3, 0.1, 0.05])
    schedule = diffusion.loglinear(0.05)

    def score(theta, labels, sigma):
        level = jnp.stack([jnp.ones_like(sigma), sigma], -1) @ theta
        return level - jnp.take_along_axis(level, labels[:, None], axis=-1)

    theta = jnp.asarray([[0.3, -0.1, 0.2, 0.1], [0.1, 0.2, -0.3, 0.0]])

    def sampled(theta):
        probs = jnp.tile(p0, (batch, 1))
        return diffusion.didicm_loss(
            jax.random.key(0), lambda c, s: score(theta, c, s), probs, schedule, min_time=0.05
        ).mean()

    def exact(theta):
        times = 0.05 + 0.95 * (jnp.arange(2000.0) + 0.5) / 2000
        total = 0.0
        for c in range(k):
            labels = jnp.full(2000, c)
            sigma = schedule.total(times)
            loss = diffusion.weighted_score_entropy(
                score(theta, labels, sigma), jnp.tile(p0, (2000, 1)), labels, times, schedule
            )
            weight = jnp.exp(-sigma) * p0[c] + (1 - jnp.exp(-sigma)) / k
            total = total + (weight * loss).mean()
        return total

    found, found_grad = jax.jit(jax.value_and_grad(sampled))(theta)
    expected, expected_grad = jax.jit(jax.value_and_grad(exact))(theta)
    np.testing.assert_allclose(found, expected, rtol=0.02)
    np.testing.assert_allclose(found_grad, expected_grad, atol=0.02 * np.abs(expected_grad).max())


@pytest.mark.parametrize("sigma", [1e-3, 0.7, 5.0])
def test_denoising_cross_entropy_is_bayes_rule_written_out(x64, sigma):
    """Against the table of the joint distribution of clean and noised label.

    So is its derivative in the target, also where that is 0.
    """
    k, rng = 4, np.random.default_rng(3)
    soft, model = rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k))
    chain = np.asarray(
        diffusion.transition(jnp.arange(k), jnp.full(k, sigma), k)
    )  # [clean, noised]
    loss = jax.value_and_grad(diffusion.denoising_cross_entropy, argnums=1)
    for label, target in itertools.product(range(k), (soft, np.eye(k)[2])):
        evidence = target @ chain[:, label]
        clean = target * chain[:, label] / evidence
        nats = -np.log(model * chain[:, label] / (model @ chain[:, label]))
        found, slope = loss(
            jnp.log(model) + 3.0, jnp.asarray(target), jnp.asarray(label), jnp.asarray(sigma)
        )
        np.testing.assert_allclose(found, clean @ nats, rtol=1e-10)
        expected = chain[:, label] * (nats - clean @ nats) / evidence
        np.testing.assert_allclose(slope, expected, rtol=1e-9, atol=1e-9)


def test_denoising_cross_entropy_is_least_at_the_target(x64):
    """In expectation over the noised label its gradient vanishes there."""
    k, sigma = 5, 0.4
    target = np.random.default_rng(0).dirichlet(np.ones(k))
    noised = diffusion.marginal(jnp.asarray(target), jnp.asarray(sigma))

    def expected(logits):
        losses = jax.vmap(
            lambda label: diffusion.denoising_cross_entropy(
                logits, jnp.asarray(target), label, jnp.asarray(sigma)
            )
        )(jnp.arange(k))
        return losses @ noised

    np.testing.assert_allclose(jax.grad(expected)(jnp.log(target)), 0, atol=1e-12)
    away = jnp.log(target) + jnp.asarray([0.1, 0, 0, 0, 0])
    assert expected(away) > expected(jnp.log(target))


def test_denoising_cross_entropy_of_hard_labels_has_bounded_gradients():
    k = 1000
    targets = jax.nn.one_hot(jnp.zeros(3, jnp.int32), k)
    labels, sigma = jnp.asarray([0, 1, 1]), jnp.asarray([1e-6, 1e-6, 20.0])
    logits = jnp.zeros((3, k)).at[1, 1].set(1e4)
    loss, grad = jax.value_and_grad(
        lambda x: diffusion.denoising_cross_entropy(x, targets, labels, sigma).sum()
    )(logits)
    assert np.isfinite(loss)
    assert np.abs(grad).max() <= 1
    # All noise: the cross-entropy of a classifier.
    np.testing.assert_allclose(
        diffusion.denoising_cross_entropy(logits, targets, labels, sigma)[2], np.log(k), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_score": jnp.zeros((3, 5), int)}, "type"),
        ({"labels": jnp.zeros(3)}, "type"),
        ({"time": jnp.ones((3, 1))}, "shape"),
        ({"probs": jnp.ones((3, 4)) / 4}, "shape"),
        ({"labels": jnp.zeros((3, 5), int), "time": jnp.ones((3, 5))}, "rank"),
    ],
)
def test_arguments_of_another_rank_or_type_are_refused(change, message):
    arguments = {
        "log_score": jnp.zeros((3, 5)),
        "probs": jnp.full((3, 5), 0.2),
        "labels": jnp.zeros(3, int),
        "time": jnp.ones(3),
    } | change
    with pytest.raises(AssertionError, match=message):
        diffusion.weighted_score_entropy(*arguments.values(), SCHEDULE)


def test_a_loss_that_there_is_not_is_not_taken_for_another():
    keys, probs = jax.random.split(jax.random.key(0), 2), jnp.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"loss: expected one of .* found 'crossentropy'"):
        diffusion.loss_at_times(
            keys,
            lambda labels, sigma: jnp.zeros((2, 3)),
            probs,
            jnp.full((2, 1), 0.5),
            diffusion.loglinear(),
            "crossentropy",
        )
