"""Which folders, data and starts a run's folder takes, and what of it is read and written."""

import contextlib
import dataclasses
import json
import os

import pytest

from didicm_jax import config as configuration
from didicm_jax.parallel import processes
from didicm_jax.run import Description, RunFolder
from tests.run.claiming import DIGITS, changed, contents, one_line


def test_a_run_is_opened_as_it_was_claimed(run):
    found = RunFolder.open(str(run.path))
    assert (found.config, found.description) == (configuration.default(), DIGITS)
    assert {path.name for path in run.path.iterdir()} == {".lock", "config.json", "dataset.json"}
    assert json.loads(run.description_file.read_text())["class_names"] == ["zero", "one", "two"]


@pytest.mark.parametrize(
    ("description", "words"),
    [
        (Description(("zero", "two", "one"), (8, 8, 1)), "class 1 to be 'one', found 'two'"),
        (Description(("zero", "one"), (8, 8, 1)), "expected 3 classes, found 2"),
        (Description(DIGITS.class_names, (28, 28, 1)), "images of 8x8x1, found 28x28x1"),
    ],
)
def test_data_of_other_classes_do_not_relabel_a_run(run, description, words):
    before = contents(run.path)
    config = changed(data__data_dir="elsewhere", train__log_every="3 steps")  # which may change
    one_line(lambda: RunFolder.claim(run.path, config, description), words, "use the old data")
    assert contents(run.path) == before


def test_a_run_goes_on_with_its_own_examples_alone(tmp_path):
    """Another folder of data may hold other images of the same classes."""
    ours = dataclasses.replace(DIGITS, trained_on="1a", judged_on="1b")
    run = RunFolder.claim(tmp_path / "run", configuration.default(), ours)
    assert RunFolder.open(run.path).description == ours
    before = contents(run.path)
    config = configuration.default()
    RunFolder.claim(run.path, config, ours)
    for others, words in (
        ({"trained_on": "2a"}, "other training examples of the same classes"),
        # On these it would be decided anew which checkpoint is best.
        ({"judged_on": "2b"}, "other images to evaluate on of the same classes"),
    ):
        given = dataclasses.replace(ours, **others)
        one_line(lambda given=given: RunFolder.claim(run.path, config, given), words)
    assert contents(run.path) == before


@pytest.mark.parametrize("of", ["converted weights", "a former version"])
def test_a_run_that_does_not_know_its_examples_learns_them(run, of):
    """When it is trained."""
    if of == "a former version":
        described = json.loads(run.description_file.read_text())
        assert described.pop("trained_on") == ""
        run.description_file.write_text(json.dumps(described))
    ours = dataclasses.replace(DIGITS, trained_on="1a")
    assert RunFolder.claim(run.path, configuration.default(), ours).description == ours
    assert RunFolder.open(run.path).description == ours
    one_line(
        lambda: RunFolder.claim(
            run.path, configuration.default(), dataclasses.replace(ours, trained_on="2b")
        ),
        "other training examples of the same classes",
    )


