"""Which checkpoints are kept, which of them is the best, and what is read of them."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh

from didicm_jax import parallel
from didicm_jax.errors import UserError
from didicm_jax.parallel import processes
from didicm_jax.run import integrity, worth
from tests.run.saving import kept, like, looked_at, opened


def test_the_latest_two_and_the_best_are_kept_over_restarts(tmp_path):
    scores = {1: 0.2, 2: None, 3: 0.9, 4: None, 5: 0.1, 6: 0.8, 7: None}
    for steps in ((1, 2, 3), (4, 5), (6, 7)):
        with opened(tmp_path) as checkpoints:
            for step in steps:
                checkpoints.save(step, {"x": jnp.full(3, step)}, evaluated=scores[step])
    with opened(tmp_path) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (7, 3)
    assert kept(tmp_path) == [3, 6, 7]


def test_the_best_by_the_likelihood_is_kept(tmp_path):
    """Worse than any accuracy, and still more than what was not evaluated."""
    found = {1: 4.0, 2: 2.5, 3: 3.0, 4: None, 5: None}
    with opened(tmp_path) as checkpoints:
        for step, nll in found.items():
            value = None if nll is None else worth.of({"top1": step / 10, "nll": nll}, "nll")
            checkpoints.save(step, {"x": jnp.zeros(2)}, evaluated=value)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.best() == 2
    assert kept(tmp_path) == [2, 4, 5]
    assert worth.of({"top1": 0.3, "nll": 2.0}, "top1") == 0.3


def test_without_an_evaluation_nothing_is_best(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (None, None)
        checkpoints.save(1, {"x": jnp.zeros(2)})
        assert (checkpoints.latest(), checkpoints.best()) == (1, None)


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    """The save runs in the background while the next steps overwrite the donated state."""
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = jax.device_put({"x": jnp.zeros((512, 512)), "n": jnp.zeros((), jnp.int32)})
    shapes = like(state)
    with opened(tmp_path) as checkpoints:
        state = step(state)
        checkpoints.save(1, state)
        for _ in range(20):
            state = step(state)
        jax.block_until_ready(state)
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore_part(1, shapes)
    np.testing.assert_array_equal(found["x"], 1.0)
    assert found["n"] == 1
    assert found["x"].sharding.is_equivalent_to(shapes["x"].sharding, 2)


def test_a_step_is_saved_once(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(2)})
        checkpoints.save(1, {"x": jnp.ones(2)})
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore_part(1, like({"x": jnp.zeros(2)}))
    np.testing.assert_array_equal(found["x"], 0.0)


def test_processes_do_not_go_on_from_different_checkpoints(tmp_path, monkeypatch):
    """One that does not see the newest yet trained the older one on, beside the others."""
    shapes, rows, alone = like({"x": jnp.zeros(3)}), [], processes.gather

    def both(values):
        if values.dtype != np.uint64:
            return alone(values)
        rows.append(values)
        return np.concatenate(rows)

    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)})
        checkpoints.finish()
        monkeypatch.setattr(processes, "gather", both)
        assert checkpoints.restore_latest(shapes)[0] == 1
        checkpoints.save(2, {"x": jnp.zeros(3)})
        checkpoints.finish()
        with pytest.raises(UserError, match="differ in the checkpoints that they see; start all"):
            checkpoints.restore_latest(shapes)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": np.zeros((3, 4)), "b": {"c": np.zeros(5)}}, "expected b.c to be 5, .*found 2:"),
        ({"a": np.zeros((3, 4)), "d": np.zeros(2)}, "expected d to be 2, .*found no such array"),
        ({"a": np.zeros((3, 4))}, "expected b.c to be no such array, .*found 2"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path, other, message):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros((3, 4)), "b": {"c": jnp.zeros(2)}})
    with opened(tmp_path) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore_latest(like(other))


def test_of_a_part_only_its_own_arrays_are_read(tmp_path):
    """The sizes of the others are not even known to who asks."""
    state = {"weights": {"a": jnp.arange(3.0)}, "moments": {"a": jnp.zeros((2, 3))}}
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    with looked_at(tmp_path) as checkpoints:
        found = checkpoints.restore_part(1, like({"weights": {"a": jnp.zeros(3)}}))
        assert jax.tree.map(np.asarray, found).keys() == {"weights"}
        np.testing.assert_array_equal(found["weights"]["a"], [0, 1, 2])
        for other, words in (
            ({"weights": {"a": jnp.zeros(4)}}, r"expected weights\.a to be 4, .*found 3"),
            ({"weights": {}}, r"expected weights\.a to be no such array"),
            ({"average": {"a": jnp.zeros(3)}}, r"expected average\.a to be 3, .*no such array"),
        ):
            with pytest.raises(UserError, match=words):
                checkpoints.restore_part(1, like(other))


def test_checkpoints_of_former_versions_are_read(tmp_path):
    """Written by orbax's standard handler, without parts; -1 stood for no evaluation."""
    state = {"weights": {"a": jnp.arange(3.0)}, "step": jnp.int32(7)}
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics["top1"], save_root_metadata=False
    )
    manager = ocp.CheckpointManager(
        tmp_path / "checkpoints", item_handlers=ocp.StandardCheckpointHandler(), options=options
    )
    manager.save(1, args=ocp.args.StandardSave(state), metrics={"top1": 0.0})
    manager.save(2, args=ocp.args.StandardSave(state), metrics={"top1": -1.0})
    manager.close()
    for step in ("1", "2"):
        integrity.seal(tmp_path / "checkpoints" / step)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.best() == 1
        step, whole = checkpoints.restore_latest(like(state))
        part = checkpoints.restore_part(1, like({"weights": state["weights"]}))
    assert (step, whole["step"]) == (2, 7)
    for found in (whole, part):
        np.testing.assert_array_equal(found["weights"]["a"], [0, 1, 2])


def test_a_checkpoint_moves_to_another_number_of_devices(tmp_path):
    def placed(count):
        return parallel.spread(
            {"x": np.zeros((8, 6))}, Mesh(np.array(jax.devices()[:count]), (parallel.AXIS,))
        )

    value = np.arange(48.0, dtype=np.float32).reshape(8, 6)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, jax.device_put({"x": value}, placed(4)))
    for count in (1, 2):
        shapes = {"x": jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=placed(count)["x"])}
        with opened(tmp_path) as checkpoints:
            _, state = checkpoints.restore_latest(shapes)
        np.testing.assert_array_equal(state["x"], value)
        assert len(state["x"].sharding.device_set) == count


def test_an_evaluation_that_comes_later_makes_a_checkpoint_the_best(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        checkpoints.save(2, {"x": jnp.zeros(3)})
        assert checkpoints.best() == 1
        checkpoints.save(2, {"x": jnp.zeros(3)}, evaluated=0.7)
        assert checkpoints.best() == 2
