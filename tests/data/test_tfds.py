"""What is read of the sets that tensorflow-datasets serves: classes, labels, parts, batches."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from didicm_jax import data
from didicm_jax.data import prepare as preparing
from didicm_jax.data.listing import list_folder
from didicm_jax.data.prepare import prepare
from didicm_jax.errors import UserError
from tests.data.making import encode, make_tree, small
from tests.data.stored import load, rewrite_info


def test_a_prepared_imagenet_has_the_official_classes_and_labels(imagenet):
    dataset = load("imagenet2012", imagenet)
    assert dataset.num_classes == 1000
    assert (dataset.class_names[0], dataset.class_names[-1]) == ("n01440764", "n15075141")
    assert dataset.image_shape == (32, 32, 3)
    assert np.bincount(dataset.train.labels, minlength=1000)[[0, 1, 999]].tolist() == [8] * 3
    official = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text()
    names = [dataset.test.name(row) for row in range(10)]
    assert sorted(names) == [f"ILSVRC2012_val_{n:08}.JPEG" for n in range(1, 11)]
    numbers = [int(name.removesuffix(".JPEG").rsplit("_")[-1]) for name in names]
    expected = [dataset.class_names.index(official.split()[n - 1]) for n in numbers]
    assert dataset.test.labels.tolist() == expected
    batch = data.train_batch(dataset.train, step=0, batch_size=24, seed=0)
    assert batch["image"].std() > 20
    np.testing.assert_array_equal(batch["label"], dataset.train.labels[batch["index"]])


def test_any_reader_of_tfds_reads_what_was_prepared(imagenet):
    builder = tfds.builder("imagenet2012", data_dir=imagenet)
    assert builder.info.splits["train"].num_examples == 24
    example = builder.as_data_source("train")[0]
    assert example["image"].shape == (100, 150, 3)
    wnid = example["file_name"].decode().split("_")[0]
    assert wnid == builder.info.features["label"].names[example["label"]]


def test_names_versions_and_splits_as_tfds_writes_them(tree):
    for name in ("birds", "birds:1.0.0", "birds:1.*.*"):
        assert len(load(name, tree).train) == 29
    dataset = load("birds", tree, train_split="train[:50%]", eval_split="train[50%:]")
    assert (len(dataset.train), len(dataset.test)) == (14, 15)
    whole = load("birds", tree)
    np.testing.assert_array_equal(
        np.concatenate([dataset.train.labels, dataset.test.labels]), whole.train.labels
    )
    assert dataset.class_names == ("boat", "crane")


@pytest.mark.parametrize("stored", [True, False])
def test_parts_that_are_counted_in_files_have_the_labels_of_their_records(
    photos, tmp_path, monkeypatch, stored
):
    """The labels were those of a set in one file, where `1shard` is all of it."""
    monkeypatch.setattr(preparing, "_SHARD_BYTES", 30_000)
    listing = list_folder(make_tree(tmp_path / "tree", photos), name="birds")
    folder = prepare(listing, tmp_path / "data").folder
    if not stored:
        for file in folder.glob("*.labels.npy"):
            file.unlink()
    builder = tfds.builder("birds", data_dir=tmp_path / "data")
    assert builder.info.splits["train"].num_shards > 3
    for split in ("train[:1shard]", "train[1shard:]+validation", "train[-2shard:]"):
        expected = list(builder.as_data_source(split))
        source = load("birds", tmp_path / "data", train_split=split).train
        assert source.labels.tolist() == [each["label"] for each in expected], split
        names = [source.name(row) for row in range(len(source))]
        assert names == [each["file_name"].decode() for each in expected], split


def test_data_ratio_and_train_examples(tree):
    birds = load("birds", tree)
    assert len(data.trained_on(birds, data_ratio=0.5, seed=3).train) == 14
    assert len(data.trained_on(birds, train_examples=7).train) == 7
    with pytest.raises(UserError, match=r"either config.data.train_examples or .* found both"):
        data.trained_on(birds, train_examples=7, data_ratio=0.5)


def test_nothing_to_train_on_is_opened_where_nothing_is_trained(tree, copied):
    """Sets such as ImageNetV2 have one split of images to evaluate on, and no other."""
    rewrite_info(copied, lambda info: info["splits"].pop(0))
    for file in copied.rglob("birds-train.*"):
        file.unlink()
    whole = load("birds", tree)
    for split in ("", "validation", "validation[:4]"):
        found = load("birds", copied, train_split=None, eval_split=split)
        assert found.train is found.test
        rows = np.arange(4 if "4" in split else 10)
        assert found.test.digest(rows) == whole.test.digest(rows)
        assert found.class_names == whole.class_names
    with pytest.raises(UserError, match=r"found validation .*correct config.data.train_split$"):
        load("birds", copied)
    with pytest.raises(UserError, match=r"found validation .*correct config.data.eval_split$"):
        load("birds", copied, train_split=None, eval_split="test")


@pytest.fixture
def mocked(photos):
    """tfds's mock of its own imagenet2012, with real JPEGs in place of random pixels."""

    def as_data_source(self, split, decoders=None, deserialize_method=None):
        assert deserialize_method == tfds.decode.DeserializeMethod.RAW_BYTES
        serialize = self.info.features.serialize_example
        return [
            serialize(
                {
                    "image": io.BytesIO(encode(small(photos[n % 2][n:]))),
                    "label": 37 * n,
                    "file_name": f"{split}_{n}.JPEG",
                }
            )
            for n in range(20)
        ]

    with tfds.testing.mock_data(as_data_source_fn=as_data_source):
        yield


