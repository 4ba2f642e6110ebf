"""What the output of a network stands for: against the kernels' closed form, and at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import diffusion, models
from didicm_jax.diffusion import parameterization

K = 5
SIGMAS = [0.0, 1e-30, 1e-6, 1e-3, 0.5, 6.9, 50.0]


def draw(seed=0):
    """Logits, labels and, for every row, a sigma."""
    rng, batch = np.random.default_rng(seed), len(SIGMAS)
    output = jnp.asarray(3 * rng.standard_normal((batch, K)), jnp.float32)
    return (
        output,
        jnp.asarray(rng.integers(0, K, batch), jnp.int32),
        jnp.asarray(SIGMAS, jnp.float32),
    )


def is_label(labels):
    return np.arange(K) == np.asarray(labels)[:, None]


def test_posterior_is_the_score_of_its_softmax():
    output, labels, sigma = draw()
    ours = parameterization.posterior(output, labels, sigma)
    expected = diffusion.log_ratio(jax.nn.softmax(output), sigma, labels)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_ratio_is_the_output_itself():
    output, labels, sigma = draw()
    ours = np.asarray(parameterization.ratio(output.astype(jnp.bfloat16), labels, sigma))
    assert ours.dtype == np.float32
    coarse = np.asarray(output.astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_array_equal(ours, np.where(is_label(labels), 0, coarse))


@pytest.mark.parametrize("name", ["ratio", "bounded", "posterior"])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_exactly_zero_at_the_label_and_finite_everywhere(name, scale):
    output, labels, sigma = draw()
    score = parameterization.PARAMETERIZATIONS[name]
    value, pull = jax.vjp(lambda output, sigma: score(output, labels, sigma), scale * output, sigma)
    np.testing.assert_array_equal(np.asarray(value)[is_label(labels)], 0)
    assert np.isfinite(value).all()
    for grad in pull(jnp.ones_like(value)):
        assert np.isfinite(grad).all()
    if name != "posterior":
        np.testing.assert_array_equal(pull(jnp.ones_like(value))[0], ~is_label(labels))


def test_bounded_is_the_output_within_what_a_score_can_be():
    """The extremes of a true score: a certain label, seen from another class and the reverse."""
    output, labels, sigma = draw()
    certain = jnp.broadcast_to(jax.nn.one_hot(0, K), output.shape)
    one = jnp.ones_like(labels)
    highest = diffusion.log_ratio(certain, jnp.maximum(sigma, 1e-30), one)[:, :1]
    for scale in (1.0, 1e30):
        ours = np.asarray(parameterization.bounded(scale * output, labels, sigma))
        expected = np.where(is_label(labels), 0, np.clip(scale * output, -highest, highest))
        # At no noise at all there is no limit but that of the numbers.
        np.testing.assert_allclose(ours[1:], expected[1:], rtol=1e-4, atol=1e-5)
        assert np.abs(ours[0]).max() < 100


def test_the_loss_leads_an_output_outside_of_the_bounds_back():
    labels, times = jnp.asarray([1], jnp.int32), jnp.asarray([0.5], jnp.float32)
    schedule, targets = diffusion.loglinear(), jax.nn.one_hot(jnp.asarray([0]), K)

    def loss(output):
        score = parameterization.bounded(output, labels, schedule.total(times))
        return diffusion.weighted_score_entropy(score, targets, labels, times, schedule).sum()

    output = jnp.asarray([[300.0, 0.0, 300.0, -300.0, 0.0]], jnp.float32)
    value, grad = jax.value_and_grad(loss)(output)
    assert np.isfinite(value)
    assert grad[0, 2] > 0  # a ratio that should be 1 and is too large
    assert grad[0, 3] < 0
    assert np.all(np.abs(grad) < 100)


def test_a_class_of_no_probability_has_finite_scores_and_no_gradient():
    output, _, sigma = draw()
    output, labels = output.at[:, 1].set(-jnp.inf), jnp.full(len(SIGMAS), 1, jnp.int32)
    value, pull = jax.vjp(lambda output: parameterization.posterior(output, labels, sigma), output)
    (grad,) = pull(jnp.ones_like(value))
    assert np.isfinite(value).all()
    assert np.isfinite(grad).all()
    np.testing.assert_array_equal(grad[:, 1], 0)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_posterior_respects_the_floor(scale):
    """q_t(i) >= (1 - a) / K, seen from the label: with q_t(label) from the kernels' marginal."""
    output, labels, sigma = draw()
    ours = np.asarray(parameterization.posterior(scale * output, labels, sigma))
    rows = np.arange(len(SIGMAS))
    here = np.asarray(diffusion.marginal(jax.nn.softmax(scale * output), sigma))[rows, labels]
    floor = -np.expm1(-np.asarray(sigma, np.float64)) / K
    assert np.all(np.exp(ours.astype(np.float64)) * here[:, None] >= floor[:, None] * (1 - 1e-5))


@pytest.mark.parametrize("hard", [True, False])
def test_the_loss_of_the_true_posterior_is_zero(hard):
    output, labels, _ = draw(seed=1)
    probs = jax.nn.one_hot(labels, K) if hard else jax.nn.softmax(output)
    logits = jnp.log(probs)
    loss = diffusion.didicm_loss(
        jax.random.key(0),
        lambda labels, sigma: parameterization.posterior(logits, labels, sigma),
        probs,
        diffusion.loglinear(),
    )
    # The rate weight reaches 1/eps = 1000; the loss at a wrong score is of the order of 1.
    np.testing.assert_allclose(loss, 0, atol=1e-4)


@pytest.mark.parametrize("name", ["didirn18", "didivit_ti16"])
def test_every_family_takes_the_option(name):
    def make(**options):
        options = {"num_classes": K, "image_size": 32} | options
        return nnx.eval_shape(lambda: models.create_model(name, rngs=nnx.Rngs(0), **options))

    assert make().parameterization == "ratio"
    abstract = make(parameterization="posterior")
    output, labels, sigma = draw()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(abstract), "output", lambda self, features, labels, sigma: output)
        ours = abstract.score(None, labels, sigma)
    np.testing.assert_array_equal(ours, parameterization.posterior(output, labels, sigma))
