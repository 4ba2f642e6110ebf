"""What processes do before they talk; that they talk is tested by real ones."""

import sys

import numpy as np
import pytest

from didicm_jax import parallel
from didicm_jax.errors import UserError


def test_alone_everything_is_ones_own():
    values = np.array([0.1, 0.2])
    np.testing.assert_array_equal(parallel.gather(values), values)
    assert parallel.sum_processes(3) == 3
    assert parallel.any_process(True)
    assert not parallel.any_process(False)
    assert parallel.is_main()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("h:1", 2, None), "--process_id: expected all of .* or none, found it missing"),
        ((None, 2, 0), "--coordinator_address: expected all of"),
        (("h", 2, 0), "expected host:port of process 0, found 'h'"),
        (("h:x", 2, 0), "expected host:port"),
        (("h:1", 2, 2), "--process_id: expected 0 to 1, found 2"),
        (("h:1", 0, 0), "--num_processes: expected 1 or more, found 0"),
    ],
)
def test_impossible_processes_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        parallel.initialize(*given)


def test_one_process_asks_nobody(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    parallel.initialize(num_processes=1)


def test_a_pod_that_is_not_of_an_indexed_job_is_alone(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    parallel.initialize()


def test_a_pod_of_several_needs_the_client(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(UserError, match="expected the package kubernetes"):
        parallel.initialize()
