import contextlib
import errno
import os
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh

from didicm_jax import files, parallel
from didicm_jax.errors import UserError
from didicm_jax.parallel import processes
from didicm_jax.run import integrity, worth
from didicm_jax.run.checkpoints import Checkpoints
from didicm_jax.run.saved import SavedCheckpoints


@pytest.fixture
def mesh():
    return parallel.make_mesh()


def like(state, mesh):
    sharding = parallel.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def opened(path):
    return contextlib.closing(Checkpoints(path))


def test_the_latest_two_and_the_best_are_kept_over_restarts(tmp_path):
    scores = {1: 0.2, 2: None, 3: 0.9, 4: None, 5: 0.1, 6: 0.8, 7: None}
    for steps in ((1, 2, 3), (4, 5), (6, 7)):
        with opened(tmp_path) as checkpoints:
            for step in steps:
                checkpoints.save(step, {"x": jnp.full(3, step)}, evaluated=scores[step])
    with opened(tmp_path) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (7, 3)
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [3, 6, 7]


def test_the_best_by_the_likelihood_is_kept(tmp_path):
    """Worse than any accuracy, and still more than what was not evaluated."""
    found = {1: 4.0, 2: 2.5, 3: 3.0, 4: None, 5: None}
    with opened(tmp_path) as checkpoints:
        for step, nll in found.items():
            value = None if nll is None else worth.of({"top1": step / 10, "nll": nll}, "nll")
            checkpoints.save(step, {"x": jnp.zeros(2)}, evaluated=value)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.best() == 2
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [2, 4, 5]
    assert worth.of({"top1": 0.3, "nll": 2.0}, "top1") == 0.3


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
        found = checkpoints.restore_part(1, shapes)
    np.testing.assert_array_equal(found["x"], 1.0)
    assert found["n"] == 1
    assert found["x"].sharding.is_equivalent_to(parallel.replicated(mesh), 2)


def test_a_step_is_saved_once(tmp_path, mesh):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(2)})
        checkpoints.save(1, {"x": jnp.ones(2)})
    with opened(tmp_path) as checkpoints:
        found = checkpoints.restore_part(1, like({"x": jnp.zeros(2)}, mesh))
    np.testing.assert_array_equal(found["x"], 0.0)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {"changed": flip, "bytes of": cut, "is missing": lambda path: path.unlink()}


@pytest.mark.parametrize("words", DAMAGES)
@pytest.mark.parametrize("which", ["arrays", "metadata", "list"])
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_is_read(tmp_path, mesh, words, which):
    said = []
    shapes = like({"x": jnp.zeros(5000)}, mesh)
    key = jax.random.key(0)
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            values = jax.random.normal(jax.random.fold_in(key, step), (5000,))
            checkpoints.save(step, {"x": values})
    newest = tmp_path / "checkpoints" / "2"
    files = [path for path in newest.rglob("*") if path.is_file()]
    DAMAGES[words](
        {
            "arrays": max(files, key=lambda path: path.stat().st_size),
            "metadata": newest / "default" / "_METADATA",
            "list": newest / "files.json",
        }[which]
    )
    with contextlib.closing(Checkpoints(tmp_path, say=said.append)) as checkpoints:
        with pytest.raises(UserError, match="expected a whole checkpoint, found") as error:
            checkpoints.restore_part(2, shapes)
        assert "\n" not in str(error.value)
        step, state = checkpoints.restore_latest(shapes)
        assert step == 1
        np.testing.assert_array_equal(
            state["x"], jax.random.normal(jax.random.fold_in(key, 1), 5000)
        )
        assert len(said) == 1
        assert f"moved to {tmp_path / 'damaged' / '2'}, going on from that of step 1" in said[0]
        if which != "list":
            assert words in said[0]
        checkpoints.save(2, {"x": values})
        checkpoints.finish()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(shapes)[0] == 2


def test_a_file_that_cannot_be_read_is_damaged(tmp_path, mesh, monkeypatch):
    """By a bad place on the disk, say: the one before is as good."""
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.full(3, step)})
    real = integrity._digest

    def read(path):
        if "checkpoints/2/" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(integrity, "_digest", read)
    said = []
    with contextlib.closing(Checkpoints(tmp_path, say=said.append)) as checkpoints:
        assert checkpoints.restore_latest(like({"x": jnp.zeros(3, int)}, mesh))[0] == 1
    assert "checkpoint 2 is damaged: a file of it cannot be read ([Errno 5]" in said[0]


def test_a_folder_that_cannot_be_mended_leaves_no_other_process_waiting(
    tmp_path, told, monkeypatch
):
    def full(folder, say):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worth, "mend", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path)
    assert told == [True]


def test_processes_do_not_go_on_from_different_checkpoints(tmp_path, mesh, monkeypatch):
    """One that does not see the newest yet trained the older one on, beside the others."""
    shapes, rows, alone = like({"x": jnp.zeros(3)}, mesh), [], processes.gather

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


