"""The whole suite runs with four simulated devices and strict dtypes; ranks never broadcast."""

import atexit
import os
import shutil
import tempfile

from tests import compiling

# Before jax is imported: the number of devices is fixed when its backend starts.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {compiling.flags(devices=4)}"
os.environ["JAX_PLATFORMS"] = "cpu"
# One cache of compiled programs for all tests, their workers and the programs that they start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="didicm_tests_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import ast
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from didicm_jax.parallel import processes
from tests.emulator import emulator, folder_of_bucket  # noqa: F401

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def told(monkeypatch):
    """What the other processes are told, in order: whether this one has failed."""
    flags, real = [], processes.any_process
    monkeypatch.setattr(processes, "any_process", lambda flag: flags.append(flag) or real(flag))
    return flags


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


def rule_value(name, shape):
    """A tensor by the rule of `tests/golden/README.md`, from its PyTorch name and shape."""
    x = np.random.default_rng([zlib.crc32(name.encode()), 2025]).standard_normal(shape)
    if name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(x)
    elif name.endswith("running_mean"):
        value = 0.1 * x
    elif len(shape) == 4:
        value = x * np.sqrt(2 / np.prod(shape[1:]))
    elif len(shape) == 2:
        value = x * (0.5 if "label_embedder" in name else np.sqrt(1 / shape[1]))
    else:
        value = 1 + 0.1 * x if name.endswith("weight") else 0.1 * x
    return value.astype(np.float32)


@pytest.fixture(scope="session")
def golden_weights():
    """`(names, shapes)` of a golden network to its PyTorch state dict."""

    def make(names, shapes):
        pairs = zip(names.tolist(), shapes.tolist(), strict=True)
        return {name: rule_value(name, ast.literal_eval(shape)) for name, shape in pairs}

    return make
