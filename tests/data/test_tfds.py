"""Sets that tensorflow-datasets serves: prepared, mocked, unprepared, in the wrong format."""

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from didicm_jax import data
from didicm_jax.data import prepare as preparing
from didicm_jax.data import tfds as tfds_module
from didicm_jax.data.listing import list_folder
from didicm_jax.data.prepare import prepare
from didicm_jax.errors import UserError
from tests.data.making import encode, make_tree, small

ONE_LINE = r"^expected [^\n]*$"


def load(name, folder, **options):
    return data.load(name, data_dir=str(folder), **{"resolution": 32, **options})


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


def test_labels_that_are_not_as_many_as_the_records_are_named(tree, monkeypatch):
    real = tfds_module._records

    def records(builder, split, key):
        parts, whole = real(builder, split, key)
        return parts, [whole[n] for n in range(len(whole) - 1)]

    monkeypatch.setattr(tfds_module, "_records", records)
    message = r"^expected one label for each of the 28 records of birds train, found 29: [^\n]*$"
    with pytest.raises(UserError, match=message):
        load("birds", tree)


def test_data_ratio_and_train_examples(tree):
    birds = load("birds", tree)
    assert len(data.trained_on(birds, data_ratio=0.5, seed=3).train) == 14
    assert len(data.trained_on(birds, train_examples=7).train) == 7
    with pytest.raises(UserError, match=r"either config.data.train_examples or .* found both"):
        data.trained_on(birds, train_examples=7, data_ratio=0.5)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dataset_info.json", b"[1, 2]"),
        ("dataset_info.json", b"{\xff}"),
        ("features.json", b"{"),
    ],
)
def test_a_damaged_description_is_named(tree, tmp_path, file, content):
    shutil.copytree(tree, tmp_path / "data")
    (tmp_path / "data" / "birds" / "1.0.0" / file).write_bytes(content)
    with pytest.raises(UserError, match=r"^expected a whole description of birds in [^\n]*$"):
        load("birds", tmp_path / "data")


@pytest.mark.parametrize("content", [b"boat\ncran\xe9\n", b"\n", None])
def test_names_of_classes_that_cannot_be_read_are_not_passed_over(tree, tmp_path, content):
    """The classes would be called 0 and 1, and so would those of a network trained on them."""
    shutil.copytree(tree, tmp_path / "data")
    path = tmp_path / "data" / "birds" / "1.0.0" / "label.labels.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"^expected the names of the classes in [^\n]*$"):
        load("birds", tmp_path / "data")


def test_photos_of_too_many_pixels_are_broken(tree):
    dataset = load("birds", tree, max_pixels=150 * 100 - 1)
    with pytest.raises(UserError, match=r"to be broken, found .*config\.data\.max_broken_share"):
        dataset.train.batch(np.arange(8))
    assert load("birds", tree, max_pixels=150 * 100).train.batch(np.arange(29))


def test_what_is_not_there_is_named_with_the_way_to_get_it(tree, tmp_path):
    for name, folder, message in (
        ("nonesuch", tree, "found 'nonesuch', which neither knows.*launch/prepare.py"),
        ("birds:9.0.0", tree, "'birds:9.0.0'"),
        ("cifar10/nonesuch", tree, "cifar10/nonesuch"),
        (
            "imagenet2012",
            tmp_path,
            "imagenet2012 as array_record in .*found nothing: prepare it with python"
            " launch/prepare.py --dataset=imagenet2012",
        ),
        ("mnist", tmp_path, "found nothing: prepare it with tfds build mnist"),
    ):
        with pytest.raises(UserError, match=ONE_LINE) as caught:
            load(name, folder)
        assert re.search(message, str(caught.value)), caught.value


def test_splits_that_are_not_there_are_named(tree):
    with pytest.raises(
        UserError, match=r"split 'dev' of birds, found train, validation.*eval_split"
    ):
        load("birds", tree, eval_split="dev")


def rewrite_info(tree, tmp_path, change):
    shutil.copytree(tree, tmp_path / "data")
    path = tmp_path / "data" / "birds" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    return tmp_path / "data"


def test_tfrecord_alone_is_named(tree, tmp_path):
    folder = rewrite_info(tree, tmp_path, lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(UserError, match=r"only as tfrecord, which has no random access: prepare"):
        load("birds", folder)


def test_a_set_without_evaluation_images_is_named(tree, tmp_path):
    folder = rewrite_info(tree, tmp_path, lambda info: info["splits"].pop())
    with pytest.raises(UserError, match=r"validation or test in birds, found train: set config"):
        load("birds", folder)
    with pytest.raises(UserError, match=r"found train: set config.data.eval_split to one of them"):
        load("birds", folder, train_split=None)
    assert len(load("birds", folder, eval_split="train[90%:]").test) == 3


def test_nothing_to_train_on_is_opened_where_nothing_is_trained(tree, tmp_path):
    """Sets such as ImageNetV2 have one split of images to evaluate on, and no other."""
    folder = rewrite_info(tree, tmp_path, lambda info: info["splits"].pop(0))
    for file in folder.rglob("birds-train.*"):
        file.unlink()
    whole = load("birds", tree)
    for split in ("", "validation", "validation[:4]"):
        found = load("birds", folder, train_split=None, eval_split=split)
        assert found.train is found.test
        rows = np.arange(4 if "4" in split else 10)
        assert found.test.digest(rows) == whole.test.digest(rows)
        assert found.class_names == whole.class_names
    with pytest.raises(UserError, match=r"found validation .*correct config.data.train_split$"):
        load("birds", folder)
    with pytest.raises(UserError, match=r"found validation .*correct config.data.eval_split$"):
        load("birds", folder, train_split=None, eval_split="test")


def test_missing_shards_are_named_at_once(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "data")
    for shard in (tmp_path / "data").rglob("birds-train.array_record*"):
        shard.unlink()
    with pytest.raises(UserError, match=r"records of birds train .* cannot be read"):
        load("birds", tmp_path / "data")


def test_a_set_that_is_not_for_classification_is_named(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "data")
    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    features.save_config(tmp_path / "data" / "birds" / "1.0.0")
    folder = rewrite_info(
        tmp_path / "data", tmp_path / "more", lambda info: info.pop("supervisedKeys", None)
    )
    with pytest.raises(UserError, match=r"one image and one class label.*found images \[\]"):
        load("birds", folder)


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


def test_a_record_that_the_disk_damaged_is_a_broken_image_and_not_the_end(tree, tmp_path):
    copied = tmp_path / "data"
    shutil.copytree(tree, copied)
    folder = copied / "birds" / "1.0.0"
    shard = next(folder.glob("birds-train.array_record*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    source = load("birds", copied, max_broken_share=0.5).train
    assert source.batch(np.arange(29))["image"].std() > 20
    (broken,) = source.broken()
    assert 0 < broken < 28
    assert source.name(broken) == str(broken)
    (folder / "birds-train.labels.npy").unlink()
    message = rf"^expected a label in every record of birds train, found record {broken} [^\n]*$"
    with pytest.raises(UserError, match=message):
        load("birds", copied)
