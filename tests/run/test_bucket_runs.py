"""Checkpoints and records of a run in a bucket, on an emulator of the store."""

import contextlib
import json

import jax
import numpy as np
import pytest

from didicm_jax import bucket, files
from didicm_jax import config as configuration
from didicm_jax.bucket import claims, store
from didicm_jax.errors import UserError
from didicm_jax.run import Description, RunFolder, journal
from tests.disks import flip
from tests.run.claiming import DIGITS
from tests.run.saving import like, looked_at, opened


@pytest.fixture
def run(folder_of_bucket):
    return RunFolder.claim(folder_of_bucket, configuration.default(), DIGITS)


def values(step):
    return {"x": jax.random.normal(jax.random.fold_in(jax.random.key(0), step), (2000,))}


def test_a_run_is_opened_as_it_was_claimed(run):
    found = RunFolder.open(str(run.path))
    assert (found.config, found.description) == (configuration.default(), DIGITS)
    assert [path.name for path in files.tree(run.path)] == ["config.json", "dataset.json"]
    assert RunFolder.find(f"{run.path}-other") is None
    assert not run.begun
    other = Description(("zero", "two", "one"), (8, 8, 1))
    with pytest.raises(UserError, match="expected the data that the run in gs://"):
        RunFolder.claim(run.path, configuration.default(), other)
    with looked_at(run.path) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (None, None)


def test_a_second_start_is_refused(run, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.1)
    with (
        run.alone(),
        pytest.raises(UserError, match="expected nobody else to train"),
        run.alone(),
    ):
        pass
    with run.alone():
        pass


def test_a_checkpoint_counts_when_it_is_whole_and_a_damaged_one_is_set_aside(run):
    """A bit that flips, and a kill while one is written, which has its own name from the start."""
    said = []
    with opened(run.path) as checkpoints:
        for step, top1 in ((1, 0.9), (2, None), (3, 0.2), (4, None)):
            checkpoints.save(step, values(step), evaluated=top1)
        checkpoints.finish()
        assert (checkpoints.latest(), checkpoints.best()) == (4, 1)
    kept = {path.name for path in run.checkpoints.iterdir()}
    assert kept == {"1", "3", "4"}  # the best, and the latest two
    newest = run.checkpoints / "4"
    flipped = max(files.tree(newest), key=files.size)
    flip(flipped)
    for path in files.tree(run.checkpoints / "3"):
        if path.name != bucket.COMMITTED:
            name = path.relative_to(run.checkpoints / "3")
            (run.checkpoints / "5" / name).write_bytes(path.read_bytes())
    with looked_at(run.path) as checkpoints:
        assert checkpoints.latest() == 4
        with pytest.raises(UserError, match="has changed since it was written"):
            checkpoints.restore_part(4, like(values(0)))
    with opened(run.path, say=said.append) as checkpoints:
        step, state = checkpoints.restore_latest(like(values(0)))
        assert step == 3
        np.testing.assert_array_equal(state["x"], values(3)["x"])
        assert f"moved to {run.damaged}/4, going on from that of step 3" in said[0]
        assert files.tree(newest) == []
        assert flipped.name in {path.name for path in files.tree(run.damaged / "4")}
        for step in (4, 5):
            checkpoints.save(step, values(step))
        checkpoints.finish()
    with opened(run.path, say=said.append) as checkpoints:
        step, state = checkpoints.restore_latest(like(values(0)))
    np.testing.assert_array_equal(state["x"], values(5)["x"])
    assert (step, len(said)) == (5, 1)
    assert run.begun


def test_a_checkpoint_that_is_being_written_is_not_begun(run):
    (run.checkpoints / "1" / "default" / "manifest.ocdbt").write_bytes(b"")
    assert not run.begun
    with opened(run.path) as checkpoints:
        assert checkpoints.restore_latest(like(values(0))) is None
        checkpoints.save(1, values(1))
        checkpoints.finish()
        assert checkpoints.latest() == 1
    assert run.begun


def test_a_store_that_does_not_answer_does_not_end_the_run(run, monkeypatch):
    said = []
    with opened(run.path, say=said.append) as checkpoints:
        checkpoints.save(1, values(1))
        checkpoints.check(wait=True)
        with monkeypatch.context() as patched:
            patched.setattr(bucket, "reachable", lambda path: False)
            for step in (2, 3):
                checkpoints.save(step, values(step))
            with pytest.raises(UserError, match=r"is gone; .* checkpoint of step 1"):
                checkpoints.finish()
        checkpoints.save(4, values(4))
        checkpoints.finish()
        assert checkpoints.latest() == 4
    assert [line.split(" could")[0] for line in said] == ["checkpoint 2", "checkpoint 3"]
    assert {path.name for path in run.checkpoints.iterdir()} == {"1", "4"}


def test_records_are_there_once_whatever_fails(run, monkeypatch):
    """Those of the steps before a checkpoint are written by then; later ones are run again."""

    def steps():
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    def gone(path, content, *, later=False):
        raise OSError("no connection")

    record = {"loss": 1.0, "images_per_second": 1.0}
    with contextlib.closing(journal.Reporter(run.path, 0, 9)) as reporter:
        reporter.train(1, record)
        reporter.flush()
        with monkeypatch.context() as patched:
            patched.setattr(bucket, "put", gone)
            patched.setattr(store, "put", gone)
            reporter.train(2, record)
            reporter.flush()
            with pytest.raises(UserError, match="no connection"):
                reporter.finish()
        reporter.train(3, record)
        reporter.finish()
        assert steps() == [1, 2, 3]
        reporter.train(4, record)
        assert steps() == [1, 2, 3]  # one version of an object in so many seconds
    # Killed here; the checkpoint is of step 2.
    with contextlib.closing(journal.Reporter(run.path, 2, 9)) as reporter:
        assert steps() == [1, 2]
        reporter.train(3, record)
        reporter.finish()
    assert steps() == [1, 2, 3]
    events = [path for path in files.tree(run.tensorboard) if "tfevents" in path.name]
    assert len(events) >= 2  # another file after the failure
    assert all(files.size(path) > 0 for path in events)
