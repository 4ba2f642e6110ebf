"""The entry point, called in process."""

import pytest

from didicm_jax.cli import main as entry_point
from tests import shallow


@pytest.fixture(scope="session", autouse=True)
def shallow_models():
    """`didirn10` and `resnet10`, one block a stage: half of the time to compile."""
    with shallow.registered():
        yield


@pytest.fixture(scope="session")
def main():
    """`launch/main.py`'s `main` without the program's name."""
    return lambda *arguments: entry_point.main(["main.py", *map(str, arguments)])
