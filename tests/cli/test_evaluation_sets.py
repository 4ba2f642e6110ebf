"""A training that is evaluated on several sets, by the command line."""

import json
import shutil
import signal
import struct
import time

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from didicm_jax.data import corruptions
from didicm_jax.evaluation import loop as evaluation
from didicm_jax.evaluation.subject import OtherData, open_subject
from didicm_jax.run import RunFolder
from tests.cli.running import DIGITS, SMALL, comparable, records

SETS = "('all', 'held=train[95%:] every 5 steps', 'pale=test with contrast:5 every 12 steps')"
JUDGED = [*SMALL, "--config.evaluation.best=nll"]
WATCHED = [DIGITS, *JUDGED, f"--config.evaluation.sets={SETS}"]
DUE = {"all": [8, 12], "held": [5, 10, 12], "pale": [12]}


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """Starting others would take longer than what they are for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corruptions, "cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def watched(main, tmp_path_factory):
    """A whole run; tests that change it copy it first."""
    workdir = tmp_path_factory.mktemp("sets") / "run"
    assert main(*WATCHED, f"--workdir={workdir}") == 0
    return workdir


def evaluations(workdir):
    """By name of the set and step, the metrics."""
    found = {name: {} for name in DUE}
    for record in records(workdir):
        for key, value in record.items():
            if key.startswith("eval/"):
                _, name, metric = key.split("/")
                found[name].setdefault(record["step"], {})[metric] = value
    return found


def stored(workdir):
    return json.loads((workdir / "evaluation.json").read_text())


@pytest.fixture
def asked(monkeypatch):
    """The numbers of images of the evaluations that are made; a stop may come before one."""
    sizes, real = [], evaluation.evaluate

    def evaluate(program, variables, source, **options):
        if len(sizes) == evaluate.stop_at:
            signal.raise_signal(signal.SIGINT)
            while options["proceed"]():  # a thread listens, and may take a moment
                time.sleep(0.01)
        found = real(program, variables, source, **options)
        if found is not None:
            sizes.append(len(source))
        return found

    evaluate.stop_at, evaluate.sizes = None, sizes
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    return evaluate


def test_each_set_has_its_own_interval_and_all_are_evaluated_at_the_end(watched, run):
    found = evaluations(watched)
    assert {name: list(steps) for name, steps in found.items()} == DUE
    assert {each["num_examples"] for each in found["held"].values()} == {72}
    # What is looked at changes nothing: the training is that of a run without sets.
    plain = comparable(run)
    assert [r for r in comparable(watched) if "loss" in r] == [r for r in plain if "loss" in r]
    expected = {
        r["step"]: {key.removeprefix("eval/"): value for key, value in r.items() if key != "step"}
        for r in plain
        if "eval/top1" in r
    }
    assert found["all"] == expected
    assert stored(watched) == stored(run)


def test_the_figures_are_those_of_an_evaluation_afterwards(watched):
    found, folder = evaluations(watched), RunFolder.open(watched)

    def nll(shown, source=None):
        return shown.evaluate(shown.program(folder.config), source).metrics["nll"]

    own = open_subject(folder, "latest")
    assert nll(own) == found["all"][12]["nll"] == stored(watched)["nll"]
    pale = corruptions.corrupted(own.source, "contrast", 5, workers=1)
    assert nll(own, pale) == found["pale"][12]["nll"]
    part = open_subject(folder, "latest", OtherData(split="train[95%:]"))
    assert nll(part) == found["held"][12]["nll"]


def test_the_first_decides_which_checkpoint_is_best(watched):
    """Of step 10 there is an evaluation of another set, which is worth nothing."""
    found = evaluations(watched)["all"]
    worth = {
        int(path.name): json.loads((path / "metrics" / "metrics").read_text())["worth"]
        for path in (watched / "checkpoints").iterdir()
    }
    assert worth.keys() >= {10, 12, min(found, key=lambda step: (found[step]["nll"], -step))}
    assert worth == {step: -found[step]["nll"] if step in found else None for step in worth}


def test_tensorboard_holds_them_by_name(watched):
    tags = {}
    for path in (watched / "tensorboard").iterdir():
        content, place = path.read_bytes(), 0
        while place < len(content):  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                tags.setdefault(value.tag, {})[event.step] = value.simple_value
    for name, found in evaluations(watched).items():
        expected = {step: np.float32(each["top1"]) for step, each in found.items()}
        assert tags[f"eval/{name}/top1"] == expected
    assert "eval/top1" not in tags


def test_a_kill_or_a_stop_between_two_sets_costs_none_and_repeats_none(
    main, watched, tmp_path, asked, capsys
):
    """A kill at step 10 before its only set, a stop at step 12 behind the first of three."""
    workdir = shutil.copytree(watched, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "12")
    (workdir / "evaluation.json").unlink()
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if "eval/held" not in line or '"step": 10,' not in line]
    assert len(kept) == len(lines) - 1
    (workdir / "metrics.jsonl").write_text("".join(kept))
    asked.stop_at = 2
    assert main(*WATCHED, f"--workdir={workdir}") == 0
    assert asked.sizes == [72, 360]  # held at 10, all at 12
    out = capsys.readouterr().out
    assert "continuing from step 10" in out
    assert "stopped by SIGINT at step 12" in out
    assert not (workdir / "evaluation.json").exists()
    del asked.sizes[:]
    asked.stop_at = None
    assert main(*WATCHED, f"--workdir={workdir}") == 0
    # The first once more: what `evaluation.json` holds of it is not among the records.
    assert asked.sizes == [72, 360, 360]
    assert comparable(workdir) == comparable(watched)
    assert stored(workdir) == stored(watched)


def test_a_finished_run_can_be_shown_another_set_but_not_another_judge(
    main, watched, tmp_path, capsys
):
    workdir = shutil.copytree(watched, tmp_path / "run")
    command = [DIGITS, *JUDGED, f"--workdir={workdir}"]
    assert main(*command, "--config.evaluation.sets=('held=train[95%:]', 'all=test')") == 2
    assert capsys.readouterr().err.endswith(
        "found another config (the split of the first of evaluation.sets is 'train[95%:]', was "
        "''); use another folder, or the old values\n"
    )
    assert comparable(workdir) == comparable(watched)
    assert main(*command, "--config.evaluation.sets=('all', 'few=train[:20]')") == 0
    added = comparable(workdir)[len(comparable(watched)) :]
    assert [(r["step"], r["eval/few/num_examples"]) for r in added] == [(12, 20)]
    assert main("--mode=report", f"--workdir={workdir}", f"--output={tmp_path}") == 0
    page = (tmp_path / "report.html").read_text()
    assert page.index("Evaluations on all<") < page.index("Evaluations on few<")


def test_a_mistake_leaves_nothing_behind(main, tmp_path, capsys):
    workdir = tmp_path / "run"
    sets = "--config.evaluation.sets=('all', 'b with fgo:1')"
    assert main(DIGITS, *JUDGED, f"--workdir={workdir}", sets) == 2
    assert capsys.readouterr().err.startswith("error: config.evaluation.sets, b: expected names of")
    assert not workdir.exists()
