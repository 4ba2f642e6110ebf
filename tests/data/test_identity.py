"""What tells the examples of stored sets apart, and what does not."""

import json
import shutil

import numpy as np
import pytest

from didicm_jax import data
from didicm_jax.data.listing import list_folder
from didicm_jax.data.prepare import prepare
from tests.data.making import make_tree
from tests.data.stored import birds, load


@pytest.fixture(params=["kept", "from the shards"])
def stored(request, copied):
    """The set `birds`, with the digest that `prepare` keeps, and without."""
    if request.param != "kept":
        path = birds(copied) / "metadata.json"
        made = json.loads(path.read_text())
        assert made.pop("digest")
        path.write_text(json.dumps(made))
    return copied


def test_a_digest_depends_on_the_examples_and_not_on_how_they_are_shown(stored, tmp_path):
    one = load("birds", stored)
    other = load("birds", stored, resolution=8, eval_crop=0.5, crop_scale=(0.5, 1.0))
    shutil.copytree(stored, tmp_path / "elsewhere")
    moved = load("birds", tmp_path / "elsewhere")
    for split in ("train", "test"):
        digest = getattr(one, split).digest()
        assert digest == getattr(other, split).digest() == getattr(moved, split).digest()
    assert one.train.digest() != one.test.digest()


def test_a_digest_is_the_same_whichever_part_names_the_examples(stored):
    whole = load("birds", stored)
    parts = load("birds", stored, train_split="train[:10]", eval_split="train[10:]")
    assert parts.train.digest() == whole.train.digest(np.arange(10))
    assert parts.test.digest() == whole.train.digest(np.arange(10, 29))
    joined = load("birds", stored, train_split="train[10:]+train[:10]").train
    order = np.r_[10:29, 0:10]
    assert joined.digest() == whole.train.digest(order) != whole.train.digest()
    both = load("birds", stored, train_split="train+validation").train
    assert both.digest(np.arange(29)) == whole.train.digest()
    assert both.digest(np.arange(29, 39)) == whole.test.digest()
    chosen = data.fixed_subset(whole.train, 7)
    assert chosen.digest() == data.fixed_subset(load("birds", stored).train, 7).digest()
    assert chosen.digest() != whole.train.digest(np.arange(7))


def test_a_digest_reads_no_record(stored, monkeypatch):
    source = load("birds", stored).train
    monkeypatch.setattr(source, "_records", None)
    assert len(source.digest()) == 64


def test_another_set_of_the_same_name_counts_and_labels_has_another_digest(tree, photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos[::-1])
    prepare(list_folder(folder, name="birds"), tmp_path / "data")
    ours, theirs = load("birds", tree), load("birds", tmp_path / "data")
    np.testing.assert_array_equal(ours.test.labels, theirs.test.labels)
    assert ours.test.digest() != theirs.test.digest()


def test_the_number_of_shards_does_not_change_a_digest(tree, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("didicm_jax.data.prepare._SHARD_BYTES", 30_000)
    prepare(list_folder(make_tree(tmp_path / "tree", photos), name="birds"), tmp_path / "data")
    assert load("birds", tmp_path / "data").train.digest() == load("birds", tree).train.digest()
