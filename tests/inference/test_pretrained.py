"""Networks that were given away, against the runs that they were made of."""

import jax
import numpy as np
import pytest

from didicm_jax import Predictor, data, parallel
from didicm_jax.errors import UserError
from didicm_jax.inference import network
from didicm_jax.models.variables import Variables
from didicm_jax.run import RunFolder, bundle
from tests.inference.test_predictor import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    make_run(folder)
    return folder


@pytest.fixture(scope="module")
def given(run):
    """What the run has learned, to give away."""
    found = network.load(RunFolder.open(run), "latest", parallel.make_mesh(jax.devices()[:1]))
    return bundle.Bundle(
        found.config, found.description, jax.device_get(found.variables), found.step
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("bfloat16", 0.02)])
def test_posteriors_are_those_of_the_run(run, given, tmp_path, dtype, tolerance):
    bundle.write(tmp_path / "net", given, "", dtype=dtype)
    images = data.load("digits").test.batch(np.arange(8))["image"]
    # Euler's steps leave what was hardly trained less sure of itself, so that images differ.
    options = {"sampler": {"steps": 2, "integrator": "euler"}, "buckets": [8]}
    found = Predictor.from_pretrained(tmp_path / "net", **options)(images)
    wanted = Predictor.from_workdir(run, **options)(images)
    assert found.trajectory.shape == (8, 3, 10)
    np.testing.assert_allclose(found.probs, wanted.probs, rtol=0, atol=tolerance)
    assert (found.probs != wanted.probs).any() == (tolerance > 0)
    assert len(np.unique(found.labels)) > 1


def test_sampler_and_devices_are_checked(given, tmp_path):
    bundle.write(tmp_path / "net", given, "")
    with pytest.raises(UserError, match=r"config\.sampler\.steps: expected"):
        Predictor.from_pretrained(tmp_path / "net", sampler={"steps": 0})
    with pytest.raises(UserError, match="devices: expected one or several"):
        Predictor.from_pretrained(tmp_path / "net", devices=[])
    with pytest.raises(UserError, match=r"a folder or hf://user/name, found 'digitz'"):
        Predictor.from_pretrained("digitz")


def changed(variables, **fc):
    layer = {
        key: value for key, value in (variables.params["fc"] | fc).items() if value is not None
    }
    return Variables(variables.params | {"fc": layer}, variables.stats)


@pytest.mark.parametrize(
    ("fc", "message"),
    [
        ({"bias": None}, "expected params.fc.bias to be 10, as the config says, found no such"),
        ({"more": np.ones(3)}, "expected params.fc.more to be no such array"),
        ({"bias": np.ones(3)}, "expected params.fc.bias to be 10, as the config says, found 3"),
    ],
)
def test_arrays_of_another_network_are_refused(given, tmp_path, fc, message):
    other = bundle.Bundle(given.config, given.description, changed(given.variables, **fc), 1)
    bundle.write(tmp_path / "net", other, "")
    with pytest.raises(UserError, match=message) as error:
        Predictor.from_pretrained(tmp_path / "net")
    assert str(error.value).startswith(str(tmp_path / "net"))
