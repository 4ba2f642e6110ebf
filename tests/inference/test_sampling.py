"""Posteriors of a network with a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import config as configuration
from didicm_jax import data, parallel
from didicm_jax.config import build
from didicm_jax.inference import sampling, sweep
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


def predict_all(logits, config, batch_size=8):
    """Through the mapped prediction over four devices, padded like an evaluation."""
    mesh = parallel.make_mesh()
    graphdef, params, stats = nnx.split(Exact(), nnx.Param, nnx.BatchStat)
    program = Program(
        graphdef,
        sampling.create(config, CLASSES),
        lambda images: images.astype(jnp.float32),
        mesh,
        seed=3,
    )
    variables = (nnx.to_pure_dict(params), nnx.to_pure_dict(stats))
    source = data.ArraySource(logits[:, None, :, None], np.zeros(len(logits), np.int32))
    rows = []
    for batch in data.eval_batches(source, batch_size=batch_size):
        rows.append(np.asarray(program(variables, batch).probs)[batch["valid"]])
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
            },
        ),
        (
            {"sampler__name": "cl"},
            {"sampler": "cl", "steps": 8, "chains": 10, "grid": "original", "min_time": 1e-5},
        ),
        ({"sampler__name": "one_shot"}, {"sampler": "one_shot", "steps": 1, "time": 0.6}),
        ({"method": "cross_entropy"}, {"sampler": "softmax", "steps": 1}),
        ({"method": "binary_cross_entropy"}, {"sampler": "sigmoid", "steps": 1}),
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