def test_a_checkpoint_that_was_being_written_does_not_count(tmp_path, mesh):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)})
    whole = tmp_path / "checkpoints" / "1"
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(whole, half)
    # One that looks may do so while another process writes.
    with contextlib.closing(SavedCheckpoints(tmp_path)) as checkpoints:
        assert checkpoints.latest() == 1
    assert half.is_dir()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(like({"x": jnp.zeros(3)}, mesh))[0] == 1
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_where_all_are_damaged_nothing_is_touched(tmp_path, mesh):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)})
    flip(tmp_path / "checkpoints" / "1" / "default" / "_METADATA")
    for _ in range(2):
        with (
            opened(tmp_path) as checkpoints,
            pytest.raises(UserError, match=r"found all 1 damaged .*start again"),
        ):
            checkpoints.restore_latest(like({"x": jnp.zeros(3)}, mesh))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": np.zeros((3, 4)), "b": {"c": np.zeros(5)}}, "expected b.c to be 5, .*found 2:"),
        ({"a": np.zeros((3, 4)), "d": np.zeros(2)}, "expected d to be 2, .*found no such array"),
        ({"a": np.zeros((3, 4))}, "expected b.c to be no such array, .*found 2"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(tmp_path, mesh, other, message):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros((3, 4)), "b": {"c": jnp.zeros(2)}})
    with opened(tmp_path) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore_latest(like(other, mesh))


def test_of_a_part_only_its_own_arrays_are_read(tmp_path, mesh):
    """The sizes of the others are not even known to who asks."""
    state = {"weights": {"a": jnp.arange(3.0)}, "moments": {"a": jnp.zeros((2, 3))}}
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    with contextlib.closing(SavedCheckpoints(tmp_path)) as checkpoints:
        found = checkpoints.restore_part(1, like({"weights": {"a": jnp.zeros(3)}}, mesh))
        assert jax.tree.map(np.asarray, found).keys() == {"weights"}
        np.testing.assert_array_equal(found["weights"]["a"], [0, 1, 2])
        for other, words in (
            ({"weights": {"a": jnp.zeros(4)}}, r"expected weights\.a to be 4, .*found 3"),
            ({"weights": {}}, r"expected weights\.a to be no such array"),
            ({"average": {"a": jnp.zeros(3)}}, r"expected average\.a to be 3, .*no such array"),
        ):
            with pytest.raises(UserError, match=words):
                checkpoints.restore_part(1, like(other, mesh))


def test_checkpoints_of_former_versions_are_read(tmp_path, mesh):
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
        step, whole = checkpoints.restore_latest(like(state, mesh))
        part = checkpoints.restore_part(1, like({"weights": state["weights"]}, mesh))
    assert (step, whole["step"]) == (2, 7)
    for found in (whole, part):
        np.testing.assert_array_equal(found["weights"]["a"], [0, 1, 2])


def test_a_part_of_a_damaged_checkpoint_is_refused(tmp_path, mesh):
    """Wherever the damage is."""
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros(3), "b": jax.random.normal(jax.random.key(0), (5000,))})
    newest = tmp_path / "checkpoints" / "1"
    flip(max(newest.rglob("*"), key=lambda path: path.stat().st_size))
    with (
        contextlib.closing(SavedCheckpoints(tmp_path)) as checkpoints,
        pytest.raises(UserError, match="has changed since it was written"),
    ):
        checkpoints.restore_part(1, like({"a": jnp.zeros(3)}, mesh))


def test_reading_writes_nothing_and_needs_no_metrics(tmp_path, mesh):
    said = []
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        checkpoints.save(2, {"x": jnp.ones(3)}, evaluated=0.7)
    cut(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    reading = SavedCheckpoints(tmp_path, say=said.append)
    with contextlib.closing(reading) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (2, 1)
        checkpoints.restore_part(2, like({"x": jnp.zeros(3)}, mesh))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert len(said) == 1
    assert "counts as not evaluated" in said[0]
    with contextlib.closing(SavedCheckpoints(tmp_path / "no")) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (None, None)
    assert not (tmp_path / "no").exists()


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


def test_a_save_that_fails_is_told_and_the_next_one_works(tmp_path):
    said = []
    checkpoints = Checkpoints(tmp_path, say=said.append)
    checkpoints.save(1, {"x": jnp.zeros(3)})
    checkpoints.finish()
    os.rename(tmp_path / "checkpoints", tmp_path / "elsewhere")
    checkpoints.save(2, {"x": jnp.zeros(3)})
    with pytest.raises(UserError, match=r"expected to save the run in .*checkpoints is gone"):
        checkpoints.finish()
    assert len(said) == 1
    assert "checkpoint 2 could not be saved" in said[0]
    os.rename(tmp_path / "elsewhere", tmp_path / "checkpoints")
    checkpoints.save(3, {"x": jnp.zeros(3)})
    checkpoints.finish()
    checkpoints.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "3"}