@pytest.mark.parametrize(
    "name", ["checkpoints", "metrics.jsonl", "evaluation.json", "dataset.json"]
)
def test_files_without_a_config_are_not_taken_for_a_new_run(tmp_path, name):
    """They are those of a run with settings that nobody knows, or not of a run at all."""
    if name == "checkpoints":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text('{"class_names": ["zero", "one"], "image_shape": [8, 8, 1]}')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    one_line(
        lambda: RunFolder.claim(tmp_path, configuration.default(), DIGITS),
        f"found {name} and no config.json",
        "use another folder",
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_start_that_was_killed_before_its_config_was_written_goes_on(run):
    run.config_file.unlink()
    RunFolder.claim(run.path, configuration.default(), DIGITS)
    assert RunFolder.open(run.path).description == DIGITS


def test_two_starts_do_not_train_one_run_at_once(run):
    with run.alone():
        one_line(
            RunFolder.open(run.path).alone().__enter__,
            f"expected nobody else to train the run in {run.path}",
            "wait for its end",
        )
    with run.alone():
        pass


def test_a_lock_that_cannot_be_opened_leaves_no_other_process_waiting(run, told, monkeypatch):
    """Such as one that another user's start has left in a folder that both may write to."""
    run.lock.unlink()
    run.lock.mkdir()
    with pytest.raises(IsADirectoryError), run.alone():
        pass
    assert told == [True]
    # On another process, which is told so.
    monkeypatch.setattr(processes, "is_main", lambda: False)
    monkeypatch.setattr(processes, "any_process", lambda flag: True)
    one_line(run.alone().__enter__, "expected process 0 to do its part, found that it failed")


def test_a_start_that_is_refused_does_not_change_the_run_that_is_trained(run):
    with run.alone():
        before = contents(run.path)
        one_line(
            lambda: RunFolder.claim(run.path, changed(train__log_every="3 steps"), DIGITS),
            f"expected nobody else to train the run in {run.path}",
        )
        assert contents(run.path) == before


@pytest.mark.parametrize("trains", [True, False])
def test_of_two_first_starts_at_once_the_second_leaves_the_settings_of_the_first(
    tmp_path, monkeypatch, trains
):
    """Which its checkpoints are of."""
    check, path = RunFolder._check_unused, tmp_path / "run"
    with contextlib.ExitStack() as training:

        def look_and_be_late(self):
            check(self)
            monkeypatch.undo()
            first = RunFolder.claim(path, changed(seed=1), DIGITS)
            if trains:
                training.enter_context(first.alone())

        monkeypatch.setattr(RunFolder, "_check_unused", look_and_be_late)
        words = "nobody else to train the run" if trains else "seed is 2, was 1"
        one_line(lambda: RunFolder.claim(path, changed(seed=2), DIGITS), words)
    assert RunFolder.open(path).config.seed == 1


def test_a_start_does_not_train_by_settings_that_another_has_changed_since(run):
    other = RunFolder.claim(run.path, changed(train__log_every="3 steps"), DIGITS)
    one_line(run.alone().__enter__, "found another start at work")
    with other.alone():
        pass


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    """A shell does not expand it behind `--workdir=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    run = RunFolder.claim("~/runs/a", configuration.default(), DIGITS)
    assert run.path == tmp_path / "runs" / "a"
    assert RunFolder.open("~/runs/a").path == run.path


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "[]",
        '{"class_names": ["a"], "image_shape": [8, 8]}',
        '{"class_names": 3}',
        '{"class_names": "ab", "image_shape": [8, 8, 1]}',
        '{"class_names": [], "image_shape": [8, 8, 1]}',
        '{"class_names": ["a"], "image_shape": [8, Infinity, 1]}',
        '{"class_names": ["a"], "image_shape": [8, 8, 0]}',
    ],
)
def test_a_damaged_or_missing_description_is_named(run, text):
    run.description_file.unlink() if text is None else run.description_file.write_text(text)
    one_line(lambda: RunFolder.open(run.path), str(run.description_file), "restore it")


@pytest.mark.parametrize("path", ["s3://bucket/run", "GS://bucket/run"])
def test_a_store_of_objects_is_no_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: RunFolder.open(path),
        lambda: RunFolder.claim(path, configuration.default(), DIGITS),
    ):
        one_line(call, f"expected a folder or gs://bucket/folder, found {path}", "mount the store")
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_refuses_is_not_written(tmp_path, monkeypatch):
    """Its data may be others than those of this one."""
    monkeypatch.setattr(processes, "any_process", lambda value: True)
    one_line(
        lambda: RunFolder.claim(tmp_path / "run", configuration.default(), DIGITS),
        "another one refuses it",
    )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_can_only_be_read_is_opened_and_not_claimed(run, monkeypatch):
    writable = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **how: mode != os.W_OK and writable(path, mode, **how)
    )
    assert RunFolder.open(run.path).description == DIGITS
    one_line(
        lambda: RunFolder.claim(run.path, configuration.default(), DIGITS),
        "expected a folder that can be written",
        "read-only",
    )


@pytest.mark.parametrize("name", ["run [a]", "run?", "run*/seed0", os.fsdecode(b"run\xff")])
def test_a_folder_that_no_checkpoint_could_be_saved_in_is_refused(tmp_path, monkeypatch, name):
    """Orbax would leave checkpoints that cannot be read, or end amid the training."""
    folder = tmp_path / name
    words = "in UTF-8 and without any of *?[", f"found {folder}; choose another"
    one_line(lambda: RunFolder.claim(folder, configuration.default(), DIGITS), *words)
    assert not any(tmp_path.iterdir())
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    one_line(lambda: RunFolder.claim(".", configuration.default(), DIGITS), *words)
