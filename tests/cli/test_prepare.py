"""`launch/prepare.py` as a user runs it."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from didicm_jax import data
from didicm_jax.errors import UserError
from tests.data.making import encode, make_imagenet, make_tree, small

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos():
    return datasets.load_sample_images().images


def command(*flags):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    return {
        "args": [sys.executable, "launch/prepare.py", *map(str, flags)],
        "cwd": ROOT,
        "env": environment,
        "text": True,
    }


def run(*flags):
    return subprocess.run(**command(*flags), capture_output=True, timeout=120, check=False)


def test_official_tars_become_a_set_that_trains(photos, tmp_path):
    source = make_imagenet(tmp_path / "tars", photos, broken=True)
    flags = (
        "--dataset=imagenet2012",
        f"--source={source}",
        f"--data_dir={tmp_path / 'data'}",
        "--shorter_side=64",
    )
    refused = run(*flags)
    assert (refused.returncode, refused.stdout) == (2, "")
    lines = refused.stderr.splitlines()
    assert lines[-2].startswith("broken: train/n15075141_5.JPEG: ")
    assert lines[-1].startswith("error: expected at most 0 broken files, found 1")
    assert "imagenet2012 train: 24 of 24" in lines
    assert "Traceback" not in refused.stderr

    assert "or allow them with --max_bad=1" in refused.stderr
    accepted = run(*flags, "--max_bad=1")
    folder = tmp_path / "data" / "imagenet2012" / "5.1.0"
    assert accepted.returncode == 0, accepted.stderr
    assert accepted.stdout == f"prepared: 23 train, 10 validation images in {folder}\n"
    assert accepted.stderr.splitlines()[-1].startswith("broken: train/n15075141_5.JPEG: ")
    # Nothing beside the set: no downloads, no temporary files.
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["imagenet2012"]
    assert {p.name for p in folder.parent.iterdir()} == {"5.1.0", ".prepare.lock"}

    dataset = data.load("imagenet2012", data_dir=str(tmp_path / "data"), resolution=32)
    assert np.unique(dataset.train.labels).tolist() == [0, 1, 999]
    batch = data.train_batch(dataset.train, step=0, batch_size=20, seed=0, repeats=3)
    assert batch["image"].shape == (20, 32, 32, 3)


def test_an_interrupted_run_leaves_nothing_and_the_next_one_works(photos, tmp_path):
    source = make_tree(tmp_path / "tree", photos)
    # Enough images, all of them links to one, that the run can be caught at work.
    one = source / "train" / "boat" / "large.jpg"
    one.write_bytes(encode(small(photos[0], 1600, 1200)))
    for n in range(400):
        os.link(one, source / "train" / "boat" / f"link{n}.jpg")
    flags = (
        "--dataset=folder",
        "--name=birds",
        f"--source={source}",
        f"--data_dir={tmp_path / 'data'}",
    )
    for how in (signal.SIGKILL, signal.SIGINT):
        job = subprocess.Popen(**command(*flags), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        assert "birds train: " in job.stderr.readline()
        assert list((tmp_path / "data" / "birds").glob("incomplete*"))
        job.send_signal(how)
        _, errors = job.communicate(timeout=60)
        if how == signal.SIGINT:
            assert job.returncode == 130
            assert errors.splitlines()[-1].startswith("interrupted: nothing was stored")
        assert not (tmp_path / "data" / "birds" / "1.0.0").exists()
        with pytest.raises(UserError, match="which neither knows"):
            data.load("birds", data_dir=str(tmp_path / "data"))
    for n in range(400):
        (source / "train" / "boat" / f"link{n}.jpg").unlink()
    assert run(*flags).returncode == 0
    assert {p.name for p in (tmp_path / "data" / "birds").iterdir()} == {"1.0.0", ".prepare.lock"}
    again = run(*flags)
    assert again.returncode == 0
    assert again.stdout.startswith("already prepared: 30 train, 10 validation images in ")


def test_what_is_too_large_or_unknown_is_told_with_the_flags_of_the_command(
    photos, tmp_path, capsys, monkeypatch
):
    monkeypatch.syspath_prepend(ROOT)
    from didicm_jax.cli import prepare

    source = make_tree(tmp_path / "tree", photos)
    flags = ["--dataset=folder", "--name=birds", f"--source={source}", f"--data_dir={tmp_path}"]
    assert prepare.main(["prepare.py", *flags, "--max_pixels=14999"]) == 2
    errors = capsys.readouterr().err
    assert "broken: train/boat/00.jpg: 150x100 pixels, more than --max_pixels=14999" in errors
    assert "config.data" not in errors
    assert prepare.main(["prepare.py", *flags, "--max_pixels=15000"]) == 0
    capsys.readouterr()
    assert prepare.main(["prepare.py", *flags]) == 0
    output = capsys.readouterr()
    assert output.out.startswith("already prepared: 29 train, 10 validation")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "found no --dataset, --source, --data_dir: add them"),
        (["--dataset=folder", "--source=x", "--data_dir=y"], "found no --name"),
        (["--dataset=cifar", "--source=x", "--data_dir=y"], "imagenet2012|folder"),
        (["--sauce=x"], "Unknown command line flag 'sauce'"),
        (["--max_bad=many"], "--max_bad"),
        (["folder"], "expected flags alone, found 'folder'"),
        (["--dataset=folder", "--name=My", "--source=x", "--data_dir=y"], "found 'My'"),
        # Numbers are looked at before the source is, whose listing can take minutes.
        *(
            (["--dataset=folder", "--name=a", "--source=x", "--data_dir=y", flag], found)
            for flag, found in (("--max_bad=-1", "raise the negative"), ("--max_pixels=-1", "-1"))
        ),
        (
            ["--dataset=imagenet2012", "--source=/nowhere", "--data_dir=/nowhere"],
            "found no ILSVRC2012_img_train.tar",
        ),
    ],
)
def test_mistakes_are_one_line(flags, message, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from didicm_jax.cli import prepare

    assert prepare.main(["prepare.py", *flags]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: expected ")
    assert output.err.count("\n") == 1
    assert message in output.err


@pytest.mark.parametrize("store", ["gs://bucket/sets", "gs:/bucket/sets", "s3:/bucket"])
@pytest.mark.parametrize("flag", ["source", "data_dir"])
def test_a_store_of_objects_is_not_taken_for_a_folder(photos, tmp_path, flag, store, capsys):
    """With one slash it became a folder `gs:` in the current one."""
    from didicm_jax.cli import prepare

    folders = {"source": str(make_tree(tmp_path / "tree", photos)), "data_dir": str(tmp_path / "d")}
    given = [f"--{each}={folder}" for each, folder in (folders | {flag: store}).items()]
    with contextlib.chdir(tmp_path):
        assert prepare.main(["prepare.py", "--dataset=folder", "--name=birds", *given]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: --{flag}: expected a folder on a disk")
    assert f"found {store}" in output.err
    assert output.err.count("\n") == 1


def test_help_names_every_flag(capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from didicm_jax.cli import prepare

    assert prepare.main(["prepare.py", "--help"]) == 0
    text = capsys.readouterr().out
    names = ("dataset", "source", "data_dir", "name")
    for flag in (*names, "shorter_side", "max_bad", "max_pixels", "workers"):
        assert f"--{flag}" in text or f"--[no]{flag}" in text


def test_a_full_disk_is_one_line(photos, tmp_path):
    """The writer of records has errors of its own for it."""
    source = make_tree(tmp_path / "tree", photos)
    flags = ("--dataset=folder", "--name=birds", f"--source={source}", f"--data_dir={tmp_path}")
    called = command(*flags)
    # No file may grow beyond 40 blocks of 512 bytes.
    called["args"] = ["sh", "-c", 'ulimit -f 40; exec "$@"', "sh", *called["args"]]
    ended = subprocess.run(**called, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 2
    errors = ended.stderr.splitlines()
    assert errors[-1].startswith("error: expected to read the source and to write to ")
    assert "File too large" in errors[-1]
    assert not [line for line in errors[:-1] if not line.startswith("birds ")]
    assert [path.name for path in (tmp_path / "birds").iterdir()] == [".prepare.lock"]
