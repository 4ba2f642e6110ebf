"""The entry points, called in process, and what they are called with."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from didicm_jax import data
from didicm_jax.cli import convert as conversion
from didicm_jax.cli import main as entry_point
from tests import shallow
from tests.cli.converting import TINY, state_dict
from tests.cli.running import DIGITS, SMALL


@pytest.fixture(scope="session", autouse=True)
def shallow_models():
    """`didirn4` and `resnet4`, of one block: a third of the time to compile."""
    with shallow.registered():
        yield


@pytest.fixture(scope="session")
def main():
    """`launch/main.py`'s `main` without the program's name."""
    return lambda *arguments: entry_point.main(["main.py", *map(str, arguments)])


@pytest.fixture(scope="session")
def convert():
    """`launch/convert.py`'s `main` without the program's name."""
    return lambda *arguments: conversion.main(["convert.py", *map(str, arguments)])


@pytest.fixture(scope="session")
def run(main, tmp_path_factory):
    """A whole run; tests that change it copy it first."""
    workdir = tmp_path_factory.mktemp("modes") / "run"
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    return workdir


@pytest.fixture(scope="session")
def classifier(main, tmp_path_factory):
    """A plain classifier on the same digits, trained less."""
    workdir = tmp_path_factory.mktemp("modes") / "classifier"
    small = [word for word in SMALL if "sampler" not in word]
    settings = ["--config.method=cross_entropy", "--config.model.name=resnet4"]
    settings += ["--config.train.duration=4 steps"]
    assert main(DIGITS, f"--workdir={workdir}", *small, *settings) == 0
    return workdir


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """Weights of a DiDiRN-18 as the original leaves them, in safetensors."""
    path = tmp_path_factory.mktemp("torch") / "original.safetensors"
    save_file({f"module.{key}": value for key, value in state_dict("didirn18").items()}, path)
    return path


@pytest.fixture(scope="session")
def tiny(convert, run, tmp_path_factory):
    """The run as a folder for the Hub."""
    path = tmp_path_factory.mktemp("hub") / "tiny"
    given = ["--license=apache-2.0", "--dataset=somebody/digits", *TINY]
    assert convert(f"--workdir={run}", f"--hub={path}", *given) == 0
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Digits as files, one of them in a folder of its own, and two that are no images."""
    path = tmp_path_factory.mktemp("images")
    batch = data.load("digits").test.batch(np.arange(3))
    (path / "more").mkdir()
    for k, image in enumerate(batch["image"]):
        place = path / "more" if k == 2 else path
        Image.fromarray(image[..., 0]).save(place / f"digit{k}.png")
    (path / "broken.png").write_bytes((path / "digit0.png").read_bytes()[:60])
    (path / "notes.txt").write_text("not an image")
    return path
