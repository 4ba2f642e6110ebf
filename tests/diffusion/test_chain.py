import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from didicm_jax import diffusion

CLASSES = [2, 10, 100]


def generator(num_classes):
    """Q of the uniform chain, as a matrix."""
    return (np.ones((num_classes, num_classes)) - num_classes * np.eye(num_classes)) / num_classes


@pytest.mark.parametrize("k", CLASSES)
def test_golden(golden, x64, k):
    group = {name: golden[f"forward/{k}/{name}"] for name in ("p0", "sigma", "p_t", "labels")}
    labels = jnp.asarray(group["labels"])
    # The original's marginal passes through a float32 eigen-decomposition.
    p_t = diffusion.marginal(group["p0"], group["sigma"])
    np.testing.assert_allclose(p_t, group["p_t"], atol=1e-6)
    transition = diffusion.transition(labels, group["sigma"], k)
    np.testing.assert_allclose(transition, golden[f"forward/{k}/transition"], rtol=1e-5)
    rate = diffusion.reverse_rate(labels, golden[f"forward/{k}/score"])
    np.testing.assert_allclose(rate, golden[f"forward/{k}/reverse_rate"], rtol=1e-5)
    # With a score of 1 everywhere the reverse rate is the forward one, a row of Q.
    np.testing.assert_allclose(
        diffusion.reverse_rate(labels, jnp.ones((labels.size, k))),
        golden[f"forward/{k}/rate"],
        rtol=1e-12,
    )


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("sigma", [1e-6, 0.3, 2.0, 9.0])
def test_matrix_exponential(x64, k, sigma):
    matrix = scipy.linalg.expm(sigma * generator(k))
    rows = diffusion.transition(jnp.arange(k), jnp.full(k, sigma), k)
    np.testing.assert_allclose(rows, matrix, rtol=1e-10)
    p0 = np.random.default_rng(0).dirichlet(np.ones(k), size=5)
    np.testing.assert_allclose(diffusion.marginal(p0, jnp.full(5, sigma)), p0 @ matrix, rtol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([2, 3, 50]),
    st.floats(1e-6, 20.0),
    st.floats(1e-6, 20.0),
    st.integers(0, 2**31 - 1),
)
def test_marginals_stay_on_the_simplex_and_compose(k, first, second, seed):
    p0 = jnp.asarray(np.random.default_rng(seed).dirichlet(np.ones(k), size=3), jnp.float32)
    marginal = jax.jit(diffusion.marginal)
    once = marginal(p0, jnp.full(3, first + second))
    twice = marginal(marginal(p0, jnp.full(3, first)), jnp.full(3, second))
    assert (once >= 0).all()
    np.testing.assert_allclose(once.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(once, twice, rtol=1e-4, atol=1e-7)


def test_permuting_the_classes_permutes_the_marginal(posteriors):
    sigma = jnp.linspace(0.01, 3.0, 8)
    order = np.random.default_rng(1).permutation(10)
    np.testing.assert_array_equal(
        diffusion.marginal(posteriors[:, order], sigma),
        diffusion.marginal(posteriors, sigma)[:, order],
    )


def test_log_ratio_is_zero_at_the_label_and_the_ratio_elsewhere(x64, posteriors):
    sigma = jnp.linspace(0.01, 3.0, 8)
    labels = jnp.arange(8)
    q = diffusion.marginal(posteriors, sigma)
    expected = np.asarray(q) / np.asarray(q)[np.arange(8), np.arange(8)][:, None]
    found = diffusion.log_ratio(posteriors, sigma, labels)
    np.testing.assert_allclose(jnp.exp(found), expected, rtol=1e-10)
    np.testing.assert_array_equal(found[jnp.arange(8), labels], 0.0)


def test_tiny_noise_keeps_its_digits_in_float32():
    """The mass that leaves a one-hot label is sigma (K - 1) / K, down to sigma = 1e-6."""
    one_hot = jnp.eye(1, 100_000)
    q = diffusion.marginal(one_hot, jnp.full(1, 1e-6))
    np.testing.assert_allclose(q[0, 1:], 1e-6 / 100_000, rtol=1e-5)
    assert np.isfinite(diffusion.log_ratio(one_hot, jnp.full(1, 1e-6), jnp.zeros(1, int))).all()


def test_draws_follow_the_marginal(posteriors):
    draws = 200_000
    sigma = jnp.linspace(0.05, 2.0, 8)
    keys = jax.random.split(jax.random.key(3), draws // 100)
    sample = jax.jit(
        jax.vmap(
            lambda key: diffusion.sample_marginal(
                key, jnp.tile(posteriors, (100, 1)), jnp.tile(sigma, 100)
            )
        )
    )
    labels = np.asarray(sample(keys)).reshape(-1, 8)
    found = np.stack([np.bincount(labels[:, i], minlength=10) for i in range(8)]) / len(labels)
    expected = diffusion.marginal(posteriors, sigma)
    # Five standard deviations of a frequency.
    tolerance = 5 * np.sqrt(np.asarray(expected) / len(labels))
    assert (np.abs(found - expected) < tolerance).all()


@pytest.mark.slow
def test_rare_noise_of_many_classes_is_drawn():
    """Each wrong class has a probability of 1e-8, below what Gumbel noise of 23 bits reaches."""
    batch, num_classes, sigma, rounds = 2000, 21_841, 3e-4, 15
    one_hot = jnp.tile(jnp.eye(1, num_classes), (batch, 1))

    @jax.jit
    def noised(key):
        labels = diffusion.sample_marginal(key, one_hot, jnp.full(batch, sigma))
        return (labels != 0).sum()

    found = sum(int(noised(jax.random.key(i))) for i in range(rounds))
    # 9 are expected, and 23 bits give 0.1.
    assert 0 < found < 25


def test_a_label_of_a_key_of_its_own(posteriors):
    """vmapped over keys, an example's draw does not depend on the rest of the batch."""
    keys = jax.random.split(jax.random.key(0), 8)
    sigma = jnp.ones(8)
    together = jax.vmap(diffusion.sample_marginal)(keys, posteriors, sigma)
    alone = [diffusion.sample_marginal(keys[i], posteriors[i], sigma[i]) for i in range(8)]
    np.testing.assert_array_equal(together, jnp.stack(alone))


def test_the_least_noise_is_drawn_as_often_as_it_should():
    """Below a float32's epsilon too: of 2^24 labels 0.1 are noised at 1e-8, and not 2."""

    def count(rounds, sigma):
        def more(found, key):
            labels = diffusion.sample_marginal(
                key, jnp.broadcast_to(jnp.eye(1, 2)[0], (2**20, 2)), jnp.full(2**20, sigma)
            )
            return found + labels.sum(), None

        return jax.lax.scan(more, jnp.int32(0), jax.random.split(jax.random.key(1), rounds))[0]

    assert count(2**4, jnp.float32(1e-8)) == 0
    # 5 are expected.
    assert 1 <= count(2**2, jnp.float32(2.4e-6)) <= 12


ONE = [0.2, 0.3, 0.5]  # of no batch at all


@pytest.mark.parametrize(
    "kernel",
    [
        lambda p, s, c: diffusion.marginal(p, s),
        lambda p, s, c: diffusion.transition(c, s, 3),
        lambda p, s, c: diffusion.reverse_rate(c, p),
        diffusion.log_ratio,
        lambda p, s, c: diffusion.log_marginal(p, s),
        lambda p, s, c: diffusion.sample_marginal(jax.random.key(0), p, s),
        lambda p, s, c: diffusion.denoise(p, s),
        lambda p, s, c: diffusion.euler_cp_step(p, p, s),
        lambda p, s, c: diffusion.exact_cp_step(p, p, s, 0.1),
        lambda p, s, c: diffusion.euler_cl_transition(c, p, s),
        lambda p, s, c: diffusion.score_entropy(p, p, c),
        lambda p, s, c: diffusion.weighted_score_entropy(p, p, c, s, diffusion.loglinear()),
        lambda p, s, c: diffusion.denoising_cross_entropy(p, p, c, s),
    ],
)
def test_numbers_and_lists_are_arrays(kernel):
    expected = kernel(jnp.asarray(ONE), jnp.float32(0.5), jnp.int32(1))
    found = kernel(ONE, 0.5, 1)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_number_leaves_the_type_of_the_others():
    assert diffusion.marginal(jnp.asarray(ONE, jnp.bfloat16), 0.5).dtype == jnp.bfloat16
