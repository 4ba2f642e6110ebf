"""Posteriors of a network with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import config as configuration
from didicm_jax import data, diffusion, parallel
from didicm_jax.config import build
from didicm_jax.evaluation import temperature
from didicm_jax.inference import program, sampling, sweep
from didicm_jax.inference.program import Program

CLASSES = 6


class Exact(nnx.Module):
    """The exact score of posteriors that are written into the images, [B, 1, K, 1] bytes."""

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))

    def encode(self, images):
        return images[:, 0, :, 0]

    def score(self, features, labels, sigma):
        keep = jnp.exp(-sigma)[:, None]
        log_q = jnp.log(keep * jax.nn.softmax(features) + (1 - keep) / CLASSES)
        return log_q - jnp.take_along_axis(log_q, labels[:, None], axis=-1)

    def __call__(self, images):
        return self.encode(images)


@pytest.fixture
def logits():
    """f32[11, K]: more than a batch, and no multiple of one."""
    return np.random.default_rng(0).integers(0, 6, (11, CLASSES)).astype(np.uint8)


def configured(**changes):
    config = configuration.default().unlock()
    config.diffusion.eps = 1e-4
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    return config


def one_view(keys, images):
    return images.astype(jnp.float32)[None]


def two_views(keys, images):
    """The classes of the second are in reverse order."""
    images = images.astype(jnp.float32)
    return jnp.stack([images, images[:, :, ::-1]])


def predict_all(logits, config, batch_size=8, look=one_view):
    """Through the mapped prediction over four devices, padded like an evaluation."""
    mesh = parallel.make_mesh()
    graphdef, params, stats = nnx.split(Exact(), nnx.Param, nnx.BatchStat)
    chosen = Program(
        graphdef,
        sampling.create(config, CLASSES),
        look,
        mesh,
        seed=3,
    )
    variables = (nnx.to_pure_dict(params), nnx.to_pure_dict(stats))
    source = data.ArraySource(logits[:, None, :, None], np.zeros(len(logits), np.int32))
    rows = []
    for batch in data.eval_batches(source, batch_size=batch_size):
        rows.append(np.asarray(chosen(variables, batch).probs)[batch["valid"]])
    return np.concatenate(rows)


def softmax(logits):
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"sampler__name": "one_shot"}, 1e-4),
        ({"sampler__integrator": "exact", "sampler__steps": 2}, 5e-3),
        ({"sampler__steps": 256}, 0.02),
        ({"sampler__query": "random", "sampler__steps": 256}, 0.02),
        ({"sampler__name": "cl", "sampler__steps": 64, "sampler__chains": 2000}, 0.06),
        ({"method": "cross_entropy"}, 1e-5),
    ],
    ids=lambda changes: str(changes),
)
def test_every_sampler_finds_the_posterior_of_an_exact_score(logits, changes, tolerance):
    found = predict_all(logits, configured(**changes))
    np.testing.assert_allclose(found, softmax(logits), atol=tolerance)


@pytest.mark.parametrize(
    "changes",
    [{"method": "cross_entropy"}, {"sampler__name": "one_shot"}, {"sampler__steps": 4}],
    ids=["classifier", "one_shot", "cp"],
)
@pytest.mark.parametrize("degrees", [0.25, 4.0])
def test_the_temperature_scales_what_comes_out(logits, changes, degrees):
    plain = predict_all(logits, configured(**changes))
    found = predict_all(logits, configured(sampler__temperature=degrees, **changes))
    np.testing.assert_allclose(found, temperature.apply(plain, degrees), atol=1e-5)


def test_what_is_impossible_stays_so_at_a_low_temperature_and_finite_at_a_high_one():
    probs = jnp.array([[0.0, 0.25, 0.75]])
    cold, hot = (np.asarray(sampling.at_temperature(probs, each)) for each in (1e-3, 1e3))
    np.testing.assert_array_equal(cold, [[0, 0, 1]])
    np.testing.assert_allclose(hot, np.full((1, 3), 1 / 3), atol=0.05)


@pytest.mark.parametrize(
    "changes",
    [{"method": "cross_entropy"}, {"sampler__name": "one_shot"}],
    ids=["classifier", "one_shot"],
)
def test_who_is_asked_once_about_each_view_averages(logits, changes):
    found = predict_all(logits, configured(sampler__views=2, **changes), look=two_views)
    expected = (softmax(logits) + softmax(logits[:, ::-1])) / 2
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"sampler__integrator": "exact"}, 1e-4),
        ({"sampler__query": "random"}, 1e-4),
        ({"sampler__name": "cl", "sampler__chains": 20_000, "sampler__grid": "linear"}, 0.03),
    ],
    ids=lambda changes: str(changes),
)
def test_a_diffusion_asks_about_the_views_by_turns(logits, changes, tolerance):
    """Two steps: the first with the score of the first view, the second with the other's."""
    config = configured(sampler__views=2, sampler__steps=2, **changes)
    schedule = build.noise_schedule(config)
    times = jnp.linspace(1, config.sampler.min_time, 3)
    views = [softmax(each).astype(np.float32) for each in (logits, logits[:, ::-1])]
    size = (len(logits), CLASSES)
    probs = jnp.full(size, 1 / CLASSES)
    for view, time, end in zip(views, times[:-1], times[1:], strict=True):
        before, after = schedule.total(time), schedule.total(end)
        keep = jnp.exp(-before)
        log_score = jnp.log(keep * view + (1 - keep) / CLASSES)
        if config.sampler.name == "cl":  # Euler's steps of labels, in expectation
            rate = schedule.rate(time) * (time - end)
            ratio = jnp.exp(log_score[:, None, :] - log_score[:, :, None])
            own = jnp.eye(CLASSES)[None]
            leave = rate / CLASSES * ratio * (1 - own)
            stay = jnp.maximum(1 - leave.sum(-1), 0)
            move = leave + own * stay[..., None]
            probs = jnp.einsum("bj,bji->bi", probs, move / move.sum(-1, keepdims=True))
        else:
            levels = (jnp.full(len(logits), sigma) for sigma in (before, after))
            probs = diffusion.exact_cp_step(probs, log_score, *levels)
    found = predict_all(logits, config, look=two_views)
    np.testing.assert_allclose(found, probs, atol=tolerance)


