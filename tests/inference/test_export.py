"""What stands beside an exported network."""

import pytest

from didicm_jax import config as configuration
from didicm_jax.inference import export
from didicm_jax.inference.network import Network
from didicm_jax.run import Description


@pytest.mark.parametrize(
    ("name", "share"), [("digits", None), ("idx", None), ("cifar10", 0.75), ("birds", 0.75)]
)
def test_how_an_image_becomes_the_input_is_described(name, share):
    config = configuration.default()
    config.data.name, config.data.eval_crop = name, 0.75
    description = Description(("ant", "bee"), (8, 8, 3))
    described = export.describe(Network(config, description, None, None, 5, "run"))
    assert described["eval_crop"] == share
    assert described["image_shape"] == [8, 8, 3]
