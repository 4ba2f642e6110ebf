"""The entry point, called in process."""

import importlib.util
from functools import partial
from pathlib import Path

import pytest

from didicm_jax.models import registry, resnet


@pytest.fixture(scope="session", autouse=True)
def shallow_models():
    """`didirn10` and `resnet10`, one block a stage: half of the time to compile."""
    depth = resnet.Depth((1, 1, 1, 1), False)
    rows = {"didirn10": "didirn18", "resnet10": "resnet18"}
    for name, like in rows.items():
        entry = registry._MODELS[like]
        registry._MODELS[name] = entry._replace(build=partial(entry.build.func, depth))
    yield
    for name in rows:
        del registry._MODELS[name]


@pytest.fixture(scope="session")
def main():
    """`launch/main.py`'s `main` without the program's name."""
    path = Path(__file__).parents[2] / "launch" / "main.py"
    spec = importlib.util.spec_from_file_location("didicm_main", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main(["main.py", *map(str, arguments)])