def test_views_are_those_of_the_example_whatever_its_batch():
    """Through the program that a run's config makes, on four devices."""
    config = configured(method="cross_entropy", sampler__views=3, augment__shift=2)
    images = np.random.default_rng(1).integers(0, 256, (11, 4, CLASSES, 1)).astype(np.uint8)
    graphdef, params, stats = nnx.split(Exact(), nnx.Param, nnx.BatchStat)
    variables = (nnx.to_pure_dict(params), nnx.to_pure_dict(stats))
    chosen = program.create(config, graphdef, CLASSES, parallel.make_mesh())
    source = data.ArraySource(images, np.zeros(len(images), np.int32))
    found = []
    for size in (4, 12):
        batches = data.eval_batches(source, batch_size=size)
        rows = [np.asarray(chosen(variables, each).probs)[each["valid"]] for each in batches]
        found.append(np.concatenate(rows))
    np.testing.assert_allclose(*found, rtol=1e-5)
    (each,) = data.eval_batches(source, batch_size=12)
    once = program.create(config, graphdef, CLASSES, parallel.make_mesh())
    config.sampler.views = 1
    plain = program.create(config, graphdef, CLASSES, parallel.make_mesh())
    assert not np.allclose(once(variables, each).probs, plain(variables, each).probs, atol=0.01)


def test_sigmoids_are_normalised(logits):
    sigmoid = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = sigmoid / sigmoid.sum(-1, keepdims=True)
    found = predict_all(logits, configured(method="binary_cross_entropy"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"sampler__name": "cl", "sampler__chains": 3}, {"sampler__query": "random"}],
    ids=["cl", "random"],
)
def test_draws_belong_to_the_example_not_to_the_batch(logits, changes):
    config = configured(sampler__steps=3, **changes)
    # Rates of 1e4 amplify the rounding that another batch size brings; another draw is far off.
    np.testing.assert_allclose(
        predict_all(logits, config, batch_size=4),
        predict_all(logits, config, batch_size=12),
        rtol=1e-3,
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            {
                "sampler": "cp",
                "steps": 8,
                "query": "min",
                "integrator": "exact",
                "grid": "linear",
                "min_time": 1e-5,
                "tolerance": 0.0,
                "views": 1,
                "temperature": 1.0,
            },
        ),
        (
            {"sampler__integrator": "euler"},
            {
                "sampler": "cp",
                "steps": 8,
                "query": "min",
                "integrator": "euler",
                "grid": "original",
                "min_time": 1e-5,
                "tolerance": 0.0,
                "views": 1,
                "temperature": 1.0,
            },
        ),
        (
            {"sampler__name": "cl"},
            {
                "sampler": "cl",
                "steps": 8,
                "chains": 10,
                "grid": "original",
                "min_time": 1e-5,
                "views": 1,
                "temperature": 1.0,
            },
        ),
        (
            {"sampler__name": "one_shot"},
            {"sampler": "one_shot", "steps": 1, "time": 0.6, "views": 1, "temperature": 1.0},
        ),
        (
            {"method": "cross_entropy"},
            {"sampler": "softmax", "steps": 1, "views": 1, "temperature": 1.0},
        ),
        (
            {"method": "binary_cross_entropy"},
            {"sampler": "sigmoid", "steps": 1, "views": 1, "temperature": 1.0},
        ),
    ],
)
def test_reports_name_the_settings_that_are_read(changes, expected):
    assert sweep.describe(configured(**changes)) == expected


def test_the_schedule_is_the_one_that_the_config_names():
    loglinear = build.noise_schedule(configured(diffusion__eps=0.25))
    np.testing.assert_allclose(loglinear.total(1.0), np.log(4), rtol=1e-6)
    geometric = build.noise_schedule(
        configured(diffusion__schedule="geometric", diffusion__sigma_max=3.0)
    )
    np.testing.assert_allclose(geometric.total(1.0), 3.0, rtol=1e-6)
    np.testing.assert_allclose(geometric.total(0.0), 1e-3, rtol=1e-5)
