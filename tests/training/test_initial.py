"""What a network takes of a trained one: arrays of random numbers stand for the trained."""

import jax
import numpy as np
import pytest
from flax import nnx

from didicm_jax import parallel
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.models.variables import split
from didicm_jax.parallel import processes
from didicm_jax.run import Description, arrays, bundle
from didicm_jax.training import initial
from tests import shallow
from tests.config.test_table import CLASSIFIER, configured

ANIMALS, MORE = ("ant", "bee", "cat"), ("ant", "bee", "cat", "dog")
RESNET = CLASSIFIER | {"model.name": "resnet4"}
VIT = CLASSIFIER | {"model.name": "vit_ti4", "model.depth": 2}
DIDIVIT = {"model.name": "didivit_ti4", "model.depth": 2}


@pytest.fixture(scope="module", autouse=True)
def shallow_models():
    with shallow.registered():
        yield


def network(changes, classes=ANIMALS, shape=(32, 32, 3)):
    """Config, description and shapes of a new network."""
    small = {"model.name": "didirn4", "model.width": 0.0625 if "vit" not in str(changes) else 1.0}
    config, described = configured(small | changes), Description(classes, shape)
    abstract = jax.eval_shape(lambda: split(build.model(config, described, nnx.Rngs(0)))[1])
    return config, described, abstract


def trained(*of):
    config, described, abstract = network(*of)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: random.normal(size=x.shape).astype(x.dtype), abstract)
    return bundle.Bundle(config, described, variables, 7)


def start(source, *of):
    config, described, abstract = network(*of)
    config.model.init_from = "runs/source"
    found = initial.match(config, described, abstract, source)
    return dict(bundle.flatten(found.variables)), arrays.shapes(abstract), found.words


def check(source, *of):
    """Every array is that of the source or fresh; the names of the fresh ones."""
    found, wanted, _ = start(source, *of)
    given = dict(bundle.flatten(source.variables))
    fresh = {name for name, array in found.items() if array.dtype == object}  # None
    assert found.keys() == wanted.keys()
    for name in found.keys() - fresh:
        np.testing.assert_array_equal(found[name], given[name])
    return fresh


def test_of_the_same_classes_everything_is_taken():
    source = trained({})
    assert check(source, {}) == set()
    assert check(source, {}, ANIMALS, (64, 48, 3)) == set()
    assert check(source, {"model.dtype": "bfloat16", "model.sync_batch_norm": True}) == set()
    assert check(source, {"model.init": "torch"}) == set()
    assert check(trained(DIDIVIT), DIDIVIT, ANIMALS, (64, 48, 3)) == set()  # fixed positions
    fast = DIDIVIT | {"model.dtype": "bfloat16", "model.attention": "cudnn"}
    assert check(trained(DIDIVIT), fast) == set()
    assert start(source, {})[2].endswith(" arrays of runs/source, step 7")


def test_norms_of_other_groups_are_told_with_what_keeps_them():
    """Of the last map's 32 channels 16 values are 4 of 4 pixels, and 1 of 16: groups of 2."""
    source = trained({})
    told = "on images of this size its GroupNorms have other groups"
    keeps = {"model.group_elements": 64}
    assert (
        f"{told}, config.model.group_elements=64 would keep"
        in start(source, {}, ANIMALS, (64, 64, 3))[2]
    )
    assert told not in start(source, keeps, ANIMALS, (64, 64, 3))[2]
    assert told not in start(source, {})[2]
    # Maps of 17, 9, 5 and 3 pixels a side: 17 values, in proportion to the image, are 2 channels.
    assert start(source, {}, ANIMALS, (33, 33, 3))[2].endswith(told)
    assert told not in start(trained(DIDIVIT), DIDIVIT, ANIMALS, (64, 64, 3))[2]
    with pytest.raises(UserError, match="group_elements: expected 16, as runs/source has it"):
        start(source, keeps)


