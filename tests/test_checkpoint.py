import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import devices
from didicm_jax.checkpoint import Checkpoints


@pytest.fixture
def mesh():
    return devices.make_mesh()


def like(state, mesh):
    sharding = devices.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def opened(path):
    return contextlib.closing(Checkpoints(path))


def test_the_latest_two_and_the_best_are_kept_over_restarts(tmp_path):
    scores = {1: 0.2, 2: None, 3: 0.9, 4: None, 5: 0.1, 6: 0.8, 7: None}
    for steps in ((1, 2, 3), (4, 5), (6, 7)):
        with opened(tmp_path) as checkpoints:
            for step in steps:
                checkpoints.save(step, {"x": jnp.full(3, step)}, top1=scores[step])
    with opened(tmp_path) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (7, 3)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [3, 6, 7]


def test_without_an_evaluation_nothing_is_best(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (None, None)
        checkpoints.save(1, {"x": jnp.zeros(2)})
        assert (checkpoints.latest(), checkpoints.best()) == (1, None)


def test_what_is_saved_is_the_state_of_that_moment(tmp_path, mesh):
    """The save runs in the background while the next steps overwrite the donated state."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = jax.device_put({"x": jnp.zeros((512, 512)), "n": jnp.zeros((), jnp.int32)})
    shapes = like(state, mesh)
    with opened(tmp_path) as checkpoints:
        state = step(state)
        checkpoints.save(1, state)
        for _ in range(20):
            state = step(state)
        jax.block_until_ready(state)
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore(1, shapes)
    np.testing.assert_array_equal(found["x"], 1.0)
    assert found["n"] == 1
    assert found["x"].sharding.is_equivalent_to(devices.replicated(mesh), 2)


def test_a_step_is_saved_once(tmp_path, mesh):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(2)})
        checkpoints.save(1, {"x": jnp.ones(2)})
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore(1, like({"x": jnp.zeros(2)}, mesh))
    np.testing.assert_array_equal(found["x"], 0.0)
