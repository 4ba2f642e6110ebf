"""The predictor, on runs of small networks with random weights."""

import pickle
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

import didicm_jax
from didicm_jax import config as configuration
from didicm_jax import data
from didicm_jax.data.listing import list_folder
from didicm_jax.data.prepare import prepare
from didicm_jax.errors import UserError
from didicm_jax.inference import export, network, program, sampling
from didicm_jax.inference.buckets import batches
from didicm_jax.parallel import one_device
from didicm_jax.run import Description, RunFolder
from didicm_jax.run.checkpoints import Checkpoints
from didicm_jax.training import plan
from tests import shallow
from tests.data.making import encode, make_tree

SMALL = {
    "train.batch_size": 16,
    "train.ema_decay": 0.9,
    "model.name": "didivit_ti4",
    "model.width": 1 / 3,
    "model.depth": 1,
    "model.conditioned_blocks": 1,
    "sampler.steps": 3,
}


def filled(shapes, seed):
    """Random weights: new networks give uniform posteriors, and averages equal to the weights."""
    rng = np.random.default_rng(seed)

    def one(path, x):
        value = rng.normal(0, 0.2, x.shape).astype(x.dtype)
        # A variance is positive.
        return jax.device_put(np.abs(value) if "stats" in str(path) else value, x.sharding)

    return jax.tree_util.tree_map_with_path(one, shapes)


def make_run(folder, **changes):
    """A workdir as training leaves it, and the plan of its run."""
    config = configuration.default().unlock()
    config.update_from_flattened_dict(SMALL | changes)
    run = plan.make_plan(config)
    RunFolder.claim(folder, config, Description.of(run.dataset))
    saved = Checkpoints(folder)
    for step, top1 in ((1, 0.9), (2, 0.1)):
        state = filled(run.abstract_state(), step)
        saved.save(step, state, evaluated=top1)
    saved.finish()
    saved.close()
    return run, state


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    return folder, *make_run(folder)


@pytest.fixture(scope="module")
def predict(digits):
    return didicm_jax.Predictor.from_workdir(digits[0])


def evaluated(run, state):
    """The posteriors of the evaluation, on four devices."""
    answer, rows = program.create(run.config, run.graphdef, run.dataset.num_classes, run.mesh), []
    for batch in data.eval_batches(run.dataset.test, batch_size=120):
        rows.append(np.asarray(answer(state.averaged, batch).probs))
    return np.concatenate(rows)


def test_posteriors_are_those_of_the_evaluation(digits, predict):
    """All 360 images: five batches of 64, and 40 padded to 64."""
    _, run, state = digits
    images = run.dataset.test.batch(np.arange(360))["image"]
    found = predict(images)
    np.testing.assert_allclose(found.probs, evaluated(run, state), rtol=5e-3, atol=1e-5)
    assert len(np.unique(found.labels)) > 1
    np.testing.assert_array_equal(found.labels, found.probs.argmax(-1))
    assert found.classes == tuple(str(label) for label in found.labels)
    assert found.trajectory.shape == (360, 4, 10)
    np.testing.assert_allclose(found.trajectory[:, 0], 0.1)
    np.testing.assert_array_equal(found.trajectory[:, -1], found.probs)
    np.testing.assert_array_equal(found.steps_used, 3)


@pytest.mark.parametrize("name", ["cl", "one_shot"])
def test_samplers_can_be_changed(digits, name):
    """`cl` draws: an image's draws belong to its place in the call."""
    folder, run, state = digits
    changes = {"name": name, "steps": 2} if name == "cl" else {"name": name}
    found = didicm_jax.Predictor.from_workdir(folder, sampler=changes, buckets=[32])
    images = run.dataset.test.batch(np.arange(33))["image"]
    changed = run.config.copy_and_resolve_references().unlock()
    changed.sampler.update({"steps": 8} | changes)  # `one_shot` reads none: the default
    run = plan.make_plan(changed)
    np.testing.assert_allclose(found(images).probs, evaluated(run, state)[:33], atol=1e-5)
    assert found(images).trajectory is None
    assert found(images).steps_used is None


