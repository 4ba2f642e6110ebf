"""How a network's output stands for the log concrete score `log q_t(i | y) - log q_t(label | y)`.

Shape symbols: `B` images, `K` classes. Every function here takes the output of the network, float
`[B, K]`, the (noised) label of each image, int `[B]` in [0, K), and the total noise >= 0, float
`[B]`. It gives the log score, float32 `[B, K]`, natural log, exactly 0 at the label.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion import numerics
from didicm_jax.diffusion.chain import is_label, take_label


def ratio(output: chex.Array, labels: chex.Array, sigma: chex.Array) -> chex.Array:
    """Free log-ratios: the output is the log score, its entry at the label replaced by 0.

    `sigma` is not read; the network has seen it.

    Source: arXiv 2511.20263, and SEDD (arXiv 2310.16834).
    """
    _assert_arguments(output, labels, sigma)
    return jnp.where(is_label(labels, output.shape[-1]), 0.0, output.astype(jnp.float32))


def bounded(output: chex.Array, labels: chex.Array, sigma: chex.Array) -> chex.Array:
    """Log-ratios held within what a score can be; all else as `ratio`.

    With total noise sigma every class has `(1 - e^-sigma) / K` at least, so no ratio of a true
    score is above `1 + K / (e^sigma - 1)` or below its inverse. Free log-ratios can leave that
    range, and their exponential, the loss and its gradient then grow without limit. Here they
    cannot, and as the loss falls towards the range from either side, its gradient passes to an
    output that lies outside and leads it back.
    """
    _assert_arguments(output, labels, sigma)
    num_classes = output.shape[-1]
    output = output.astype(jnp.float32)
    limit = numerics.log_advantage(sigma.astype(jnp.float32), num_classes)[:, None]
    constant = jax.lax.stop_gradient
    # The second term is 0 and has the gradient of the output.
    held = constant(jnp.clip(output, -limit, limit)) + (output - constant(output))
    return jnp.where(is_label(labels, num_classes), 0.0, held)


def posterior(output: chex.Array, labels: chex.Array, sigma: chex.Array) -> chex.Array:
    """The output is logits of `q_0(. | y)`, and the score follows from it.

    `log q_t = logaddexp(log_softmax(output) - sigma, log((1 - e^-sigma) / K))`. So every ratio
    respects the floor that a true score has, `q_t(i) >= (1 - e^-sigma) / K`, whatever the output,
    which may be -inf for a class of no probability.
    """
    _assert_arguments(output, labels, sigma)
    log_clean = jax.nn.log_softmax(output.astype(jnp.float32))
    log_marginal = numerics.log_marginal(log_clean, sigma.astype(jnp.float32)[:, None])
    # The difference is 0 at the label as it is, but the two gradients would not cancel to the bit.
    difference = log_marginal - take_label(log_marginal, labels)[:, None]
    return jnp.where(is_label(labels, output.shape[-1]), 0.0, difference)


# By the value of the option `parameterization`: (output, labels, sigma) to the log score.
PARAMETERIZATIONS: dict[str, Callable[[chex.Array, chex.Array, chex.Array], chex.Array]] = {
    "ratio": ratio,
    "bounded": bounded,
    "posterior": posterior,
}


def _assert_arguments(output: chex.Array, labels: chex.Array, sigma: chex.Array) -> None:
    chex.assert_type([output, labels, sigma], [float, int, float])
    chex.assert_rank([output, labels, sigma], [2, 1, 1])
    chex.assert_equal_shape_prefix([output, labels, sigma], 1)
