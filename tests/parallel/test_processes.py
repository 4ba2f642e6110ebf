"""What processes do before they talk; that they talk is tested by real ones."""

import io
import os
import sys
import time

import jax
import numpy as np
import pytest

from didicm_jax import parallel
from didicm_jax.errors import UserError
from didicm_jax.parallel import watch


@pytest.fixture
def asked(monkeypatch):
    """How often JAX was told to look for other processes."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **more: calls.append(given))
    return calls


def test_alone_everything_is_ones_own():
    values = np.array([0.1, 0.2])
    np.testing.assert_array_equal(parallel.gather(values), values)
    assert parallel.any_process(True)
    assert not parallel.any_process(False)
    assert parallel.is_main()
    parallel.barrier()
    with parallel.alone() as mine:
        assert mine
    with pytest.raises(UserError, match="a mistake"), parallel.alone():
        raise UserError("a mistake")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("h:1", 2, None), "^process_id: expected all of .* or none, found it missing"),
        ((None, 2, 0), "^coordinator_address: expected all of"),
        (("h", 2, 0), "^coordinator_address: expected host:port of process 0, found 'h'"),
        (("h:x", 2, 0), "^coordinator_address: expected host:port"),
        (("h:1", 2, 2), "^process_id: expected 0 to 1, found 2"),
        (("h:1", 0, 0), "^num_processes: expected 1 or more, found 0"),
    ],
)
def test_impossible_processes_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        parallel.initialize(*given)


def test_one_process_asks_nobody(monkeypatch, asked):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    parallel.initialize(num_processes=1)
    assert asked == []


def test_a_pod_that_is_not_of_an_indexed_job_is_alone(monkeypatch, asked):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    parallel.initialize()
    assert asked == []
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")  # elsewhere JAX looks
    parallel.initialize()
    assert len(asked) == 1


def test_a_pod_of_several_needs_the_client(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UserError, match="expected the package kubernetes"):
        parallel.initialize()


@pytest.fixture
def given_up(monkeypatch):
    """What a watch has said, in the place of ending the tests; as one of two processes."""
    said = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(watch, "leave", lambda message, status: said.append((message, status)))
    return said


def test_what_a_process_does_itself_does_not_count(given_up):
    with parallel.Watch(0.4, "start again") as ours:
        with ours.waiting():
            time.sleep(0.01)
        time.sleep(0.8)
        for _ in range(10):  # nor do many waits add up
            with ours.waiting():
                time.sleep(0.1)
    assert given_up == []


def test_one_long_wait_for_the_others_is_given_up(given_up, capfd):
    with parallel.Watch(0.2, "start again") as ours, ours.waiting():
        deadline = time.monotonic() + 20
        while not given_up and time.monotonic() < deadline:
            time.sleep(0.02)
    message, status = given_up[0]
    assert status == 3
    assert "expected the others within 0.2 s" in message
    assert message.endswith("start again")
    assert "in test_one_long_wait" in capfd.readouterr().err  # where it hangs


def test_a_process_leaves_also_where_nobody_hears_why(monkeypatch):
    """Its terminal is gone, say: it would wait for the others for ever."""

    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    statuses = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(sys, "stderr", Gone())
    with parallel.Watch(0.1, "start again") as ours, ours.waiting():
        deadline = time.monotonic() + 20
        while not statuses and time.monotonic() < deadline:
            time.sleep(0.02)
    assert statuses[0] == 3
