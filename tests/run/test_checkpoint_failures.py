"""Checkpoints that are damaged, half written, or refused by a disk: what is told, what goes on."""

import errno
import os
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import files
from didicm_jax.errors import UserError
from didicm_jax.parallel import processes
from didicm_jax.run import integrity, worth
from didicm_jax.run.checkpoints import Checkpoints
from tests.disks import cut, flip, full
from tests.run.saving import kept, like, looked_at, opened

DAMAGES = {"changed": flip, "bytes of": cut, "is missing": lambda path: path.unlink()}


@pytest.mark.parametrize("words", DAMAGES)
@pytest.mark.parametrize("which", ["arrays", "metadata", "list"])
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_is_read(tmp_path, words, which):
    said = []
    shapes = like({"x": jnp.zeros(5000)})
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
    with opened(tmp_path, say=said.append) as checkpoints:
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


def test_a_file_that_cannot_be_read_is_damaged(tmp_path, monkeypatch):
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
    with opened(tmp_path, say=said.append) as checkpoints:
        assert checkpoints.restore_latest(like({"x": jnp.zeros(3, int)}))[0] == 1
    assert "checkpoint 2 is damaged: a file of it cannot be read ([Errno 5]" in said[0]


def test_a_folder_that_cannot_be_mended_leaves_no_other_process_waiting(
    tmp_path, told, monkeypatch
):
    monkeypatch.setattr(worth, "mend", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path)
    assert told == [True]


def test_a_checkpoint_that_was_being_written_does_not_count(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)})
    whole = tmp_path / "checkpoints" / "1"
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(whole, half)
    # One that looks may do so while another process writes.
    with looked_at(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
    assert half.is_dir()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(like({"x": jnp.zeros(3)}))[0] == 1
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_where_all_are_damaged_nothing_is_touched(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)})
    flip(tmp_path / "checkpoints" / "1" / "default" / "_METADATA")
    for _ in range(2):
        with (
            opened(tmp_path) as checkpoints,
            pytest.raises(UserError, match=r"found all 1 damaged .*start again"),
        ):
            checkpoints.restore_latest(like({"x": jnp.zeros(3)}))


def test_a_part_of_a_damaged_checkpoint_is_refused(tmp_path):
    """Wherever the damage is."""
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.zeros(3), "b": jax.random.normal(jax.random.key(0), (5000,))})
    newest = tmp_path / "checkpoints" / "1"
    flip(max(newest.rglob("*"), key=lambda path: path.stat().st_size))
    with (
        looked_at(tmp_path) as checkpoints,
        pytest.raises(UserError, match="has changed since it was written"),
    ):
        checkpoints.restore_part(1, like({"a": jnp.zeros(3)}))


def test_reading_writes_nothing_and_needs_no_metrics(tmp_path):
    said = []
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        checkpoints.save(2, {"x": jnp.ones(3)}, evaluated=0.7)
    cut(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with looked_at(tmp_path, say=said.append) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (2, 1)
        checkpoints.restore_part(2, like({"x": jnp.zeros(3)}))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert len(said) == 1
    assert "counts as not evaluated" in said[0]
    with looked_at(tmp_path / "no") as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (None, None)
    assert not (tmp_path / "no").exists()


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
    assert kept(tmp_path) == [1, 3]


def test_a_folder_that_a_full_disk_refuses_leaves_no_thread_waiting(tmp_path, monkeypatch):
    """The process would not end for ten minutes."""
    before, said = set(threading.enumerate()), []
    with opened(tmp_path, say=said.append) as checkpoints:
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
    said = []
    with opened(tmp_path, say=said.append) as checkpoints:
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
    said = []
    with opened(tmp_path, say=said.append) as checkpoints:
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
    assert kept(tmp_path) == [2, 5, 6]


def test_damaged_metrics_cost_only_the_metrics(tmp_path):
    said = []
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.zeros(3)}, evaluated=0.5)
        checkpoints.save(2, {"x": jnp.ones(3)}, evaluated=0.7)
    cut(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    with opened(tmp_path, say=said.append) as checkpoints:
        assert checkpoints.restore_latest(like({"x": jnp.zeros(3)}))[0] == 2
        assert checkpoints.best() == 1
    assert len(said) == 1
    assert "counts as not evaluated" in said[0]


def test_what_the_records_know_is_written_at_the_next_start(tmp_path, monkeypatch):
    """And counts from then on, also where it was cut; a disk that is still full ends nothing."""
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.zeros(3)})
    known, said = {"1": 0.5, "2": 0.2}, []
    with monkeypatch.context() as patched:
        patched.setattr(files, "write_json", full)
        Checkpoints(tmp_path, known=known).close()
    cut(tmp_path / "checkpoints" / "2" / "metrics" / "metrics")
    with opened(tmp_path, known=known, say=said.append) as checkpoints:
        assert checkpoints.best() == 1
        for step in (3, 4, 5):
            checkpoints.save(step, {"x": jnp.zeros(3)}, evaluated=0.1)
        checkpoints.finish()
    assert (kept(tmp_path), said) == ([1, 4, 5], [])


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
