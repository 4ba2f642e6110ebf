"""Mistakes of people, and what goes wrong around a run: one line, and nothing is lost."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from didicm_jax.config import build
from didicm_jax.inference import sampling
from didicm_jax.inference.sampling import Posterior
from didicm_jax.training import loop
from tests.cli.running import DIGITS, ROOT, SMALL, comparable, records

IDX = ["--config.data.name=idx"]
BAD = {
    "unknown key": ([DIGITS, "--config.train.batchsize=3"], "did you mean train.batch_size"),
    "unknown section": ([DIGITS, "--config.foo.bar=3"], "config.foo.bar: expected a key"),
    "no such config": (
        ["--config=configs/nope.py"],
        "like configs/digits.py, found [Errno 2] No such file or directory: 'configs/nope.py'",
    ),
    "no config": ([], "--config: expected a config file, found none"),
    "unknown flag": ([DIGITS, "--stepz=3"], "Unknown command line flag 'stepz'"),
    "flag of another mode": ([DIGITS, "--steps=3"], "--steps: expected with --mode=evaluate"),
    "stray word": ([DIGITS, "train"], "expected flags alone, found 'train'"),
    "wrong type": (
        [DIGITS, "--config.train.batch_size=many"],
        "config.train.batch_size: expected int, like 64, found 'many'",
    ),
    "sampler steps": (
        [DIGITS, "--config.sampler.steps=0"],
        "expected a number at least 1, found 0",
    ),
    "tolerance": (
        [DIGITS, "--config.sampler.tolerance=2"],
        "config.sampler.tolerance: expected a number in [0, 1], found 2.0",
    ),
    "steps": ([DIGITS, "--config.train.duration=0 steps"], "found '0 steps'"),
    "unit": ([DIGITS, "--config.train.duration=3 weeks"], "found '3 weeks'"),
    "few images": (
        [DIGITS, "--config.train.batch_size=2000"],
        "expected at most the 1437 training images, found 2000",
    ),
    "a shift that leaves nothing": (
        [DIGITS, "--config.augment.shift=8"],
        "config.augment.shift: expected less than the 8 pixels",
    ),
    "devices": ([DIGITS, "--config.train.batch_size=30"], "expected a multiple of 4"),
    "micro-batches": (
        [DIGITS, "--config.train.accumulate=3"],
        "4 devices x 3 micro-batches), found 64",
    ),
    "one image each": ([DIGITS, "--config.train.batch_size=4"], "at least 2 images per device"),
    "groups without a layer that has them": (
        [DIGITS, "--config.model.conditioned_stages=0", "--config.model.group_elements=4"],
        "config.model.group_elements: expected its default 16 with model.conditioned_stages=0",
    ),
    "an interval that no set has": (
        [
            DIGITS,
            "--config.evaluation.sets=('a=test every 1 epoch',)",
            "--config.evaluation.every=3 epochs",
        ],
        "config.evaluation.every: expected its default '10 epochs' with evaluation.sets=",
    ),
    "a setting of others": (
        [DIGITS, "--config.method=cross_entropy", "--config.sampler.steps=4"],
        "config.sampler.steps: expected its default 8 with method=cross_entropy",
    ),
    "a setting of other models": (
        [
            DIGITS,
            "--config.method=cross_entropy",
            "--config.model.name=resnet18",
            "--config.model.conditioned_stages=1",
        ],
        "config.model.conditioned_stages: expected its default 4 with model.name=resnet18",
    ),
    "a setting of ViTs": (
        [DIGITS, "--config.model.conditioned_blocks=2"],
        "config.model.conditioned_blocks: expected its default -1 with model.name=didirn18",
    ),
    "processes half given": (
        [DIGITS, "--num_processes=2"],
        "--coordinator_address: expected all of coordinator_address, num_processes, process_id or",
    ),
    "process out of range": (
        [DIGITS, "--coordinator_address=h:1", "--num_processes=2", "--process_id=2"],
        "--process_id: expected 0 to 1, found 2",
    ),
    "address without a port": (
        [DIGITS, "--coordinator_address=h", "--num_processes=2", "--process_id=1"],
        "--coordinator_address: expected host:port of process 0, found 'h'",
    ),
    "a setting of photos": (
        [DIGITS, "--config.data.eval_crop=0.5"],
        "config.data.eval_crop: expected its default 0.875 with data.name=digits",
    ),
    "broken tuple": ([DIGITS, "--config.data.mean=('a',)"], "config.data.mean: expected numbers"),
    "empty data set name": ([DIGITS, "--config.data.name="], "found ''"),
    "an empty list": (
        ["--mode=evaluate", "--corruptions="],
        "--corruptions: expected a value, found none; write --corruptions=VALUE",
    ),
    "a list in two": (
        ["--mode=evaluate", "--steps=1,2", "--steps=4"],
        "--steps: expected all of the list at once, found 2 lists; write them as one, --steps=A,B",
    ),
    "a list of runs in two": (
        ["--mode=report", "--workdir=b"],
        "--workdir: expected all of the list at once",
    ),
    "an empty name": (["--mode=evaluate", "--split="], "--split: expected a value, found none"),
    "no such file of flags": (["--flagfile=configs/nope"], "Unable to open flagfile"),
    "options of a config without": (
        [f"{DIGITS}:small"],
        "--config: expected a file that takes what stands behind its colon, found TypeError",
    ),
    "a file for the compiled programs": (
        [DIGITS, f"--compilation_cache={ROOT / 'README.md'}"],
        "--compilation_cache: expected a folder that can be written, found the file",
    ),
    "settings without a file": (["--config.seed=3"], "add --config=FILE"),
    "broken config": ([f"--config={ROOT / 'README.md'}"], "found SyntaxError"),
    "image size": ([DIGITS, "--config.model.stem=imagenet"], "found 8x8"),
    "model": ([DIGITS, "--config.model.name=didirn19"], "found 'didirn19'"),
    "method": ([DIGITS, "--config.method=cross_entropy"], "expected one of resnet18"),
    "data set": ([DIGITS, "--config.data.name=svhn"], "found 'svhn'"),
    "channels": ([DIGITS, "--config.data.mean=(0.1, 0.2, 0.3)"], "expected one number above 0"),
    "no files": ([DIGITS, *IDX, "--config.data.data_dir=/nowhere"], "train-images-idx3-ubyte"),
    "warm-up": ([DIGITS, "--config.optimizer.warmup=1000 epochs"], "config.optimizer.warmup"),
    "sigma": (
        [DIGITS, "--config.diffusion.schedule=geometric", "--config.diffusion.sigma_min=2.0"],
        "sigma_min < sigma_max",
    ),
    "no checkpoint": ([DIGITS, "--mode=evaluate"], "expected a run in"),
    "no range of steps": (
        [DIGITS, "--profile=10"],
        "--profile: expected START:STOP with START < STOP, found '10'",
    ),
    "no steps": ([DIGITS, "--profile=3:3"], "with START < STOP, found '3:3'"),
    "steps that the run does not have": (
        [DIGITS, *SMALL, "--profile=8:14"],
        "--profile: expected steps from 1 up to 13 without it, for the run has 12, found 8:14",
    ),
    "step 0": ([DIGITS, *SMALL, "--profile=0:1"], "--profile: expected steps from 1"),
    "a profile of no training": (
        ["--mode=evaluate", "--profile=3:4"],
        "--profile: expected with --mode=train, found --mode=evaluate",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(main, case, tmp_path, capsys):
    arguments, message = BAD[case]
    workdir = tmp_path / "run"
    assert main(*arguments, f"--workdir={workdir}") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert captured.out == ""
    assert not workdir.exists()


def test_another_config_in_a_used_workdir_names_the_keys(main, run, capsys):
    files = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert main(DIGITS, f"--workdir={run}", *SMALL, "--config.seed=4") == 2
    error = capsys.readouterr().err
    assert "seed is 4, was 0" in error
    assert error.count("\n") == 1
    assert files == {p: p.stat().st_mtime_ns for p in run.rglob("*")}


def snapshot(folder):
    """What changes when a file is made, written or removed."""
    paths = [folder, *folder.rglob("*")]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def test_data_of_other_classes_do_not_relabel_a_run(main, run, monkeypatch, capsys):
    """As `config.data.data_dir`, which may change between two starts, could bring them."""
    before, real = snapshot(run), build.dataset

    def renamed(config):
        loaded = real(config)
        return dataclasses.replace(loaded, class_names=loaded.class_names[::-1])

    monkeypatch.setattr(build, "dataset", renamed)
    assert main(DIGITS, f"--workdir={run}", *SMALL, "--config.data.num_workers=0") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --workdir: expected the data that the run in")
    assert "expected class 0 to be '0', found '9'" in error
    assert error.count("\n") == 1
    assert snapshot(run) == before


def test_a_bad_byte_among_the_records_does_not_end_a_run(main, run, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    lines = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"loss", b"l\xffss")
    (workdir / "metrics.jsonl").write_bytes(b"".join(lines))
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    said = capsys.readouterr().out
    assert "dropped what cannot be read: line 3\n" in said
    assert "finished at step 12" in said
    assert len(records(workdir)) == len(lines) - 1


@pytest.mark.parametrize("text", ["[1, 2]", '{"sampler": {"steps": "eight"}}'])
@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_a_stored_config_that_is_none_is_one_line(main, run, tmp_path, capsys, mode, text):
    workdir = tmp_path / "run"
    workdir.mkdir()
    shutil.copy(run / "dataset.json", workdir)
    (workdir / "config.json").write_text(text)
    before = snapshot(workdir)
    assert main(f"--mode={mode}", f"--workdir={workdir}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {workdir / 'config.json'}: ")
    assert error.count("\n") == 1
    assert snapshot(workdir) == before


def test_a_run_that_can_only_be_read_is_evaluated_and_predicted_with(
    main, run, tmp_path, monkeypatch, capsys
):
    """The permissions are acted, for root has all of them: nothing in the folder is touched."""
    workdir, output, access = run, tmp_path / "output", os.access
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / "digit.png")

    def refused(path, mode, **how):
        inside = Path(path).is_relative_to(workdir)
        return access(path, mode, **how) and not (inside and mode & os.W_OK)

    monkeypatch.setattr(os, "access", refused)
    before = snapshot(workdir)
    images = f"--images={tmp_path / 'images'}"
    other = [f"--workdir={shutil.copytree(workdir, tmp_path / 'other')}", f"--baseline={workdir}"]
    assert main("--mode=compare", *other, f"--output={output}", images) == 0
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # else the run's own is not used anyway
    cache = jax.config.jax_compilation_cache_dir
    there = [f"--workdir={workdir}", f"--output={output}"]
    assert main("--mode=evaluate", *there) == 0
    assert json.loads((output / "evaluation.json").read_text())["num_examples"] == 360
    assert main("--mode=predict", *there, images) == 0
    capsys.readouterr()
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 2, "but it is not trained"
    assert "expected a folder that can be written, found" in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir == str(output / "compilation_cache")
    jax.config.update("jax_compilation_cache_dir", cache)
    assert snapshot(workdir) == before


def test_a_failing_evaluation_loses_no_training(main, run, tmp_path, monkeypatch):
    """What it is of is saved; the next start catches up on it."""
    workdir, real = tmp_path / "run", loop.evaluation.evaluate

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(loop.evaluation, "evaluate", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            main(DIGITS, f"--workdir={workdir}", *SMALL)
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == 8
    assert loop.evaluation.evaluate is real
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    assert comparable(workdir) == comparable(run)


def test_a_mistake_in_the_evaluation_is_found_before_the_first_step(main, tmp_path, monkeypatch):
    def broken(model, images, keys):
        return Posterior(jnp.zeros((len(images), 10)) + jnp.zeros(3))

    monkeypatch.setattr(sampling, "create", lambda *_, **__: broken)
    with pytest.raises((TypeError, ValueError), match=r"incompatible|broadcast|rank"):
        main(DIGITS, f"--workdir={tmp_path / 'run'}", *SMALL)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_sampler_may_be_corrected_between_two_starts(main, run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    steps = ["--config.sampler.steps=3", "--config.evaluation.batch_size=64"]
    assert main(DIGITS, f"--workdir={workdir}", *SMALL, *steps) == 0
    assert json.loads((workdir / "evaluation.json").read_text())["steps"] == 3
    assert json.loads((workdir / "config.json").read_text())["sampler"]["steps"] == 3


@pytest.mark.parametrize("batch", ["30", "4", "34 with mixup"])
def test_the_batch_size_that_is_advised_is_accepted(main, tmp_path, capsys, monkeypatch, batch):
    size, _, mixed = batch.partition(" with ")
    settings = [*SMALL, *([f"--config.augment.{mixed}=0.2"] if mixed else [])]
    monkeypatch.setattr(loop, "train", lambda run, folder, **_: loop.Outcome(None, 0, "nobody"))
    given = [DIGITS, f"--workdir={tmp_path / 'run'}", *settings]
    assert main(*given, f"--config.train.batch_size={size}") == 2
    said = capsys.readouterr().err
    advised = re.search(r"in a new run, config.train.batch_size=(\d+)", said)[1]
    assert main(*given, f"--config.train.batch_size={advised}") == 0
    if size == "30":
        assert "such as 1 or 2 or 3 devices, or, in a new run" in said


def test_an_unwritable_workdir_is_one_line(main, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(DIGITS, f"--workdir={tmp_path / 'file' / 'run'}", *SMALL) == 2
    error = capsys.readouterr().err
    assert "expected a folder that can be written" in error
    assert error.count("\n") == 1


def test_no_workdir_is_one_line(main, capsys):
    assert main(DIGITS) == 2
    assert "--workdir: expected a folder" in capsys.readouterr().err


def test_help_needs_nothing(main, capsys):
    assert main("--help") == 0
    assert "--workdir" in capsys.readouterr().out