@pytest.mark.parametrize("sampler", [{"name": "cl", "steps": 2}, {"query": "random"}], ids=str)
def test_parts_of_a_long_row_of_images_draw_other_numbers(digits, sampler):
    """Equal images: with the numbers of the first part drawn again, the second would repeat it."""
    predict = didicm_jax.Predictor.from_workdir(digits[0], sampler=sampler, buckets=[4, 16])
    image = digits[1].dataset.test.batch(np.arange(1))["image"]
    images = np.repeat(image, 32, axis=0)
    first, second = predict.predict(images[:16]), predict.predict(images[16:], first=16)
    assert np.abs(first.probs - second.probs).max() > 0.01
    whole = predict.predict(images)
    np.testing.assert_array_equal(np.concatenate([first.probs, second.probs]), whole.probs)
    with jax.default_prng_impl("rbg"):  # of such keys `jax.vmap` reads the first alone
        part = predict.predict(images[4:8], first=4)
    np.testing.assert_allclose(part.probs, whole.probs[4:8], atol=1e-5)


def test_images_are_decided_early_with_a_tolerance(digits):
    predict = didicm_jax.Predictor.from_workdir(digits[0], sampler={"tolerance": 0.3}, buckets=[32])
    found = predict(digits[1].dataset.test.batch(np.arange(32))["image"])
    assert set(found.steps_used) == {2, 3}
    early = found.steps_used == 2
    np.testing.assert_array_equal(found.trajectory[early, 2], found.probs[early])


def test_a_classifier_with_running_statistics_has_no_trajectory(tmp_path):
    changes = {
        "method": "cross_entropy",
        "model.name": "resnet4",
        "model.width": 0.0625,
        "model.stem": "small",
        "model.depth": 12,
        "model.conditioned_blocks": -1,
        "sampler.steps": 8,
        "train.ema_decay": 0.0,
        "optimizer.name": "adamw",
    }
    with shallow.registered():
        run, state = make_run(tmp_path / "run", **changes)
        found = didicm_jax.Predictor.from_workdir(tmp_path / "run", buckets=[36])
        images = run.dataset.test.batch(np.arange(36))["image"]
        assert found(images).trajectory is None
        np.testing.assert_allclose(found(images).probs, evaluated(run, state)[:36], atol=1e-5)


def test_programs_are_compiled_once_for_each_bucket(digits, monkeypatch):
    traces = []
    real = sampling.create

    def counting(*args, **kwargs):
        answer = real(*args, **kwargs)
        return lambda model, images, keys: traces.append(len(keys)) or answer(model, images, keys)

    monkeypatch.setattr(sampling, "create", counting)
    predict = didicm_jax.Predictor.from_workdir(digits[0], buckets=[4, 1])
    images = np.zeros((11, 8, 8, 1), np.uint8)
    for count in (11, 1, 3, 0, 8, 2, 11):
        found = predict(images[:count])
        assert found.probs.shape == (count, 10)
        assert found.trajectory.shape == (count, 4, 10)
        assert len(found.classes) == count
    assert sorted(traces) == [1, 4]


@pytest.mark.parametrize("buckets", [(1, 8, 64), (4,), (1, 3)])
def test_batches_hold_every_image_once_and_little_padding(buckets):
    assert [tuple(part) for part in batches(0, buckets)] == [(0, 0, buckets[0])]
    for total in range(1, 300):
        parts = list(batches(total, buckets))
        rows = [part.start + row for part in parts for row in range(part.images)]
        assert rows == list(range(total))
        assert {part.size for part in parts} <= set(buckets)
        assert sum(part.size for part in parts) < max(2 * total + 1, buckets[0] + 1)


