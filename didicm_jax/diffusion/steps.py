"""One step of each sampler, from the score at one noise level to the next.

Shape symbols: `...` is any batch shape, `K` the number of classes. Every step reads the log
concrete score through `q = softmax(log_score)`, the noisy marginal that the score implies, which
does not depend on the label that was queried.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion import numerics
from didicm_jax.diffusion.chain import is_label, marginal
from didicm_jax.diffusion.numerics import at_least_float32

# (labels i32[B], sigma f32[B]) -> log concrete score [B, K] seen from those labels. Where there
# are several views of each image, a third argument, i32[], says which of them is asked about.
ScoreFn = Callable[..., chex.Array]


def euler_cp_step(probs: chex.Array, log_score: chex.Array, step: chex.Numeric) -> chex.Array:
    """One Euler step of the class probabilities (DiDiCM-CP), before clipping and normalising.

    `p + step/K (q sum_j p_j / q_j - p / q)`: the reverse-rate matrix of the original is rank one
    but for its diagonal, so its product with p is two sums, O(K) instead of O(K^2).

    Args:
      probs: p, `[..., K]`.
      log_score: `[..., K]`, seen from any one label.
      step: time step times rate, `dt sigma'(t)`, a scalar or `[...]`.

    Returns:
      `[..., K]`, summing to 1; entries can leave [0, 1] when the step is coarse.

    Source: arXiv 2511.20263, class-probability sampling.
    """
    probs, log_score, step = numerics.arrays(probs, log_score, step)
    chex.assert_type([probs, log_score, step], float)
    chex.assert_equal_shape([probs, log_score])
    probs = at_least_float32(probs)
    relative = numerics.relative(log_score.astype(probs.dtype))
    quotient = probs / relative
    total = relative.sum(-1, keepdims=True)
    drift = relative * quotient.sum(-1, keepdims=True) - total * quotient
    step = jnp.broadcast_to(jnp.asarray(step, drift.dtype), drift.shape[:-1])
    return probs + step[..., None] / drift.shape[-1] * drift


def denoise(log_score: chex.Array, sigma: chex.Array) -> chex.Array:
    """The clean posterior that a score at noise sigma implies.

    `q_0 ~ max(q_t - (1 - a) / K, 0)` with `q_t = softmax(log_score)`, `a = exp(-sigma)`. A true
    score obeys `q_t >= (1 - a) / K`; a learned one need not, and what lies below that floor
    becomes 0.

    Args:
      log_score: `[..., K]`, seen from any one label.
      sigma: total noise, `[...]`.

    Returns:
      Probabilities, `[..., K]`. Where nothing is above the floor, q_t; where a is below the float's
      epsilon, what rounding has left above it.
    """
    log_score, sigma = numerics.arrays(log_score, sigma)
    chex.assert_type([log_score, sigma], float)
    chex.assert_rank(log_score, jnp.ndim(sigma) + 1)
    chex.assert_equal_shape_prefix([log_score, sigma], jnp.ndim(sigma))
    q_t = jax.nn.softmax(at_least_float32(log_score))
    floor = numerics.redrawn(jnp.asarray(sigma, q_t.dtype)[..., None]) / q_t.shape[-1]
    excess = jnp.maximum(q_t - floor, 0.0)
    total = excess.sum(-1, keepdims=True)
    return jnp.where(total > 0, excess / jnp.where(total > 0, total, 1.0), q_t)


def exact_cp_step(
    probs: chex.Array, log_score: chex.Array, sigma: chex.Array, sigma_next: chex.Array
) -> chex.Array:
    """The Bayes-exact step of the class probabilities to a smaller noise, of any size.

    `bayes_step` for the posterior that the score implies (`denoise`). Nothing is clipped but the
    score, to the floor that every true score obeys, which bounds the quotients.

    Args:
      probs: p at noise `sigma`, `[..., K]`.
      log_score: log concrete score at noise `sigma`, `[..., K]`, seen from any one label.
      sigma: the present total noise, `[...]`.
      sigma_next: the next one, in [0, sigma], `[...]`.

    Returns:
      Probabilities at noise `sigma_next`, `[..., K]`.
    """
    probs, log_score, sigma, sigma_next = numerics.arrays(probs, log_score, sigma, sigma_next)
    chex.assert_type([probs, log_score, sigma, sigma_next], float)
    chex.assert_equal_shape([probs, log_score])
    chex.assert_equal_shape([sigma, sigma_next])
    probs = at_least_float32(probs)
    return bayes_step(probs, denoise(log_score.astype(probs.dtype), sigma), sigma, sigma_next)


def bayes_step(
    probs: chex.Array, clean: chex.Array, sigma: chex.Array, sigma_next: chex.Array
) -> chex.Array:
    """The reverse transition of the chain that started from a known q_0, averaged over p.

    With q and q' the marginals of q_0 at `sigma` and `sigma_next`, and
    `b = exp(-(sigma - sigma_next))`, `p'_i = q'_i ( b p_i / q_i + (1 - b)/K sum_j p_j / q_j )`.
    If p is q then the result is q'; two steps with the same q_0 are one over both. Nothing is
    asserted: the kernels that call it have.

    Args:
      probs: p at noise `sigma`, `[..., K]`.
      clean: q_0, `[..., K]`.
      sigma: the present total noise, `[...]`.
      sigma_next: the next one, in [0, sigma], `[...]`.

    Returns:
      Probabilities at noise `sigma_next`, `[..., K]`.
    """
    sigma = jnp.asarray(sigma, probs.dtype)
    sigma_next = jnp.asarray(sigma_next, probs.dtype)
    quotient = probs / numerics.positive(marginal(clean, sigma))
    removed = (sigma - sigma_next)[..., None]
    jump = numerics.redrawn(removed) / probs.shape[-1]
    mixed = jnp.exp(-removed) * quotient + jump * quotient.sum(-1, keepdims=True)
    return marginal(clean, sigma_next) * mixed


def euler_cl_transition(
    labels: chex.Array, log_score: chex.Array, step: chex.Numeric
) -> chex.Array:
    """Where one Euler step takes a label (DiDiCM-CL): `onehot(label) + step * reverse_rate`.

    Args:
      labels: the current label, int `[...]`.
      log_score: seen from `labels`, `[..., K]`; its entry at the label is not read.
      step: time step times rate, `dt sigma'(t)`, a scalar or `[...]`.

    Returns:
      `[..., K]`, summing to 1; negative at the label when the step is too coarse for the rates.
      A draw takes negative entries as 0.

    Source: arXiv 2511.20263, class-label sampling; SEDD's Euler predictor (arXiv 2310.16834).
    """
    labels, log_score, step = numerics.arrays(labels, log_score, step)
    chex.assert_type([labels, log_score, step], [int, float, float])
    chex.assert_rank(log_score, jnp.ndim(labels) + 1)
    chex.assert_equal_shape_prefix([labels, log_score], jnp.ndim(labels))
    log_score = at_least_float32(log_score)
    num_classes = log_score.shape[-1]
    here = is_label(labels, num_classes)
    step = jnp.broadcast_to(jnp.asarray(step, log_score.dtype), labels.shape)[..., None]
    leaving = jnp.where(here, 0.0, step / num_classes * jnp.exp(jnp.where(here, 0.0, log_score)))
    return jnp.where(here, 1 - leaving.sum(-1, keepdims=True), leaving)
