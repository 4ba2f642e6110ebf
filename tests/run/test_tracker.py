"""Weights & Biases, offline: what it was told is read back from the file that it would send."""

import builtins
import contextlib
import importlib.util
import json
from pathlib import Path

import pytest

from didicm_jax.errors import UserError
from didicm_jax.run import journal, tracker

CONFIG = {"seed": 3, "model": {"name": "didirn18"}}


def opened(workdir, step=0):
    return contextlib.closing(journal.Reporter(workdir, step, 100, tracked=CONFIG))


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^config\.report\.wandb: expected .*didicm-jax\[wandb\]'$"
    ):
        tracker.check()


class Fake:
    """The package, as far as it is called."""

    def __init__(self):
        self.begun, self.axes, self.logged, self.broken = [], {}, [], ""
        self.Settings = dict

    def init(self, **arguments):
        self._raise()
        self.begun.append(arguments)
        return self

    def define_metric(self, name, *, step_metric):
        self.axes[name] = step_metric

    def log(self, record):
        """With a step of its own, which rises: what is given one that it has, it drops."""
        self._raise()
        self.logged.append(record)

    def finish(self):
        self._raise()

    def _raise(self):
        if self.broken:
            raise ValueError(self.broken)


@pytest.fixture
def fake(monkeypatch):
    found, real = Fake(), builtins.__import__
    monkeypatch.setattr(tracker, "check", lambda: None)
    monkeypatch.setattr(
        builtins, "__import__", lambda name, *a: found if name == "wandb" else real(name, *a)
    )
    return found


def test_a_second_start_goes_on_with_the_same_run(fake, tmp_path):
    """And sends again what was killed after it was sent, over an axis that may be gone back on."""
    for step in (10, 10, 20):
        with opened(tmp_path, step - 10) as reporter:
            reporter.train(step, {"loss": 0.5, "images_per_second": 9.0})
    first, second, _ = fake.begun
    assert first["id"] == second["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert (first["resume"], first["config"]) == ("allow", CONFIG)
    record = {"train/loss": 0.5, "train/images_per_second": 9.0}
    assert fake.axes == {"*": "step"}
    assert fake.logged == [record | {"step": step} for step in (10, 10, 20)]


def test_a_run_in_the_current_folder_has_a_name_there(fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened(Path()):
        assert fake.begun[0]["name"] == tmp_path.name


def test_what_cannot_begin_is_one_line(fake, tmp_path):
    fake.broken = "no API key"
    with pytest.raises(UserError, match=r"config\.report\.wandb: .*found no API key; .*offline"):
        opened(tmp_path)
    assert not (tmp_path / "wandb.json").exists()


@pytest.mark.parametrize("text", ["{}", '{"id": 3}', '{"id": ""}'])
def test_a_name_that_is_damaged_is_one_line(fake, tmp_path, text):
    (tmp_path / "wandb.json").write_text(text)
    with pytest.raises(
        UserError, match=r"wandb\.json: expected the id of a run, found .*remove it"
    ):
        opened(tmp_path)
    assert fake.begun == []


def test_a_later_failure_is_told_once_and_costs_no_training(fake, tmp_path, capsys):
    with opened(tmp_path) as reporter:
        fake.broken = "gone"
        for step in (10, 20):
            reporter.train(step, {"loss": 0.5, "images_per_second": 9.0})
    said = capsys.readouterr().out
    assert said.count("Weights & Biases failed (gone); the run goes on without it\n") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_offline_it_writes_into_the_workdir(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with opened(tmp_path) as reporter:
        reporter.train(10, {"loss": 0.123456, "images_per_second": 9.0})
    wandb.teardown()  # its own process writes, and ends with ours
    name = json.loads((tmp_path / "wandb.json").read_text())["id"]
    [written] = tmp_path.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb")
    content = written.read_bytes()
    for part in (b"train/loss", b"0.123456", b"didirn18"):
        assert part in content
