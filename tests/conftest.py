"""The whole suite runs with four simulated devices and strict dtypes; ranks never broadcast."""

import os

# Before jax is imported: the number of devices is fixed when its backend starts. Most of the time
# of the suite is compilation, of which LLVM's optimisation is a third.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        "--xla_backend_optimization_level=0",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"

from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """Values of the original PyTorch implementation, described in `tests/golden/README.md`."""
    with np.load(GOLDEN / "reference.npz") as file:
        return dict(file)


@pytest.fixture
def x64():
    """Runs one test in float64."""
    with jax.enable_x64(True):
        yield