def test_a_folder_that_a_full_disk_refuses_leaves_no_thread_waiting(tmp_path, monkeypatch):
    """The process would not end for ten minutes."""

    def full(path, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before, said = set(threading.enumerate()), []
    with contextlib.closing(Checkpoints(tmp_path, say=said.append)) as checkpoints:
        monkeypatch.setattr(os, "mkdir", full)
        checkpoints.save(1, {"x": jnp.zeros(3)})
        with pytest.raises(UserError, match="expected to save the run"):
            checkpoints.finish()
    assert len(said) == 1
    assert "checkpoint 1 could not be saved" in said[0]
    deadline = time.monotonic() + 60
    while left := [x for x in set(threading.enumerate()) - before if not x.daemon]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_last_save_that_fails_is_told_and_waits_for_no_other_process(tmp_path, monkeypatch):
    """A run that ends by an error closes its checkpoints on each process by itself."""

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    checkpoints = Checkpoints(tmp_path, say=said.append)
    monkeypatch.setattr(integrity, "seal", full)  # called in the background
    checkpoints.save(1, {"x": jnp.zeros(3)})
    monkeypatch.setattr(processes, "gather", lambda values: pytest.fail("it waits"))
    checkpoints.close()
    assert len(said) == 1
    assert said[0].startswith("checkpoint 1 could not be saved (")
    assert "No space left" in said[0]


def test_an_accuracy_that_a_full_disk_refuses_does_not_end_the_run(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    with contextlib.closing(Checkpoints(tmp_path, say=said.append)) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)})
        with monkeypatch.context() as patched:
            patched.setattr(files, "write_json", full)
            checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        with pytest.raises(UserError, match="No space left on device"):
            checkpoints.finish()
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        checkpoints.finish()
        assert checkpoints.best() == 1
    assert len(said) == 1
    assert "checkpoint 1 could not be saved" in said[0]


def test_an_accuracy_that_a_full_disk_refuses_is_written_by_the_next_save(tmp_path, monkeypatch):
    """As the message promises; else the best checkpoint would be another one for ever."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = []
    with contextlib.closing(Checkpoints(tmp_path, say=said.append)) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.2)
        with monkeypatch.context() as patched:
            patched.setattr(files, "write_json", full)
            checkpoints.save(2, {"x": jnp.zeros(3)})
            checkpoints.save(2, {"x": jnp.zeros(3)}, evaluated=0.5)
            checkpoints.save(3, {"x": jnp.zeros(3)})
        for step in (4, 5, 6):
            checkpoints.save(step, {"x": jnp.zeros(3)}, evaluated=0.1)
        checkpoints.finish()
        assert checkpoints.best() == 2
    assert len(said) == 1
    assert "checkpoint 2 could not be saved" in said[0]
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [2, 5, 6]


def test_an_evaluation_that_comes_later_makes_a_checkpoint_the_best(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        checkpoints.save(2, {"x": jnp.zeros(3)})
        assert checkpoints.best() == 1
        checkpoints.save(2, {"x": jnp.zeros(3)}, evaluated=0.7)
        assert checkpoints.best() == 2


def test_damaged_metrics_cost_only_the_metrics(tmp_path, mesh):
    said = []
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        checkpoints.save(2, {"x": jnp.ones(3)}, evaluated=0.7)
    cut(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    with contextlib.closing(Checkpoints(tmp_path, say=said.append)) as checkpoints:
        assert checkpoints.restore_latest(like({"x": jnp.zeros(3)}, mesh))[0] == 2
        assert checkpoints.best() == 1
    assert len(said) == 1
    assert "counts as not evaluated" in said[0]


def test_what_the_records_know_is_written_at_the_next_start(tmp_path, monkeypatch):
    """And counts from then on, also where it was cut; a disk that is still full ends nothing."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.zeros(3)})
    known, said = {"1": 0.5, "2": 0.2}, []
    with monkeypatch.context() as patched:
        patched.setattr(files, "write_json", full)
        Checkpoints(tmp_path, known=known).close()
    cut(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    with contextlib.closing(Checkpoints(tmp_path, known=known, say=said.append)) as checkpoints:
        assert checkpoints.best() == 1
        for step in (3, 4, 5):
            checkpoints.save(step, {"x": jnp.zeros(3)}, evaluated=0.1)
        checkpoints.finish()
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert (kept, said) == ([1, 4, 5], [])


def test_metrics_that_are_gone_come_back_with_an_evaluation(tmp_path):
    """A run that stood at such a checkpoint could neither go on to its end nor conclude."""
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "metrics")
    with opened(tmp_path) as checkpoints:
        assert checkpoints.best() is None
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        checkpoints.finish()
        checkpoints.save(2, {"x": jnp.zeros(3)}, evaluated=0.25)
        checkpoints.finish()
        assert checkpoints.best() == 1
