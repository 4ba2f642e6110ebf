"""The ImageNet command on small data in its official form: tars, training, evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets

from didicm_jax.data.listing import list_folder, list_imagenet
from didicm_jax.data.prepare import prepare
from tests.data.making import make_imagenet, make_tree

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'imagenet.py'}"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """The official tars, and a tree of class folders with odd and broken images, prepared."""
    folder = tmp_path_factory.mktemp("photos")
    photos = datasets.load_sample_images().images
    prepare(list_imagenet(make_imagenet(folder / "tars", photos)), folder / "data")
    tree = make_tree(folder / "tree", photos, broken=True)
    result = prepare(list_folder(tree, name="birds"), folder / "data", max_bad=1)
    assert result.broken[0].startswith("train/boat/03.jpg")
    return folder / "data"


@pytest.mark.parametrize("name", ["imagenet2012", pytest.param("birds", marks=pytest.mark.slow)])
def test_files_to_posteriors_with_the_strong_recipe(main, data_dir, tmp_path, name):
    workdir = tmp_path / "run"
    settings = [
        f"--config.data.name={name}",
        f"--config.data.data_dir={data_dir}",
        "--config.model.name=didirn4",
        "--config.model.width=0.0625",
        "--config.train.duration=2 steps",
        "--config.evaluation.batch_size=8",  # 10 images: the last batch is padded
    ]
    assert main(f"{CONFIG}:smoke", f"--workdir={workdir}", *settings) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(np.isfinite(line["loss"]) for line in steps)
    assert all(0 <= line["data_wait"] <= 1 and line["replaced_images"] == 0 for line in steps)
    result = json.loads((workdir / "evaluation.json").read_text())
    assert (result["num_examples"], result["steps"], result["replaced_images"]) == (10, 2, 0)
    config = json.loads((workdir / "config.json").read_text())
    assert config["augment"]["rand_augment"] == "rand-m7-mstd0.5-inc1"
    assert config["data"]["repeats"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"{CONFIG}:recipe=medium"], "expected recipe to be strong or weak, found 'medium'"),
        ([f"{CONFIG}:smoke", "--config.augment.rand_augment=rand-q7"], "config.augment.rand_aug"),
        ([f"{CONFIG}:smoke", "--config.train.batch_size=12"], "even number of images per device"),
        ([f"{CONFIG}:smoke", "--config.data.data_dir=/nowhere"], "imagenet2012"),
        ([f"{CONFIG}:smoke", "--config.data.crop_scale=(0.5, 0.1)"], "config.data.crop_scale"),
    ],
)
def test_mistakes_are_one_line(main, tmp_path, capsys, arguments, message):
    assert main(*arguments, f"--workdir={tmp_path / 'run'}") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert not (tmp_path / "run").exists()