@pytest.mark.parametrize("classes", [MORE, ("bee", "ant", "cat")])
def test_of_other_classes_their_layers_stay_fresh(classes):
    head = {"params.fc.kernel", "params.fc.bias"}
    assert check(trained(RESNET), RESNET, classes) == head
    for score_model in ({}, {"model.conditioned_stages": 0}, DIDIVIT):
        label = {"params.embedding.label.embedding"}
        assert check(trained(score_model), score_model, classes) == head | label
    words = start(trained({}), {}, classes)[2]
    assert words.endswith("; fresh: embedding.label, fc, because the classes differ")


@pytest.mark.parametrize(
    ("plain", "score_model", "added"),
    [
        (RESNET, {}, ("embedding", "fc", "condition", "group_norm")),
        (RESNET, {"model.conditioned_stages": 0}, ("embedding", "fc", "head")),
        (VIT, DIDIVIT | {"model.conditioned_blocks": 0}, ("embedding", "fc", "head")),
    ],
)
def test_a_score_model_takes_the_trunk_of_a_classifier(plain, score_model, added):
    source = trained(plain, MORE)
    fresh = check(source, score_model)
    names = {name for name, _ in bundle.flatten(source.variables)}
    taken = arrays.shapes(network(score_model)[2]).keys() - fresh
    assert taken == names - {"params.fc.kernel", "params.fc.bias"}
    for layer in added:
        assert any(f".{layer}." in name for name in fresh)
    assert "which see label and noise" in start(source, score_model)[2]


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (({},), ({"model.width": 0.125},), "config.model.width: expected 0.0625, as runs/source"),
        # Of the same arrays, but one of them pools.
        (({"model.stem": "small"},), ({},), "config.model.stem: expected 'small', as runs/source"),
        (({},), ({"model.name": "didirn18"},), "config.model.name: expected 'didirn4', as"),
        (({},), ({"model.conditioned_stages": 1},), "model.conditioned_stages: expected 4, as"),
        (({},), ({"model.parameterization": "bounded"},), "parameterization: expected 'ratio', as"),
        (({},), (RESNET,), "config.model.name: expected 'didirn4', as runs/source"),
        (({},), ({}, ANIMALS, (32, 32, 1)), "images of 1 channels, .* found one for 3 in"),
        ((VIT,), (VIT | {"model.depth": 1},), "config.model.depth: expected 2, as"),
        # Its norms have a scale, which here is the label's.
        ((VIT,), (DIDIVIT,), "blocks.0.norm1.* no such array, .*config.model.conditioned_blocks=0"),
        # All that the source has fits, and is not the whole trunk.
        (
            (RESNET | {"model.name": "resnet10"},),
            ({"model.name": "didirn18"},),
            "layer1.1.bn1.* found no such array: .* same tr",
        ),
    ],
)
def test_any_other_difference_is_refused(source, target, words):
    with pytest.raises(UserError, match=words) as error:
        start(trained(*source), *target)
    assert "\n" not in str(error.value)
    assert "; " in str(error.value)


def test_what_is_not_there_is_told_with_what_is(tmp_path, monkeypatch):
    def read(source):
        config, described, abstract = network({})
        config.model.init_from = str(source)
        initial.read(config, described, abstract, parallel.make_mesh())

    monkeypatch.setattr(bundle, "names", lambda: ("letters", "numbers"))
    known = "^config.model.init_from: expected .*letters, numbers.* found 'missing'"
    with pytest.raises(UserError, match=known):
        read("missing")
    with pytest.raises(UserError, match=rf"^config.model.init_from: .* run in {tmp_path}, found"):
        read(tmp_path)
    source = trained({})
    bundle.write(tmp_path / "bundle", source, "a card")
    read(tmp_path / "bundle")
    monkeypatch.setenv("HOME", str(tmp_path))
    read("~/bundle")
    with pytest.raises(UserError, match=rf"^config.model.init_from: .* run in {tmp_path}, found"):
        read("~")
    monkeypatch.setattr(processes, "any_process", lambda flag: True)  # another has none
    with pytest.raises(UserError, match=r"^config.model.init_from: .* another one cannot; see"):
        read(tmp_path / "bundle")
    monkeypatch.undo()
    monkeypatch.setattr(parallel, "gather", lambda x: x if x.dtype == bool else np.array([1, 2]))
    with pytest.raises(UserError, match=r"^config.model.init_from: expected one network on all"):
        read(tmp_path / "bundle")
