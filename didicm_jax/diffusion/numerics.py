"""The chain's arithmetic where a float would lose it: every logarithm, floor, clip and quotient.

Shape symbols: `...` is any batch shape, `K` the number of classes. `a = exp(-sigma)` is the
probability that total noise sigma leaves a label alone, `1 - a` that a class is drawn anew.

Nothing here asserts: these are the insides of kernels that do.
"""

import chex
import jax
import jax.numpy as jnp

# Below this total noise is not told from none. It keeps the floor of `log_marginal` above 0, so
# that logarithms, the scores that they stand for (up to K / sigma) and gradients are finite at
# sigma = 0 too.
MIN_SIGMA = 1e-30


def at_least_float32(x: chex.Numeric) -> chex.Array:
    """`x` itself, or as float32 where its type is narrower: sums over K need the digits."""
    x = jnp.asarray(x)
    wide = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32
    return x if wide else x.astype(jnp.float32)


def arrays(*given: chex.Numeric) -> tuple[chex.Array, ...]:
    """Arrays as they are; numbers and lists as arrays that leave the type of others alone."""
    return tuple(x if hasattr(x, "shape") else jnp.asarray(x) for x in given)


def redrawn(sigma: chex.Array) -> chex.Array:
    """`1 - a`, with all its digits where sigma is tiny: at 1e-6 a float32 `1 - a` has one left."""
    return -jnp.expm1(-sigma)


def log_share(sigma: chex.Array, num_classes: int) -> chex.Array:
    """`log((1 - a) / K)`, the least that any class can have; finite at sigma = 0 too."""
    return jnp.log(redrawn(jnp.maximum(sigma, MIN_SIGMA))) - jnp.log(num_classes)


def log_marginal(log_clean: chex.Array, sigma: chex.Array) -> chex.Array:
    """`log(a q_0 + (1 - a) / K)` from `log q_0`, which may be -inf.

    Args:
      log_clean: `[..., K]`.
      sigma: `[..., 1]`.
    """
    sigma = jnp.maximum(sigma, MIN_SIGMA)
    return jnp.logaddexp(log_clean - sigma, log_share(sigma, log_clean.shape[-1]))


def draw(key: chex.PRNGKey, log_probs: chex.Array) -> chex.Array:
    """int32 `[...]`, classes of unnormalised log probabilities `[..., K]`, which may be -inf.

    The largest of sums with Gumbel noise, which in float32 ends at 16 unless it is asked for more:
    classes rarer than 1e-7 would hardly occur, and common ones among 20,000 too rarely.
    """
    return jax.random.categorical(key, log_probs, mode="high").astype(jnp.int32)


def log_advantage(sigma: chex.Array, num_classes: int) -> chex.Array:
    """`log(1 + K / (e^sigma - 1))`: how much likelier a label stays than becomes a certain other.

    No true log score is larger. As a softplus it is finite where `e^sigma` overflows, too.
    """
    sigma = jnp.maximum(sigma, MIN_SIGMA)
    return jax.nn.softplus(jnp.log(num_classes) - sigma - jnp.log(redrawn(sigma)))


def normalize(weights: chex.Array) -> chex.Array:
    """Weights >= 0 with a sum above 0, `[..., K]`, divided by it."""
    return weights / weights.sum(-1, keepdims=True)


def onto_simplex(probs: chex.Array) -> chex.Array:
    """Clips to [0, 1] and normalises, as the original does after each Euler step.

    It protects against steps too coarse for the rates; it costs the Euler step its exact mean and
    makes posteriors with entries that are exactly 0. The sum before is 1, so some entry is > 0.
    """
    return normalize(jnp.clip(probs, 0.0, 1.0))


def positive(probs: chex.Array) -> chex.Array:
    """At least the smallest normal float, so that 0 / 0 is 0.

    Marginals are 0 only where sigma is 0 (there is no noise to remove) or where they underflow.
    """
    return jnp.maximum(probs, jnp.finfo(probs.dtype).tiny)


def relative(log_score: chex.Array) -> chex.Array:
    """`exp(log_score)` over its largest entry, in [4e-18, 1] in float32: a divisor.

    The floor keeps p / q finite: log-scores 160 apart would overflow float32. It costs nothing that
    survives an Euler step: where q is below it, the entry is clipped to 0 or to 1 either way.
    """
    floor = -0.45 * jnp.log(jnp.finfo(log_score.dtype).max)
    peak = jax.lax.stop_gradient(log_score.max(-1, keepdims=True))
    return jnp.exp(jnp.maximum(log_score - peak, floor))


def bregman(log_score: chex.Array, log_ratio: chex.Array) -> chex.Array:
    """`s - r - r (log s - log r)`, elementwise, >= 0 and 0 at s = r, which may both be 0.

    It is `r (exp(d) - 1 - d)` with d = log s - log r. Near d = 0 the difference cancels, and far
    from it r exp(d) overflows before s does: each form where it is good.
    """
    ratio = jnp.exp(log_ratio)
    # Where r is 0 its share is, however far log s is: -inf - -inf would be NaN.
    excess = jnp.where(ratio > 0, log_score - log_ratio, 0.0)
    near = (jnp.abs(excess) < 1) & (ratio > 0)
    small = jnp.where(near, excess, 0.0)
    large = jnp.where(near, 0.0, excess)
    far_score = jnp.where(near, 0.0, jnp.exp(jnp.where(near, 0.0, log_score)))
    far_ratio = jnp.where(near, 0.0, ratio)
    return ratio * (jnp.expm1(small) - small) + far_score - far_ratio - far_ratio * large
