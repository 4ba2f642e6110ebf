"""What is minimised: the score entropy, or the cross-entropy of the clean label given a noised one.

Shape symbols: `...` is any batch shape, `B` images, `M` draws per image, `K` the number of classes.

Labels that are wrong at random (a schedule of `shifted`): the target is the observed label z, a
draw from q at sigma_0, and c is z noised by sigma more. Then q at sigma_0 + sigma is the mean of
`p(. | z)`, the marginal of z at sigma, over z. Both losses, averaged over z given c, still have the
true clean posterior as their only minimiser:

- The score entropy is a Bregman distance, least at the mean of its target. That mean is
  `E[ p(i | z) / p(c | z) | c ] = q(i) / q(c)`, the score at sigma_0 + sigma, since z given c has
  the probability `q_{sigma_0}(z) p(c | z) / q(c)`.
- The cross-entropy of z given c is least where the model's `P(z | c)` is the true one, which is
  proportional to `q_{sigma_0}(z) p(c | z)`. So it is the model's q_0, carried forward to sigma_0,
  that must be the true q_{sigma_0}, and there is one q_0 from which that comes.
"""

from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp

from didicm_jax.diffusion import numerics
from didicm_jax.diffusion.chain import is_label, log_marginal, log_ratio, sample_marginal
from didicm_jax.diffusion.numerics import at_least_float32
from didicm_jax.diffusion.schedules import Schedule, parts
from didicm_jax.diffusion.steps import ScoreFn

Loss = Literal["score_entropy", "cross_entropy"]


def score_entropy(log_score: chex.Array, log_ratio: chex.Array, labels: chex.Array) -> chex.Array:
    """Bregman distance of a score from the true one, without the rate weight.

    `1/K sum_{i != c} [ s_i - r_i log s_i + r_i (log r_i - 1) ]`, >= 0, and 0 only at s = r. Its
    gradient in log s_i is `(s_i - r_i) / K`. With the ratios of a one-hot q_0 it is SEDD's
    conditional score entropy for the uniform chain (arXiv 2310.16834, eq. 5).

    Args:
      log_score: log s seen from `labels`, `[..., K]`; its entry at the label is not read.
      log_ratio: log r, the true log score (`diffusion.log_ratio`), `[..., K]`; -inf means r = 0.
      labels: the noised label c, int `[...]`.

    Returns:
      Per example, `[...]`, in nats per unit of noise.
    """
    log_score, log_ratio, labels = numerics.arrays(log_score, log_ratio, labels)
    chex.assert_type([log_score, log_ratio, labels], [float, float, int])
    chex.assert_rank(log_score, jnp.ndim(labels) + 1)
    chex.assert_equal_shape([log_score, log_ratio])
    chex.assert_equal_shape_prefix([log_score, labels], jnp.ndim(labels))
    num_classes = log_score.shape[-1]
    term = numerics.bregman(at_least_float32(log_score), at_least_float32(log_ratio))
    # The mean, not a sum divided by K: the sum of K = 10^5 scores of e^80 overflows float32.
    return jnp.where(is_label(labels, num_classes), 0.0, term / num_classes).sum(-1)


def sample_times(
    key: chex.PRNGKey, shape: tuple[int, ...], *, min_time: float, stratified: bool = True
) -> chex.Array:
    """Draws times in [min_time, 1], each one uniform.

    Stratified: the interval is cut in as many equal parts as there are draws, each part gets one,
    and a random permutation deals the parts out, so that any slice of the batch (a device's share)
    still sees all of the interval. The mean over the batch keeps its expectation and loses most of
    its variance. The last axis of a shape of two or more counts the M draws of one image: each
    image then has one time in every M-th of the interval, in random order.

    Args:
      key: one key.
      shape: `(B,)`, or `(B, M)` for M draws per image; B may be any batch shape.
      min_time: the smallest time, in [0, 1).
      stratified: False draws independently.

    Returns:
      f32 `shape`, f64 where JAX has 64 bits.

    Raises:
      ValueError: `min_time` is outside [0, 1).
    """
    if not 0 <= min_time < 1:
        raise ValueError(f"min_time: expected 0 <= min_time < 1, found {min_time}")
    jitter_key, deal_key = jax.random.split(key)
    uniform = jax.random.uniform(jitter_key, shape)
    if stratified:
        draws = shape[-1] if len(shape) > 1 else 1
        images = uniform.size // draws
        # Row m deals out, over the images, the parts of the m-th of M blocks.
        blocks = jnp.tile(jnp.arange(images), (draws, 1))
        parts = jax.random.permutation(deal_key, blocks, axis=1, independent=True)
        parts = (parts + images * jnp.arange(draws)[:, None]).T
        if draws > 1:
            order_key = jax.random.fold_in(deal_key, 1)
            parts = jax.random.permutation(order_key, parts, axis=1, independent=True)
        uniform = (parts.reshape(shape).astype(uniform.dtype) + uniform) / uniform.size
    return min_time + (1 - min_time) * uniform


