"""The objectives of classifiers, and what label noise makes of those of all methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import diffusion
from didicm_jax.training import objectives
from tests.config.test_table import CLASSIFIER, configured

SHARE = 0.4
LOGITS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
TARGETS = np.concatenate([np.eye(3, 5), np.random.default_rng(1).dirichlet(np.ones(5), 3)])


def of(targets):
    batch = objectives.Batch(jnp.asarray(LOGITS), jnp.asarray(targets, jnp.float32), None)
    config = configured(CLASSIFIER | {"diffusion.label_noise": SHARE})
    return objectives.create(config)(lambda images: images, batch)


def test_softmax_is_forward_corrected_for_hard_and_soft_labels():
    probs = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    expected = -(TARGETS * np.log((1 - SHARE) * probs + SHARE / 5)).sum(-1)
    np.testing.assert_allclose(of(TARGETS), expected, rtol=1e-5)


def test_the_correction_of_mixed_labels_is_the_mixture_of_theirs():
    mixed = 0.3 * TARGETS[:1] + 0.7 * TARGETS[1:2]
    one, other = (of(np.tile(TARGETS[n], (6, 1))) for n in (0, 1))
    np.testing.assert_allclose(of(np.tile(mixed, (6, 1))), 0.3 * one + 0.7 * other, rtol=1e-5)


def test_the_diffusion_begins_at_the_noise_of_the_labels():
    found = objectives.create(configured({"diffusion.label_noise": SHARE})).schedule
    sigma = found.total(jnp.asarray(0.5)) - diffusion.loglinear().total(jnp.asarray(0.5))
    np.testing.assert_allclose(np.exp(-sigma), 1 - SHARE, rtol=1e-5)


@pytest.mark.parametrize("loss", ["score_entropy", "cross_entropy"])
def test_without_label_noise_the_objectives_are_those_of_before(loss):
    changes = {"diffusion.loss": loss, "model.parameterization": "posterior"}
    found = objectives.create(configured(changes))
    assert found == objectives.DiDiCM(diffusion.loglinear(1e-3), loss)
    assert objectives.create(configured(CLASSIFIER)) is objectives.cross_entropy


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_classifiers_draw_nothing(name):
    rows = objectives.Rows(0, 16, 16)
    draw = getattr(objectives, name).draw
    keys = jax.random.split(jax.random.key(0))
    assert draw(keys, rows) is None
    assert not jax.make_jaxpr(lambda keys: draw(keys, rows))(keys).eqns


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy"])
def test_classifier_objectives_written_out(name, x64):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(6, 4)) * 3, rng.dirichlet(np.ones(4), size=6)
    part = objectives.Batch(None, jnp.asarray(targets), None)
    found = getattr(objectives, name)(lambda images: jnp.asarray(logits), part)
    if name == "cross_entropy":
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -(targets * log_probs).sum(-1)
    else:
        sigmoid = 1 / (1 + np.exp(-logits))
        expected = -(targets * np.log(sigmoid) + (1 - targets) * np.log(1 - sigmoid)).mean(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
