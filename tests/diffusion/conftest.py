"""Score functions with known answers."""

import jax
import jax.numpy as jnp
import pytest

from didicm_jax import diffusion

# Every integrator on every grid that it can walk: (integrator, grid).
WALKS = [(name, grid) for name, each in diffusion.INTEGRATORS.items() for grid in each.grids]


def exact_score_fn(q0):
    """The true score for the clean distributions q0 [B, K]."""

    def score_fn(labels, sigma):
        keep = jnp.exp(-sigma)[:, None]
        log_q = jnp.log(keep * q0 + (1 - keep) / q0.shape[-1])
        return log_q - jnp.take_along_axis(log_q, labels[:, None], axis=-1)

    return score_fn


def time_of(sigma, eps=1e-3):
    """The t at which the total noise of `loglinear(eps)` is sigma."""
    return -jnp.expm1(-sigma) / (1 - eps)


@pytest.fixture
def posteriors():
    """A batch of clean distributions, from flat to sharp, f32[8, 10]."""
    logits = jax.random.normal(jax.random.key(0), (8, 10))
    return jax.nn.softmax(logits * jnp.linspace(0.2, 4.0, 8)[:, None])


@pytest.fixture(scope="session")
def exact_score():
    return exact_score_fn
