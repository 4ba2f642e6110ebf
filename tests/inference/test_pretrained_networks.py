"""The networks that come with the package say of images in the repository what they said before."""

import json
from pathlib import Path

import numpy as np
import pytest

from didicm_jax.inference.predictor import Predictor
from didicm_jax.run import bundle

DATA = Path(__file__).parents[1] / "data"
IMAGES = {
    "cifar10": sorted((DATA / "photos").glob("*.jpg")),
    "fashion_mnist": sorted((DATA / "fashion").glob("*.png")),
}
# By network and file, the posteriors that were recorded when the network was added.
RECORDED = json.loads((DATA / "posteriors.json").read_text())


def test_every_network_of_the_package_is_tested_here():
    assert set(bundle.names()) == set(IMAGES) == set(RECORDED)
    assert all(set(RECORDED[name]) == {path.name for path in IMAGES[name]} for name in IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_posteriors_are_those_that_were_recorded(name):
    predictor = Predictor.from_pretrained(name, buckets=(16,))
    answer = predictor([str(path) for path in IMAGES[name]])
    recorded = np.array([RECORDED[name][path.name] for path in IMAGES[name]])
    # Another processor or compiler rounds otherwise.
    np.testing.assert_allclose(answer.probs, recorded, atol=2e-3)
    assert len(predictor.class_names) == recorded.shape[1]
    # The files are called by what they show, most of which a trained network sees.
    classes = [said.lower().replace("/", "-").replace(" ", "-") for said in answer.classes]
    right = [said in path.stem for said, path in zip(classes, IMAGES[name], strict=True)]
    assert np.mean(right) >= 0.4, answer.classes
