"""A run in a bucket, on an emulator of the store, beside the same run on a disk."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from didicm_jax import bucket, files
from didicm_jax.bucket import claims
from tests.cli.running import DIGITS, ROOT, SMALL, comparable


@pytest.fixture(scope="module")
def copied(run, emulator):
    """The run of the disk, copied to the bucket as it is; the tests do not change it."""
    bucket.upload(run, files.place("gs://bucket/copied"))
    return "gs://bucket/copied"


def test_a_run_goes_on_as_it_would_on_a_disk(main, run, folder_of_bucket, tmp_path, capsys):
    """Also one that was begun on a disk: here a copy without its last checkpoint."""
    begun = shutil.copytree(run, tmp_path / "begun")
    shutil.rmtree(begun / "checkpoints" / "12")
    (begun / "evaluation.json").unlink()
    place = files.place(folder_of_bucket)
    bucket.upload(begun, place)
    assert main(DIGITS, f"--workdir={place}", *SMALL) == 0
    said = capsys.readouterr().out
    assert "continuing from step 10" in said
    assert f"wrote {place}/evaluation.json" in said
    check_same(place, run)


def check_same(place, run):
    assert comparable(place) == comparable(run)
    for name in ("evaluation.json", "dataset.json", "config.json"):
        assert (place / name).read_bytes() == (run / name).read_bytes()
    for name in ("checkpoints", "tensorboard"):
        assert files.tree(place / name)
    kept = {each.name for each in (place / "checkpoints").iterdir()}
    assert kept == {each.name for each in (run / "checkpoints").iterdir()}
    assert not (place / ".lock").exists()
    assert not Path("gs:").exists()  # what `Path` would make of it


def test_it_is_evaluated_and_reported(main, copied, run, folder_of_bucket):
    output = files.place(folder_of_bucket)
    words = ["--mode=evaluate", f"--workdir={copied}", f"--output={output}"]
    assert main(*words) == 0
    evaluated = json.loads((output / "evaluation.json").read_text())
    assert evaluated.pop("best_temperature")["temperature"] > 0
    assert evaluated == json.loads((run / "evaluation.json").read_text())
    found = {str(path.relative_to(output)) for path in files.tree(output)}
    assert {"evaluation.html", "predictions.npz", "classes.csv", "reliability.png"} <= found
    assert main("--mode=report", f"--workdir={copied},{run}", f"--output={output}") == 0
    assert "copied" in (output / "report.html").read_text()


@pytest.mark.slow
def test_it_predicts_and_is_compared(main, copied, run, folder, tmp_path, capsys):
    given = [f"--workdir={run}", f"--baseline={copied}", f"--output={tmp_path}"]
    assert main("--mode=compare", *given) == 0
    record = json.loads((tmp_path / "comparison.json").read_text())
    assert record["run"]["top1"] == record["baseline"]["top1"]
    capsys.readouterr()
    words = [f"--images={folder}", "--max_figures=1"]
    assert main("--mode=predict", f"--workdir={copied}", *words) == 0
    place = files.place(copied) / "predictions"
    assert f"in {place}" in capsys.readouterr().out
    assert len(json.loads((place / "predictions.json").read_text())) == 3


def test_a_start_beside_another_is_refused_and_writes_nothing(main, copied, capsys, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.1)
    place = files.place(copied)
    with files.lock(place / ".lock"):
        before = (place / "metrics.jsonl").read_bytes()
        assert main(DIGITS, f"--workdir={copied}", *SMALL) == 2
        assert "expected nobody else to train" in capsys.readouterr().err
        assert (place / "metrics.jsonl").read_bytes() == before


def test_what_cannot_be_opened_is_one_line(main, emulator, capsys):
    for workdir, words in (
        ("gs://no-bucket/run", "--workdir: expected a bucket that can be read"),
        ("gs://bucket/empty", "--workdir: expected a run in gs://bucket/empty"),
        ("az://bucket/run", "--workdir: expected a folder or gs://bucket/folder"),
    ):
        assert main("--mode=evaluate", f"--workdir={workdir}") == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {words}")


@pytest.mark.slow
def test_killed_twice_a_run_is_what_it_would_have_been(folder_of_bucket, run):
    """SIGKILL while a checkpoint is on its way, and later; its claim is void at once."""
    command = [sys.executable, "-m", "tests.shallow", DIGITS, f"--workdir={folder_of_bucket}"]
    for kill_at in (6, 11, None):
        with subprocess.Popen(
            [*command, *SMALL],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            said = []
            for line in process.stdout:
                said.append(line)
                if kill_at and line.startswith(f"step {kill_at}/12: loss"):
                    process.kill()
                    break
        assert process.returncode == (-9 if kill_at else 0), "".join(said)
        assert files.place(folder_of_bucket).joinpath(".lock").exists() == bool(kill_at)
    check_same(files.place(folder_of_bucket), run)