@pytest.mark.usefixtures("mocked")
def test_the_real_imagenet2012_of_tfds(tmp_path):
    dataset = load("imagenet2012", tmp_path, resolution=56)
    assert dataset.num_classes == 1000
    assert dataset.train.labels.tolist() == [37 * n for n in range(20)]
    batches = list(data.eval_batches(dataset.test, batch_size=8))
    assert [int(b["valid"].sum()) for b in batches] == [8, 8, 4]
    assert batches[0]["image"].shape == (8, 56, 56, 3)
    assert not (tmp_path / "cache").exists()  # A mock has no files to tell it apart by.


PROCESS = """
import sys
import numpy as np
from didicm_jax import data
folder, process, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dataset = data.load("birds", data_dir=folder, resolution=24)
options = dict(process_index=process, process_count=2)
train = data.train_batches(dataset.train, batch_size=6, seed=1, start_step=start, **options)
rows = [next(train) for _ in range(10 - start)]
train.close()
for batch in data.eval_batches(dataset.test, batch_size=4, **options):
    batch["index"][~batch.pop("valid")] = -1
    rows.append(batch)
np.savez(sys.argv[4], **{k: np.concatenate([r[k] for r in rows]) for k in rows[0]})
"""


def test_two_processes_read_without_overlap_or_loss_and_from_any_step(tree, tmp_path):
    """Each in its own interpreter, the second one started at step 4."""
    jobs = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                PROCESS,
                tree,
                str(p),
                start,
                tmp_path / f"{p}.npz",
            ]
        )
        for p, start in ((0, "0"), (1, "4"))
    ]
    assert [job.wait(timeout=120) for job in jobs] == [0, 0]
    shares = [dict(np.load(tmp_path / f"{p}.npz")) for p in (0, 1)]
    dataset = load("birds", tree, resolution=24)
    for step in range(4, 10):
        whole = data.train_batch(dataset.train, step=step, batch_size=6, seed=1)
        for key, value in whole.items():
            parts = [shares[0][key][3 * step :][:3], shares[1][key][3 * (step - 4) :][:3]]
            np.testing.assert_array_equal(np.concatenate(parts), value)
    evaluated = np.concatenate([shares[0]["index"][30:], shares[1]["index"][18:]])
    assert sorted(evaluated[evaluated >= 0]) == list(range(len(dataset.test)))


def test_a_run_that_ends_early_ends_quietly(tree):
    program = (
        "from didicm_jax import data\n"
        f"dataset = data.load('birds', data_dir={str(tree)!r}, resolution=24)\n"
        "batches = data.train_batches(dataset.train, batch_size=8, seed=0)\n"
        "next(batches); print('done')"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_a_folder_prepared_with_a_test_split_alone(photos, tmp_path):
    folder = make_tree(tmp_path / "tree", photos)
    (folder / "val").rename(folder / "test")
    prepare(list_folder(folder, name="other"), tmp_path / "data")
    assert len(load("other", tmp_path / "data").test) == 10