def weighted_score_entropy(
    log_score: chex.Array,
    probs: chex.Array,
    labels: chex.Array,
    time: chex.Array,
    schedule: Schedule,
) -> chex.Array:
    """The integrand of the diffusion loss at given draws: `sigma'(t) * score_entropy`.

    With a schedule of `shifted`, q_0 is the distribution of the observed label, and the true score
    is of what the schedule adds to it.

    Args:
      log_score: log s seen from `labels` at noise `schedule.total(time)`, `[..., K]`.
      probs: q_0, the target distribution, hard or soft, `[..., K]`.
      labels: noised labels c ~ q_t, int `[...]`.
      time: t, `[...]`.
      schedule: gives sigma(t) and sigma'(t).

    Returns:
      Per example, `[...]`, in nats.
    """
    log_score, probs, labels, time = numerics.arrays(log_score, probs, labels, time)
    chex.assert_type([log_score, probs, labels, time], [float, float, int, float])
    chex.assert_equal_shape([log_score, probs])
    chex.assert_equal_shape([labels, time])
    _, added = parts(schedule)
    log_true = log_ratio(probs, added.total(time), labels)
    return schedule.rate(time) * score_entropy(log_score, log_true, labels)


def denoising_cross_entropy(
    log_clean: chex.Array,
    probs: chex.Array,
    labels: chex.Array,
    sigma: chex.Array,
    sigma_0: float = 0.0,
) -> chex.Array:
    """How well a posterior explains the clean label behind a noised one.

    The label c came from the clean label k with probability `p(c | k)`, so by Bayes the clean label
    is k with probability proportional to `q_0(k) p(c | k)`. This is the cross-entropy between that
    for the target and for the model, and least where the model's q_0 is the target's. Its gradient
    is bounded by 1 at any noise, where that of the score entropy grows like `K / sigma`; without
    noise it says nothing about q_0, and with all noise it is the classifier's cross-entropy.

    Where the target is not the clean label but one that total noise `sigma_0` has passed over, so
    has the model's q_0 (`log_marginal`) before it explains the target.

    Args:
      log_clean: logits of the model's q_0, `[..., K]`.
      probs: the target, hard or soft, `[..., K]`.
      labels: the target's labels, noised by sigma, int `[...]`.
      sigma: total noise >= 0 between the target and `labels`, `[...]`.
      sigma_0: total noise >= 0 between the clean label and the target.

    Returns:
      Per example, `[...]`, in nats.

    Source: the auxiliary loss of D3PM (Austin et al. 2021, arXiv 2107.03006, eq. 5), for a model
    that knows the chain.
    """
    log_clean, probs, labels, sigma = numerics.arrays(log_clean, probs, labels, sigma)
    chex.assert_type([log_clean, probs, labels, sigma], [float, float, int, float])
    chex.assert_rank(log_clean, jnp.ndim(labels) + 1)
    chex.assert_equal_shape([log_clean, probs])
    chex.assert_equal_shape([labels, sigma])
    log_clean, probs, sigma = map(at_least_float32, (log_clean, probs, sigma))
    if sigma_0 > 0:
        log_clean = log_marginal(log_clean, jnp.full(labels.shape, sigma_0, log_clean.dtype))
    num_classes = log_clean.shape[-1]
    # log p(c | c) - log p(c | k) for any other k.
    advantage = numerics.log_advantage(sigma, num_classes)[..., None]
    evidence = jnp.where(is_label(labels, num_classes), advantage, 0.0)
    clean = numerics.normalize(probs * jnp.exp(evidence))  # log(probs) has no derivative at 0
    log_model = jax.nn.log_softmax(log_clean + evidence)
    # 0 times the infinite logarithm of a class that the model excludes is 0.
    excluded = (clean == 0) & (log_model == -jnp.inf)
    return -(clean * jnp.where(excluded, 0.0, log_model)).sum(-1)


