"""A network as it is initialised: what it answers is of no use, and always the same."""

import pytest
from flax import nnx

from didicm_jax import config as configuration
from didicm_jax.config import build
from didicm_jax.demo.model import Model
from didicm_jax.inference.network import Network
from didicm_jax.models.variables import split
from didicm_jax.run import Description
from tests import shallow


@pytest.fixture(scope="module", autouse=True)
def shallow_models():
    with shallow.registered():
        yield


@pytest.fixture(scope="module")
def network(shallow_models):
    """One of the method `didicm`, or of another, for grey images of 8x8 and five classes."""

    def make(method="didicm"):
        config = configuration.default()
        config.method = method
        config.data.name = "digits"
        config.data.mean, config.data.std = (0.3,), (0.4,)
        config.model.name = "didirn4" if method == "didicm" else "resnet4"
        config.model.width, config.model.stem = 0.0625, "small"
        description = Description(tuple("abcde"), (8, 8, 1))
        made = split(build.model(config, description, nnx.Rngs(0)))
        return Network(config, description, *made, step=1234, name="run")

    return make


@pytest.fixture(scope="module")
def model(network):
    return Model(network())
