"""A batch of small images."""

import numpy as np
import pytest

from tests.training.stepping import BATCH, CLASSES


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (BATCH, 2, 2, 3)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        "index": np.arange(BATCH, dtype=np.int32),
    }
