"""What a network is evaluated on, and whether the figures of two may be held against each other."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import datasets

from didicm_jax import config as configuration
from didicm_jax import data, parallel
from didicm_jax.config import build
from didicm_jax.data.listing import list_folder
from didicm_jax.data.prepare import prepare
from didicm_jax.errors import UserError
from didicm_jax.evaluation import corruptions
from didicm_jax.evaluation.subject import (
    OtherData,
    Subject,
    check_comparable,
    open_subject,
    other_dataset,
)
from didicm_jax.parallel import processes
from didicm_jax.run import Description
from tests.config.test_table import PHOTOS, configured
from tests.data.making import make_tree


class Identified(data.ArraySource):
    """A source that says what its examples are."""

    def digest(self, indices=None):
        rows = np.arange(len(self)) if indices is None else indices
        return hashlib.sha256(self.batch(rows)["image"].tobytes()).hexdigest()


def test_what_one_process_cannot_open_is_refused_on_all(monkeypatch):
    """Else the others would wait for it when they read the network."""
    monkeypatch.setattr(processes, "any_process", lambda value: True)
    with pytest.raises(UserError, match="another one refuses it"):
        open_subject(of_digits(), "latest")


def test_processes_with_other_images_do_not_evaluate_one_network(monkeypatch):
    alone = processes.gather

    def both(values):
        other = values + 1 if values.dtype == np.uint64 else values
        return np.concatenate([alone(values), other])

    monkeypatch.setattr(processes, "gather", both)
    with pytest.raises(UserError, match="they differ in the images to evaluate on; start"):
        open_subject(of_digits(), "latest")


def of_digits():
    """A run without a network, which must not be asked."""
    config = configuration.default()
    return SimpleNamespace(config=config, description=Description.of(build.dataset(config)))


def subject(images, names=("cat", "dog"), name="pets"):
    """Whose network must not be asked."""
    source = Identified(images, np.arange(len(images)) % len(names))
    described = Description(names, images.shape[1:])
    network = SimpleNamespace(config=configuration.default(), description=described)
    return Subject(network, parallel.make_mesh(), source, name)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)


def test_the_same_images_can_be_compared(images):
    check_comparable(subject(images), subject(images.copy()))


def test_other_images_with_the_same_labels_are_refused(images):
    """They were paired, and McNemar's test said which of two runs is better at what."""
    for others in (255 - images, images[[2, 1, 0, 3, 4, 5]], images[:4]):
        with pytest.raises(
            UserError, match=r"^baseline: expected a run that is judged on the same images"
        ) as said:
            check_comparable(subject(images), subject(others))
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("names", [("cat", "cow"), ("a", "b", "c", "d", "e")])
def test_an_mce_against_a_run_of_other_classes_is_refused(images, names):
    ours, theirs = subject(images), subject(images, names)
    with pytest.raises(UserError, match=r"^baseline: expected a run with the same 2 classes"):
        corruptions.evaluate(ours, ours.network.config, theirs, ["contrast"], [1])


def test_an_mce_against_a_run_on_other_images_is_refused(images):
    ours, theirs = subject(images), subject(255 - images)
    with pytest.raises(
        UserError, match=r"^baseline: expected a run that is judged on the same images"
    ):
        corruptions.evaluate(ours, ours.network.config, theirs, ["contrast"], [1])


def test_the_mean_corruption_error_by_hand():
    errors = {"fog": 0.2, "snow": 0.6}
    found = corruptions.mean_corruption_error(errors, {"fog": 0.4, "snow": 0.6, "frost": 0.0})
    assert found == pytest.approx((0.5 + 1) / 2)
    assert corruptions.mean_corruption_error(errors, {"fog": 0.0, "snow": 0.6}) is None


@pytest.mark.parametrize("split", [None, "validation", "validation[50%:]"])
@pytest.mark.parametrize("own", [True, False])
def test_a_set_of_images_to_evaluate_on_alone_is_evaluated_on(tmp_path, split, own):
    """`train` was opened too, and an evaluation may not name another split for it."""
    photos = datasets.load_sample_images().images
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    folder = prepare(listing, tmp_path / "data").folder
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = [each for each in info["splits"] if each["name"] == "validation"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for file in folder.glob("birds-train.*"):
        file.unlink()
    settings = {"data.name": "birds" if own else "others", "data.resolution": 32}
    config = configured(PHOTOS | settings | {f"data.{key}": (0.5,) * 3 for key in ("mean", "std")})
    described = Description(("boat", "crane"), (32, 32, 3))
    other = OtherData(None if own else "birds", str(tmp_path / "data"), split)
    found = other_dataset(config, described, other).test
    assert len(found) == (5 if split == "validation[50%:]" else 10)
    with pytest.raises(UserError, match=r"'test' of birds, found validation .*eval_split$"):
        other_dataset(config, described, other._replace(split="test"))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_other_channels_are_said_to_be_that(monkeypatch, channels):
    """The error asked for another `config.data.mean`, which would be that of another run."""
    images = np.zeros((10, 8, 8, 4 - channels), np.uint8)
    source, names = data.ArraySource(images, np.arange(10)), tuple("abcdefghij")
    others = data.Dataset(source, source, names, images.shape[1:])
    monkeypatch.setitem(data.LOADERS, "others", lambda data_dir: others)
    config = configured({f"data.{key}": (0.5,) * channels for key in ("mean", "std")})
    described = Description(names, (8, 8, channels))
    message = (
        f"^dataset: expected images of 8x8x{channels}, found 8x8x{4 - channels} in others; use"
    )
    with pytest.raises(UserError, match=message):
        other_dataset(config, described, OtherData("others"))


def test_a_run_of_images_that_are_no_squares_is_evaluated_on_others(monkeypatch):
    """They were to be squares, though the run was trained on them as they are."""
    source = data.ArraySource(np.zeros((4, 6, 8, 1), np.uint8), np.arange(4) % 2)
    others = data.Dataset(source, source, ("cat", "dog"), (6, 8, 1))
    monkeypatch.setitem(data.LOADERS, "others", lambda data_dir: others)
    described = Description(others.class_names, others.image_shape)
    found = other_dataset(configuration.default(), described, OtherData("others"))
    assert found.image_shape == (6, 8, 1)


def test_images_that_are_too_small_are_said_to_be_that():
    """The error asked for a lower `config.data.resolution`, which would be that of another run."""
    described = Description(tuple(map(str, range(10))), (16, 16, 1))
    message = "^expected the side of the run's images to be at most .*found 16 for 8x8; use images"
    with pytest.raises(UserError, match=message):
        other_dataset(configuration.default(), described, OtherData("digits"))