def test_images_of_every_form_are_the_same_image(digits, predict, tmp_path):
    pixels = digits[1].dataset.test.batch(np.arange(2))["image"]
    expected = predict(pixels).probs
    grey, other = pixels[..., 0]
    colour = np.repeat(grey[..., None], 3, -1)
    (tmp_path / "a.png").write_bytes(encode(grey, "PNG"))
    Image.fromarray(colour).save(tmp_path / "b.bmp")
    turned = Image.fromarray(np.rot90(grey))
    turned.getexif()[0x0112] = 6  # "turn by 90 degrees, clockwise"
    turned.save(tmp_path / "c.png", exif=turned.getexif())
    forms = [
        grey,
        grey[..., None],
        grey.astype(np.int64),
        grey / 255,
        colour,
        np.dstack([colour, other]),
        np.dstack([grey, other]),
        Image.fromarray(grey),
        jax.numpy.asarray(grey),
        tmp_path / "a.png",
        str(tmp_path / "b.bmp"),
        tmp_path / "c.png",
        (tmp_path / "a.png").read_bytes(),
    ]
    found = predict(forms)
    np.testing.assert_allclose(found.probs, np.tile(expected[0], (len(forms), 1)), rtol=1e-3)
    for one in (grey, forms[1], colour, forms[9], forms[10], forms[12]):
        np.testing.assert_allclose(predict(one).probs, expected[:1], rtol=1e-3)
    for both in (
        pixels[..., 0],
        list(pixels),
        iter(pixels),
        np.array([str(tmp_path / "a.png")] * 2),
    ):
        assert len(predict(both).classes) == 2
    assert predict([]).probs.shape == (0, 10)


def test_the_whole_of_an_image_of_another_size_is_shown(digits, predict):
    grey = digits[1].dataset.test.batch(np.arange(1))["image"][0, ..., 0]
    large = np.kron(grey, np.ones((4, 6), np.uint8))  # the mean over areas undoes it
    np.testing.assert_allclose(predict(large).probs, predict(grey).probs, rtol=1e-3)


def test_photos_are_shown_as_in_the_evaluation(tmp_path):
    tree = make_tree(tmp_path / "tree", datasets.load_sample_images().images)
    prepare(list_folder(tree, name="birds"), tmp_path / "data")
    changes = {
        "data.name": "birds",
        "data.data_dir": str(tmp_path / "data"),
        "data.resolution": 32,
        "data.mean": (0.5,) * 3,
        "data.std": (0.5,) * 3,
        "model.name": "didivit_ti16",
    }
    run, state = make_run(tmp_path / "run", **changes)
    # Neither the data nor another file than those of the workdir is needed.
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    predict = didicm_jax.Predictor.from_workdir(tmp_path / "run", buckets=[10])
    (tmp_path / "elsewhere").rename(tmp_path / "data")
    assert predict.class_names == ("boat", "crane")
    found = predict(sorted((tree / "val").rglob("*.jpg"))).probs
    expected = evaluated(run, state)[:10]  # in the order of the records
    np.testing.assert_allclose(np.sort(found[:, 0]), np.sort(expected[:, 0]), atol=1e-5)
    pixels = [np.asarray(Image.open(file)) for file in sorted((tree / "val").rglob("*.jpg"))]
    lossless = [encode(image, "PNG") for image in pixels]
    np.testing.assert_array_equal(predict(pixels).probs, predict(lossless).probs)


def test_the_best_checkpoint_and_the_latest(digits, predict):
    images = digits[1].dataset.test.batch(np.arange(4))["image"]
    best = didicm_jax.Predictor.from_workdir(digits[0], checkpoint="best", trajectory=False)
    assert best(images).trajectory is None
    assert np.abs(best(images).probs - predict(images).probs).max() > 0.01


def test_batches_can_be_spread_over_devices(digits, predict):
    images = digits[1].dataset.test.batch(np.arange(5))["image"]
    spread = didicm_jax.Predictor.from_workdir(digits[0], devices=jax.devices()[:2], buckets=[1, 5])
    np.testing.assert_allclose(spread(images).probs, predict(images).probs, rtol=1e-3)
    # A process that it is sent to may have other devices.
    sent = pickle.loads(pickle.dumps(spread))
    np.testing.assert_allclose(sent(images).probs, predict(images).probs, rtol=1e-3)
    np.testing.assert_array_equal(sent(images).trajectory[:, -1], sent(images).probs)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_a_caller_may_have_set_another_mesh(digits, predict, kind):
    images = digits[1].dataset.test.batch(np.arange(8))["image"]
    kind = getattr(jax.sharding.AxisType, kind)
    with jax.set_mesh(jax.make_mesh((4,), ("batch",), (kind,))):
        found = predict(images).probs
        loaded = didicm_jax.Predictor.from_workdir(digits[0])(images).probs
        own = network.load(RunFolder.open(digits[0]), "latest", one_device())
        answer = program.create(own.config, own.graphdef, 10, one_device())
        answer.lower(own.variables, (8, 8, 1), 8)
        assert answer.trace(own.variables, (8, 8, 1), 8).probs.shape == (8, 10)
        exported = jax.export.deserialize(bytearray(export.serialize(own)))
    np.testing.assert_array_equal(found, predict(images).probs)
    np.testing.assert_array_equal(loaded, found)
    # The file asks for none of the caller's devices.
    assert exported.nr_devices == 1
    np.testing.assert_allclose(exported.call(images), found, atol=1e-5)


