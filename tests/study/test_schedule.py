"""Cells side by side: how they end, and what is said then."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from didicm_jax.cli import study as command
from didicm_jax.errors import UserError
from didicm_jax.study import schedule

GIVEN = ["study.py", "--config=configs/digits.py", "--jobs=1"]


def test_cells_that_were_stopped_are_neither_done_nor_failed(tmp_path):
    ends = {"done": 0, "failed": 3, "stopped": schedule.STOPPED}
    found = []
    schedule.run(
        list(ends),
        lambda name: [sys.executable, "-c", f"print('hello'); raise SystemExit({ends[name]})"],
        tmp_path / "logs",
        [schedule.Lane(None, {})] * 2,
        deadline=None,
        ended=found.append,
    )
    assert {each.name: each.status for each in found} == {"done": 0, "failed": 3}
    assert {each.log.read_text() for each in found} == {"hello\n"}


@pytest.mark.parametrize(
    ("visible", "devices", "expected"),
    [(None, 1, ["0"]), ("", 1, ["0"]), (None, 2, ["0", "1"]), ("3,5", 2, ["3", "5"])],
)
def test_a_cell_sees_the_gpu_of_its_lane(monkeypatch, visible, devices, expected):
    """The only one of a machine was hidden from it where nothing said which are visible."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    answer = SimpleNamespace(returncode=0, stdout=f"gpu {devices}", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    found = [lane.environment["CUDA_VISIBLE_DEVICES"] for lane in schedule.lanes(None)]
    assert found == expected


def test_more_cells_than_gpus_share_their_memory(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answer = SimpleNamespace(returncode=0, stdout="gpu 2", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    found = [lane.environment for lane in schedule.lanes(5)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["0", "1", "0", "1", "0"]
    # At most three of them are on one card, which keeps a tenth for itself.
    assert {each["XLA_CLIENT_MEM_FRACTION"] for each in found} == {"0.300"}
    alone = schedule.lanes(2)[0].environment
    assert {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"} & alone.keys() == set()


def test_jax_takes_the_share_of_a_cell_where_the_old_variable_is_set(monkeypatch):
    """It refuses two that are not empty."""
    from jaxlib import xla_client

    answer = SimpleNamespace(returncode=0, stdout="gpu 1", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.8")
    for name, value in schedule.lanes(2)[0].environment.items():
        monkeypatch.setenv(name, value)
    assert xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"] == 0.45


def test_a_cell_has_the_cores_of_its_lane_and_the_study_keeps_its_own(tmp_path):
    before = os.sched_getaffinity(0)
    core = max(before)
    schedule.run(
        ["cell"],
        lambda name: [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"],
        tmp_path / "logs",
        [schedule.Lane(frozenset({core}), {})],
        deadline=None,
        ended=lambda each: None,
    )
    assert (tmp_path / "logs" / "cell.log").read_text() == f"{{{core}}}\n"
    assert os.sched_getaffinity(0) == before


def test_a_study_with_a_cell_that_was_stopped_says_so(tmp_path, monkeypatch, capsys):
    """By somebody else: then the schedule comes to its end, and the table has a hole."""
    monkeypatch.setattr(schedule, "run", lambda *_, **__: True)
    assert command.main([*GIVEN, f"--workdir={tmp_path}", "--axes=seed=0"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "1 cell, 0 done, 1 at a time",
        "stopped with 0 of 1 cell done; the same command goes on",
    ]


def test_a_budget_that_never_ends_is_refused(tmp_path, capsys):
    """No time is later than nan."""
    workdir = tmp_path / "study"
    assert command.main([*GIVEN, f"--workdir={workdir}", "--axes=seed=0", "--budget=nan"]) == 2
    assert "--budget: expected minutes, found nan" in capsys.readouterr().err
    assert not workdir.exists()


def test_a_cell_that_fails_is_counted_as_one(tmp_path, monkeypatch, capsys):
    log = tmp_path / "log"
    log.write_text("no luck\n")

    def fail(names, *_, ended, **__):
        ended(schedule.Ended(names[0], 1, log))
        return True

    monkeypatch.setattr(schedule, "run", fail)
    assert command.main([*GIVEN, f"--workdir={tmp_path}", "--axes=seed=0"]) == 2
    said = capsys.readouterr()
    assert "1 cell: expected it to run to the end, found that it failed" in said.err
    assert "stopped" not in said.out


def test_a_jax_that_does_not_start_is_one_line(monkeypatch):
    answer = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nRuntimeError: no device\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(UserError, match="found 'RuntimeError: no device'") as error:
        schedule.lanes(None)
    assert "\n" not in str(error.value)
