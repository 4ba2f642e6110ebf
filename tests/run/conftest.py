"""A run that was claimed and has not begun."""

import pytest

from didicm_jax import config as configuration
from didicm_jax.run import RunFolder
from tests.run.claiming import DIGITS


@pytest.fixture
def run(tmp_path):
    return RunFolder.claim(tmp_path / "run", configuration.default(), DIGITS)
