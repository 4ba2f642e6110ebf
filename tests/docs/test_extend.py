"""The code of `docs/extend.md`, run from top to bottom."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from didicm_jax import data, diffusion, models

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"


@pytest.fixture
def tables():
    """What the page adds to the tables of names is gone afterwards."""
    before = [
        (table, dict(table)) for table in (diffusion.INTEGRATORS, models.MODELS, data.LOADERS)
    ]
    yield
    for table, rows in before:
        table.clear()
        table.update(rows)


def test_the_page_runs(tables):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    scope = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(block, scope)
        score = scope["model"](jnp.zeros((2, 8, 8, 1)), jnp.zeros(2, int), jnp.ones(2))
    assert score.shape == (2, 10)
    assert scope["loss"].shape == (16,)