def didicm_loss(
    key: chex.PRNGKey,
    score_fn: ScoreFn,
    probs: chex.Array,
    schedule: Schedule,
    *,
    min_time: float = 1e-3,
    stratified: bool = True,
    draws_per_image: int = 1,
) -> chex.Array:
    """The training loss of DiDiCM, at one or more noise levels per example.

    Draws t uniform in [min_time, 1] and c ~ q_t, and returns
    `sigma'(t)/K sum_{i != c} [ s_i - r_i log s_i + r_i (log r_i - 1) ]` with
    `r_i = q_t(i) / q_t(c)`: 0 at the true score. The original's hard-label loss is this one; its
    soft-label loss is this one minus the constant sigma'(t)/K, with equal gradients.

    For a wrong label at small sigma the ratio to the right one is about K / sigma, so single
    values can be huge; `min_time` bounds them, at the price of a score that is never trained below
    that noise.

    With M draws per image the loss is the mean over M pairs (t, c) of each. `score_fn` is called
    once, for all pairs, image by image: row b M + m is draw m of image b. It is closed over
    features that were computed once per image, and repeats those:
    `lambda labels, sigma: model.score(jnp.repeat(features, M, axis=0), labels, sigma)`.

    For labels that are wrong at random take a schedule of `shifted`; `score_fn` is called with the
    noise since the clean label.

    Args:
      key: one key.
      score_fn: `(labels i32[...], sigma f32[...]) -> log_score [..., K]`; for M > 1
        `(labels i32[B M], sigma f32[B M]) -> log_score [B M, K]`.
      probs: q_0, hard (one-hot) or soft labels, `[..., K]`; for M > 1 `[B, K]`.
      schedule: total noise and rate.
      min_time: smallest time drawn, in [0, 1).
      stratified: draw the times stratified over batch and draws (`sample_times`), or independently.
      draws_per_image: M >= 1.

    Returns:
      Per example, `[...]`, weighted by the rate, in nats.

    Raises:
      ValueError: `draws_per_image` is below 1, or `min_time` outside [0, 1).

    Source: arXiv 2511.20263, the DiDiCM training objective.
    """
    chex.assert_type(probs, float)
    if draws_per_image < 1:
        raise ValueError(f"draws_per_image: expected at least 1, found {draws_per_image}")
    batch = probs.shape[:-1]
    if draws_per_image > 1:
        chex.assert_rank(probs, 2)
    targets = probs.reshape(-1, probs.shape[-1])
    time_key, label_key = jax.random.split(key)
    shape = (len(targets), draws_per_image)
    time = sample_times(time_key, shape, min_time=min_time, stratified=stratified)
    # Where JAX has 64 bits the times have them, whatever the targets have.
    time = time.astype(at_least_float32(probs).dtype)

    def ask(labels: chex.Array, sigma: chex.Array) -> chex.Array:
        if draws_per_image > 1:
            return score_fn(labels, sigma)
        return score_fn(labels.reshape(batch), sigma.reshape(batch)).reshape(targets.shape)

    keys = jax.random.split(label_key, len(targets))
    return loss_at_times(keys, ask, targets, time, schedule).reshape(batch)


def loss_at_times(
    keys: chex.PRNGKey,
    output_fn: ScoreFn,
    probs: chex.Array,
    time: chex.Array,
    schedule: Schedule,
    loss: Loss = "score_entropy",
) -> chex.Array:
    """`didicm_loss` at given times, with a key for each image: its draw depends on no other's.

    Args:
      keys: key `[B]`; of keys with `impl="rbg"` `jax.vmap` reads the first alone.
      output_fn: called once, `(labels i32[B M], sigma f32[B M]) -> [B M, K]`, image by image: a log
        score for the score entropy, logits of q_0 for the cross-entropy.
      probs: q_0, hard or soft, `[B, K]`.
      time: t, `[B, M]`.
      schedule: total noise and rate.
      loss: `score_entropy`, weighted by the rate (`weighted_score_entropy`), or `cross_entropy`
        (`denoising_cross_entropy`).

    Returns:
      The mean over the draws of each image, `[B]`, in nats.

    Raises:
      ValueError: there is no such loss.
    """
    if loss not in get_args(Loss):
        raise ValueError(f"loss: expected one of {get_args(Loss)}, found {loss!r}")
    chex.assert_type([probs, time], float)
    chex.assert_rank([probs, time], 2)
    chex.assert_equal_shape_prefix([keys, probs, time], 1)
    keys, time = _beside(probs, keys), _beside(probs, time)
    draws = time.shape[1]
    sigma_0, added = parts(schedule)
    sigma = added.total(time)
    draw_keys = jax.vmap(lambda key: jax.random.split(key, draws))(keys)
    draw = jax.vmap(sample_marginal, in_axes=(0, None, 0))
    labels = jax.vmap(draw)(draw_keys, probs, sigma)
    targets = jnp.repeat(probs[:, None], draws, axis=1)
    output = output_fn(labels.reshape(-1), schedule.total(time).reshape(-1))
    chex.assert_shape(output, (time.size, probs.shape[-1]))
    output = output.reshape(targets.shape)
    if loss == "cross_entropy":
        return denoising_cross_entropy(output, targets, labels, sigma, sigma_0).mean(1)
    return weighted_score_entropy(output, targets, labels, time, schedule).mean(1)


def _beside(probs: chex.Array, x: chex.Array) -> chex.Array:
    """`x` with each row where that of `probs` is: a mesh of explicit axes moves nothing itself."""
    rows = jax.typeof(probs).sharding.spec[0]
    return x if rows is None else jax.sharding.reshard(x, jax.P(rows))