def test_where_jax_has_64_bits_a_prediction_has_the_types_that_it_has(digits, x64):
    images = digits[1].dataset.test.batch(np.arange(8))["image"]
    answer = didicm_jax.Predictor.from_workdir(digits[0])(images)
    assert answer.probs.dtype == answer.trajectory.dtype == np.float32
    assert answer.labels.dtype == answer.steps_used.dtype == np.int32


def test_mistakes_are_one_line(digits, predict, tmp_path):
    folder = digits[0]
    (tmp_path / "text.png").write_text("no image")
    for name in ("config.json", "dataset.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    (tmp_path / "cut.png").write_bytes(encode(np.eye(99, dtype=np.uint8), "PNG")[:60])
    grey = np.zeros((8, 8), np.uint8)
    load = didicm_jax.Predictor.from_workdir
    files = [grey, tmp_path / "text.png", tmp_path / "gone.png", tmp_path, tmp_path / "cut.png"]
    for call, parts in {
        lambda: predict(files): (
            "found 4 of 5",
            f"{tmp_path / 'text.png'} (no image of a known format)",
            f"{tmp_path / 'gone.png'} (No such file or directory)",
            f"{tmp_path} (Is a directory)",
            f"{tmp_path / 'cut.png'} (",
        ),
        lambda: predict(np.zeros((2, 8, 8, 5), np.uint8)): ("image 0 (", "found [8, 8, 5]"),
        lambda: predict([np.zeros((2, 8, 8, 1))]): ("image 0 (", "found [2, 8, 8, 1]"),
        lambda: predict([np.zeros((0, 8))]): ("image 0 (", "found [0, 8, 1]"),
        lambda: predict(grey + 0.5 * 255): ("floats in [0, 1], found 127.5",),
        lambda: predict(grey + np.nan): ("floats in [0, 1], found nan",),
        lambda: predict(grey.astype(np.int32) + 300): ("found int32 300 to 300",),
        lambda: predict({"a": grey}): ("found dict",),
        lambda: predict(np.zeros((1, 1, 1, 8, 8))): ("found ndarray of float64[1, 1, 1, 8, 8]",),
        lambda: predict.predict(np.zeros((2, 8, 8, 1))): ("uint8[N,8,8,1]", "found float64[2, 8"),
        lambda: predict.predict(grey[..., None]): ("uint8[N,8,8,1]", "found uint8[8, 8, 1]"),
        lambda: load(tmp_path / "nowhere"): ("found no config.json",),
        lambda: load(tmp_path): ("expected a latest checkpoint",),
        lambda: load(folder, checkpoint="worst"): ("found 'worst'",),
        lambda: load(folder, sampler={"steps": 0}): ("config.sampler.steps", "found 0"),
        lambda: load(folder, sampler={"steps": "2"}): ("config.sampler.steps", "found '2'"),
        lambda: load(folder, sampler={"stepz": 2}): ("unknown keys sampler.stepz",),
        lambda: load(folder, buckets=[0]): ("buckets",),
        lambda: load(folder, devices=[]): ("devices: expected one or several",),
    }.items():
        with pytest.raises(UserError) as error:
            call()
        assert "\n" not in str(error.value)
        for part in parts:
            assert part in str(error.value)


def test_the_package_stays_light():
    code = """
import sys
import didicm_jax
assert not {"jax", "flax", "orbax.checkpoint", "tensorflow_datasets", "cv2"} & set(sys.modules)
from didicm_jax import diffusion, models, interop
assert not {"orbax.checkpoint", "tensorflow_datasets", "cv2", "grain"} & set(sys.modules)
didicm_jax.Predictor
assert "tensorflow_datasets" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
