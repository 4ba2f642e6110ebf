"""What the page asks of a network."""

import numpy as np
import pytest

from didicm_jax import diffusion
from didicm_jax.demo import model as module
from didicm_jax.demo.answers import Answers, verdict
from didicm_jax.demo.corrupting import Corruption
from didicm_jax.demo.model import Model, Sampler
from didicm_jax.inference import sweep
from didicm_jax.inference.predictor import Predictor

PIXELS = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 1)).astype(np.uint8)


def answers(model, sampler):
    return Answers.of(model, ["x.png", "y.png", "z.png"], PIXELS, sampler)


def test_every_sampler_can_be_chosen_and_answers_as_the_predictor_does(model, network):
    assert set(model.samplers) == {
        *(f"cp {each}" for each in diffusion.INTEGRATORS),
        "cl",
        "one_shot",
    }
    assert model.own_sampler == Sampler("cp exact", 8, "min")
    run = network()
    changed = sweep.changed(run.config, {"name": "cp", "integrator": "heun", "steps": 2})
    expected = Predictor(run._replace(config=changed), buckets=[1]).predict(PIXELS)
    found = answers(model, Sampler("cp heun", 2, "min"))
    np.testing.assert_allclose(found.answer.probs, expected.probs, atol=1e-5)
    assert found.steps == 2
    np.testing.assert_allclose(found.posterior(1, 0), 0.2, atol=1e-6)
    np.testing.assert_allclose(found.posterior(1, 2), found.posterior(1), atol=1e-6)
    assert list(found.named(found.posterior(1))) == list("abcde")
    assert found.captions[0].endswith(f" % {expected.classes[0]}")


@pytest.fixture
def made(monkeypatch):
    """The samplers of the predictors that are made, none of which predicts."""
    names = []

    class Counted:
        load = predict = staticmethod(lambda pixels: None)

        def __init__(self, run, **options):
            names.append(run.config.sampler.name)

    monkeypatch.setattr(module, "Predictor", Counted)
    return names


def test_a_sampler_has_one_program_whatever_it_does_not_read(network, made):
    model = Model(network())
    for steps, query in ((2, "min"), (2, "max"), (4, "min"), (2, "min")):
        for name in ("one_shot", "cl"):
            model.ask(PIXELS, Sampler(name, steps, query))
    # The first, which only reads images, compiles nothing.
    assert made == ["cp", "one_shot", "cl", "cl"]


def test_the_program_that_was_asked_longest_ago_is_forgotten(network, made, monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 2)
    model = Model(network())
    for name in ("cl", "one_shot", "cl", "cp heun", "cl", "one_shot"):
        model.ask(PIXELS, Sampler(name, 2, "min"))
    assert made == ["cp", "cl", "one_shot", "cp", "one_shot"]


def test_a_classifier_has_no_samplers(network):
    model = Model(network("cross_entropy"))
    model.warm()
    assert model.samplers == {}
    assert not model.reads("cp euler", "steps")
    found = answers(model, None)
    assert found.steps is None
    assert found.at_once(0) is None
    assert "one call" not in verdict(found.posterior(0), None)


def test_a_corruption_is_asked_from_none_to_all(model):
    found = answers(model, Sampler("one_shot", 1, "min"))
    growth = found.growth(2, Corruption(noise=1.0))
    assert growth.images.shape == (8, 8, 8, 1)
    np.testing.assert_array_equal(growth.images[0], PIXELS[2])
    probs = found.posterior(2)
    np.testing.assert_allclose(growth.entropy[0], -np.sum(probs * np.log(probs)), rtol=1e-4)
    np.testing.assert_allclose(growth.probs[0], probs.max(), rtol=1e-4)


def test_an_image_that_is_not_corrupted_has_one_answer_of_a_sampler_that_draws(model):
    found = answers(model, Sampler("cl", 2, "min"))
    growth = found.growth(2, Corruption(noise=1.0))
    assert growth.probs[0] == found.posterior(2).max()
    assert growth.captions[0] == found.captions[2]


def test_the_verdict_counts_classes():
    even = np.full(4, 0.25, np.float32)
    assert verdict(even, None) == (
        "Entropy 1.39 of at most 1.39 nats: as uncertain as a choice among 4.0 of 4 classes."
    )
    sure = np.array([1, 0, 0, 0], np.float32)
    assert "among 1.0 of 4" in verdict(sure, even)
    assert verdict(sure, even).endswith("With one call of the network 1.39.")
