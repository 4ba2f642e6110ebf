"""Photos, and prepared sets made of them."""

import shutil

import pytest
from sklearn import datasets

from didicm_jax.data.listing import list_folder, list_imagenet
from didicm_jax.data.prepare import prepare
from tests.data.making import make_imagenet, make_tree


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def photos():
    """Two photos u8[427,640,3]."""
    return datasets.load_sample_images().images


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory, photos):
    """A data_dir that holds a small ImageNet, prepared."""
    folder = tmp_path_factory.mktemp("imagenet")
    prepare(list_imagenet(make_imagenet(folder / "tars", photos)), folder / "data")
    return folder / "data"


@pytest.fixture(scope="session")
def tree(tmp_path_factory, photos):
    """A data_dir that holds the prepared set `birds` of 29 training and 10 validation images."""
    folder = tmp_path_factory.mktemp("tree")
    prepare(list_folder(make_tree(folder / "tree", photos), name="birds"), folder / "data")
    return folder / "data"


@pytest.fixture
def copied(tree, tmp_path):
    """The data_dir `tree`, to change it."""
    return shutil.copytree(tree, tmp_path / "data")
