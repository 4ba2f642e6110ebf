"""A cell that was stopped goes on as what it was, or not at all."""

import json
from types import SimpleNamespace

import digits as digits_config
import numpy as np
import pytest

from didicm_jax import evaluation
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.run import Description, RunFolder
from didicm_jax.study import axes, cell
from didicm_jax.study.folder import StudyFolder
from didicm_jax.training import loop, operations


@pytest.fixture
def study(tmp_path):
    """One cell that has begun."""
    config = digits_config.get_config()
    config.model.name, config.model.width, config.model.depth = "didivit_ti4", 0.3333, 1
    config.model.stem = "didirn"
    made = StudyFolder(tmp_path, axes.cells(config, axes.parse("method=softmax"), 5))
    (begun,) = made.cells
    RunFolder.claim(made.place(begun), begun.config, Description.of(build.dataset(begun.config)))
    return made


def contents(study):
    return {path: path.read_bytes() for path in study.place(study.cells[0]).iterdir()}


def test_another_config_than_that_of_its_start_is_refused(study):
    (begun,) = study.cells
    path = study.place(begun) / "config.json"
    stored = json.loads(path.read_text())
    stored["train"]["duration"] = "3 steps"
    path.write_text(json.dumps(stored))
    before = contents(study)
    with pytest.raises(UserError, match=r"train.duration is '60 epochs', was '3 steps'"):
        cell.run(begun, study)
    assert contents(study) == before


def test_other_classes_than_those_of_its_start_are_refused(study):
    (begun,) = study.cells
    place = study.place(begun)
    path = RunFolder.open(place).description_file
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"class_names": list("abcdefghij")}))
    before = contents(study)
    with pytest.raises(UserError, match=r"expected the data that the run in .* was trained on"):
        cell.run(begun, study)
    assert contents(study) == before


def test_what_began_on_equal_compute_keeps_its_duration(study, tmp_path, monkeypatch):
    """However many operations the XLA of today counts, the same command goes on."""
    config = study.cells[0].config.copy_and_resolve_references()
    config.data.train_split, config.data.eval_split = "train", ""
    (begun,) = axes.cells(config, axes.parse("method=smoothed@compute"), 5)
    own = StudyFolder(tmp_path, [begun])
    durations = []

    def stop(run, folder):
        durations.append(run.config.train.duration)
        return SimpleNamespace(metrics=None)

    monkeypatch.setattr(loop, "train", stop)
    counted = iter([100.0, 100.0, 200.0, 100.0])
    monkeypatch.setattr(operations, "of_step", lambda run: next(counted))
    assert not cell.run(begun, own)
    assert not cell.run(begun, own)
    assert durations[0] == durations[1]
    assert durations[0].endswith(" steps")


def test_one_test_example_has_metrics_and_no_error_of_its_choice():
    one = evaluation.outcomes(np.float32([[0.75, 0.25]]), np.array([0]))
    assert cell._left_out((one, one), 2) == {}
    assert cell._metrics(one, one)["top1"] == 1
