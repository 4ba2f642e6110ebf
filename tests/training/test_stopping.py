"""Signals as requests, where nobody reads what is said of them."""

import io
import os
import signal
import sys
import time

from didicm_jax.training.stopping import StopRequest


class Gone(io.StringIO):
    """A pipe into `tee`, which the first Ctrl-C has ended."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def wait_until(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_second_ctrl_c_leaves_at_once_also_where_the_first_could_not_be_told(monkeypatch):
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(sys, "stderr", Gone())
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        wait_until(lambda: stop.made)
        assert (stop.name, statuses) == ("SIGINT", [])
        signal.raise_signal(signal.SIGINT)
        wait_until(lambda: statuses)
    assert statuses == [130]
