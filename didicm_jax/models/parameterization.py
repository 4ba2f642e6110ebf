"""How a network's output stands for the log concrete score `log q_t(i | y) - log q_t(label | y)`.

Shape symbols: `B` images, `K` classes. Both ways compute in float32 and are exactly 0 at the label.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

# Below this total noise is not told from none. It keeps the floor of `posterior` above 0, so that
# logarithms and gradients are finite at sigma = 0 too.
MIN_SIGMA = 1e-37


def ratio(raw: chex.Array, labels: chex.Array, sigma: chex.Array) -> chex.Array:
    """Free log-ratios: the output is the log score, its entry at the label replaced by 0.

    Args:
      raw: output of the network, `[B, K]`.
      labels: the (noised) label of each image, int `[B]` in [0, K).
      sigma: not read; the network has seen it.

    Returns:
      Float32 `[B, K]`, natural log.

    Source: arXiv 2511.20263, and SEDD (arXiv 2310.16834).
    """
    del sigma
    return jnp.where(_is_label(raw, labels), 0.0, raw.astype(jnp.float32))


def bounded(raw: chex.Array, labels: chex.Array, sigma: chex.Array) -> chex.Array:
    """Log-ratios held within what a score can be; all else as `ratio`.

    With total noise sigma every class has `(1 - e^-sigma) / K` at least, so no ratio of a true
    score is above `1 + K / (e^sigma - 1)` or below its inverse. Free log-ratios can leave that
    range, and their exponential, the loss and its gradient then grow without limit. Here they
    cannot, and as the loss falls towards the range from either side, its gradient passes to an
    output that lies outside and leads it back.

    Args:
      raw: output of the network, `[B, K]`.
      labels: the (noised) label of each image, int `[B]` in [0, K).
      sigma: total noise >= 0, float `[B]`.

    Returns:
      Float32 `[B, K]`, natural log.
    """
    raw = raw.astype(jnp.float32)
    sigma = jnp.maximum(sigma.astype(jnp.float32), MIN_SIGMA)[:, None]
    noise = jnp.expm1(sigma)
    limit = jnp.log(raw.shape[-1] + noise) - jnp.log(noise)
    # The second term is 0 and has the gradient of the output.
    held = jax.lax.stop_gradient(jnp.clip(raw, -limit, limit)) + (raw - jax.lax.stop_gradient(raw))
    return jnp.where(_is_label(raw, labels), 0.0, held)


def posterior(raw: chex.Array, labels: chex.Array, sigma: chex.Array) -> chex.Array:
    """The output is logits of `q_0(. | y)`, and the score follows from it.

    `log q_t = logaddexp(log_softmax(raw) - sigma, log((1 - e^-sigma) / K))`. So every ratio
    respects the floor that a true score has, `q_t(i) >= (1 - e^-sigma) / K`, whatever the output.

    Args:
      raw: output of the network, `[B, K]`; -inf stands for a class of no probability.
      labels: the (noised) label of each image, int `[B]` in [0, K).
      sigma: total noise >= 0, float `[B]`.

    Returns:
      Float32 `[B, K]`, natural log.
    """
    log_clean = jax.nn.log_softmax(raw.astype(jnp.float32))
    sigma = jnp.maximum(sigma.astype(jnp.float32), MIN_SIGMA)[:, None]
    # expm1 keeps the digits of 1 - e^-sigma when sigma is tiny.
    log_floor = jnp.log(-jnp.expm1(-sigma)) - jnp.log(raw.shape[-1])
    log_marginal = jnp.logaddexp(log_clean - sigma, log_floor)
    at_label = jnp.take_along_axis(log_marginal, labels[:, None], axis=-1)
    # The difference is 0 at the label as it is, but the two gradients would not cancel to the bit.
    return jnp.where(_is_label(raw, labels), 0.0, log_marginal - at_label)


# By the value of the option `parameterization`.
PARAMETERIZATIONS: dict[str, Callable[[chex.Array, chex.Array, chex.Array], chex.Array]] = {
    "ratio": ratio,
    "bounded": bounded,
    "posterior": posterior,
}


def _is_label(raw: chex.Array, labels: chex.Array) -> chex.Array:
    """True at the label, bool `[B, K]`."""
    return jax.lax.broadcasted_iota(labels.dtype, raw.shape, 1) == labels[:, None]
