"""The times, and the noised labels, that a loss draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import diffusion

SCHEDULE = diffusion.loglinear()


def test_stratified_times_fill_every_part_once():
    times = np.asarray(diffusion.sample_times(jax.random.key(0), (16, 4), min_time=0.2))
    parts = np.floor((times.ravel() - 0.2) / 0.8 * 64).astype(int)
    np.testing.assert_array_equal(np.sort(parts), np.arange(64))
    assert (np.diff(parts) != 1).any(), "the parts are dealt out in order"


def test_every_image_has_a_time_in_every_block():
    """In random order, and images and draws together fill every part once."""
    images, draws = 4000, 4
    with jax.enable_x64(True):  # float32 does not tell 16,000 parts apart
        times = diffusion.sample_times(jax.random.key(2), (images, draws), min_time=0.2)
    parts = np.floor((np.asarray(times) - 0.2) / 0.8 * images * draws).astype(int)
    np.testing.assert_array_equal(np.sort(parts, axis=None), np.arange(images * draws))
    blocks = parts // images
    np.testing.assert_array_equal(np.sort(blocks), np.tile(np.arange(draws), (images, 1)))
    counts = (blocks[:, :, None] == np.arange(draws)).sum(0)
    # Five standard deviations of a count: every draw is uniform, whichever of the image's it is.
    share = 1 / draws
    tolerance = 5 * np.sqrt(images * share * (1 - share))
    np.testing.assert_allclose(counts, images * share, atol=tolerance)


def test_one_draw_per_image_is_the_batch_of_times():
    times = partial(diffusion.sample_times, jax.random.key(3), min_time=0.1)
    np.testing.assert_array_equal(times((8, 1))[:, 0], times((8,)))


def test_independent_times_are_uniform():
    times = diffusion.sample_times(jax.random.key(0), (20_000,), min_time=0.2, stratified=False)
    assert 0.2 <= times.min() < 0.201
    assert 0.999 < times.max() <= 1
    np.testing.assert_allclose(times.mean(), 0.6, atol=5 * 0.8 / np.sqrt(12 * 20_000))
    parts = np.floor((np.asarray(times) - 0.2) / 0.8 * 20_000)
    assert len(np.unique(parts)) < 0.7 * 20_000  # independent draws collide: 1 - 1/e of the parts


def test_many_draws_are_as_many_evaluations(posteriors):
    """Value and gradient of the mean over draws that share their features, image by image."""
    draws, key = 3, jax.random.key(5)
    features = jax.random.normal(jax.random.key(6), (8, 10))

    def score(features, labels, sigma):
        level = jnp.tanh(features) * jnp.exp(-sigma)[:, None] + jax.nn.one_hot(labels, 10)
        return level - jnp.take_along_axis(level, labels[:, None], axis=-1)

    def together(features):
        repeated = jnp.repeat(features, draws, axis=0)
        return diffusion.didicm_loss(
            key,
            lambda labels, sigma: score(repeated, labels, sigma),
            posteriors,
            SCHEDULE,
            min_time=0.1,
            draws_per_image=draws,
        )

    def apart(features):
        time_key, label_key = jax.random.split(key)
        time = diffusion.sample_times(time_key, (8, draws), min_time=0.1)
        keys = jax.vmap(lambda key: jax.random.split(key, draws))(jax.random.split(label_key, 8))
        targets = jnp.repeat(posteriors[:, None], draws, axis=1)
        draw = jax.vmap(jax.vmap(diffusion.sample_marginal))
        labels = draw(keys, targets, SCHEDULE.total(time))
        total = jnp.zeros(8)
        for m in range(draws):
            log_score = score(features, labels[:, m], SCHEDULE.total(time[:, m]))
            total += diffusion.weighted_score_entropy(
                log_score, posteriors, labels[:, m], time[:, m], SCHEDULE
            )
        return total / draws

    weight = jnp.cos(jnp.arange(8.0))
    results = [
        jax.jit(lambda x, loss=loss: (*jax.vjp(loss, x)[1](weight), loss(x)))(features)
        for loss in (together, apart)
    ]
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_bad_numbers_of_draws_are_refused(posteriors):
    loss = partial(diffusion.didicm_loss, jax.random.key(0), lambda c, s: jnp.zeros((*c.shape, 10)))
    with pytest.raises(ValueError, match="draws_per_image: expected at least 1, found 0"):
        loss(posteriors, SCHEDULE, draws_per_image=0)
    with pytest.raises(AssertionError, match="rank"):
        loss(posteriors[None], SCHEDULE, draws_per_image=2)


def test_the_loss_uses_the_sampling_it_is_asked_for(posteriors):
    seen = []

    def score_fn(labels, sigma):
        seen.append(np.sort(1 - np.exp(-np.asarray(sigma))) / 0.999)
        return jnp.zeros((8, 10))

    for stratified in (True, False):
        diffusion.didicm_loss(
            jax.random.key(4), score_fn, posteriors, SCHEDULE, min_time=0.1, stratified=stratified
        )
    parts = [np.floor((times - 0.1) / 0.9 * 8) for times in seen]
    np.testing.assert_array_equal(parts[0], np.arange(8))
    assert (parts[1] != np.arange(8)).any()


@pytest.mark.parametrize("min_time", [-0.1, 1.0, float("nan")])
def test_times_beyond_the_schedule_are_not_drawn(min_time):
    with pytest.raises(ValueError, match="expected 0 <= min_time < 1"):
        diffusion.sample_times(jax.random.key(0), (4,), min_time=min_time)
