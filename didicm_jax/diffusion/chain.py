"""The uniform chain: every label jumps to a uniformly drawn label at the rate of the schedule.

Shape symbols: `...` is any batch shape, `K` the number of classes. The generator is
`Q = (1 1^T - K I) / K`, so that after total noise sigma, with `a = exp(-sigma)`,
`exp(sigma Q) = a I + (1 - a) 1 1^T / K`: everything below is in closed form.
"""

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion import numerics


def take_label(values: chex.Array, labels: chex.Array) -> chex.Array:
    """`values[..., labels]`: `[..., K]` and `[...]` to `[...]`."""
    return jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]


def is_label(labels: chex.Array, num_classes: int) -> chex.Array:
    """True at the label, `[...]` to bool `[..., K]`."""
    # A comparison, not jax.nn.one_hot: XLA fuses it into whatever reads it.
    # Of int32, in which the classes can be counted, whatever holds the labels.
    classes = jax.lax.broadcasted_iota(jnp.int32, (*labels.shape, num_classes), labels.ndim)
    return classes == labels.astype(jnp.int32)[..., None]


def marginal(probs: chex.Array, sigma: chex.Array) -> chex.Array:
    """Carries a distribution over labels forward by total noise sigma.

    `q_t = a q_0 + (1 - a) / K` with `a = exp(-sigma)`.

    Args:
      probs: q_0, `[..., K]`.
      sigma: total noise >= 0, `[...]`.

    Returns:
      q_t, `[..., K]`.
    """
    probs, sigma = numerics.arrays(probs, sigma)
    chex.assert_type([probs, sigma], float)
    chex.assert_rank(probs, jnp.ndim(sigma) + 1)
    chex.assert_equal_shape_prefix([probs, sigma], jnp.ndim(sigma))
    sigma = jnp.asarray(sigma)[..., None]
    return jnp.exp(-sigma) * probs + numerics.redrawn(sigma) / probs.shape[-1]


def transition(labels: chex.Array, sigma: chex.Array, num_classes: int) -> chex.Array:
    """Where a label is after total noise sigma: row `labels` of `exp(sigma Q)`.

    Args:
      labels: int `[...]` in [0, K).
      sigma: total noise >= 0, `[...]`.
      num_classes: K.

    Returns:
      Probabilities, `[..., K]`.
    """
    labels, sigma = numerics.arrays(labels, sigma)
    chex.assert_type([labels, sigma], [int, float])
    chex.assert_equal_shape([labels, sigma])
    one_hot = is_label(labels, num_classes).astype(jnp.asarray(sigma).dtype)
    return marginal(one_hot, sigma)


def reverse_rate(labels: chex.Array, score: chex.Array) -> chex.Array:
    """Rates at which the reverse process leaves `labels`, per unit of forward noise.

    `R_i = s_i / K` for i other than the label, and minus their sum at the label.

    Args:
      labels: the current label, int `[...]`.
      score: concrete score `s_i = q_t(i) / q_t(label)` (not its logarithm), `[..., K]`.

    Returns:
      `[..., K]`, summing to 0 over the classes. Multiply by sigma'(t) for rates per unit of time.
    """
    labels, score = numerics.arrays(labels, score)
    chex.assert_type([labels, score], [int, float])
    chex.assert_rank(score, jnp.ndim(labels) + 1)
    chex.assert_equal_shape_prefix([labels, score], jnp.ndim(labels))
    num_classes = score.shape[-1]
    here = is_label(labels, num_classes)
    leaving = jnp.where(here, 0.0, score / num_classes)
    return jnp.where(here, -leaving.sum(-1, keepdims=True), leaving)


def log_ratio(probs: chex.Array, sigma: chex.Array, labels: chex.Array) -> chex.Array:
    """The true log concrete score seen from `labels`: `log q_t(i) - log q_t(label)`.

    Args:
      probs: q_0, hard (one-hot) or soft, `[..., K]`.
      sigma: total noise, `[...]`. At 0 the marginal of a one-hot q_0 has zeros, so the result
        holds -inf (and +inf or NaN where the label itself has no mass).
      labels: int `[...]`.

    Returns:
      `[..., K]`, 0 at the label.
    """
    probs, sigma, labels = numerics.arrays(probs, sigma, labels)
    chex.assert_type([probs, sigma, labels], [float, float, int])
    chex.assert_rank(probs, jnp.ndim(labels) + 1)
    chex.assert_equal_shape([sigma, labels])
    probs, sigma = numerics.at_least_float32(probs), numerics.at_least_float32(sigma)
    log_marginal = jnp.log(marginal(probs, sigma))
    return log_marginal - take_label(log_marginal, labels)[..., None]


def log_marginal(logits: chex.Array, sigma: chex.Array) -> chex.Array:
    """The logarithm of `marginal`, from logits of q_0.

    It turns the logits of a classifier of the clean label into the log-probabilities of a label
    that total noise sigma has passed over, which is the forward correction of Patrini et al. (2017,
    arXiv 1609.03683) for symmetric label noise.

    Args:
      logits: `[..., K]`; -inf stands for a class of no probability.
      sigma: total noise >= 0, `[...]`.

    Returns:
      log q_t, `[..., K]`, finite.
    """
    logits, sigma = numerics.arrays(logits, sigma)
    chex.assert_type([logits, sigma], float)
    chex.assert_rank(logits, jnp.ndim(sigma) + 1)
    chex.assert_equal_shape_prefix([logits, sigma], jnp.ndim(sigma))
    log_clean = jax.nn.log_softmax(numerics.at_least_float32(logits))
    return numerics.log_marginal(log_clean, jnp.asarray(sigma, log_clean.dtype)[..., None])


def sample_marginal(key: chex.PRNGKey, probs: chex.Array, sigma: chex.Array) -> chex.Array:
    """Draws noised labels `c ~ q_t`: a clean one, and with probability `1 - exp(-sigma)` any one.

    Args:
      key: one key for the whole batch; `jax.vmap` gives every example a key of its own.
      probs: q_0, `[..., K]`.
      sigma: total noise, `[...]`.

    Returns:
      int32 `[...]`.
    """
    probs, sigma = numerics.arrays(probs, sigma)
    chex.assert_type(probs, float)
    return numerics.draw(key, log_marginal(jnp.log(numerics.at_least_float32(probs)), sigma))
