"""The entry point, called in process."""

import importlib.util
from pathlib import Path

import pytest

from tests.launch import shallow


@pytest.fixture(scope="session", autouse=True)
def shallow_models():
    """`didirn10` and `resnet10`, one block a stage: half of the time to compile."""
    with shallow.registered():
        yield


@pytest.fixture(scope="session")
def main():
    """`launch/main.py`'s `main` without the program's name."""
    path = Path(__file__).parents[2] / "launch" / "main.py"
    spec = importlib.util.spec_from_file_location("didicm_main", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main(["main.py", *map(str, arguments)])
