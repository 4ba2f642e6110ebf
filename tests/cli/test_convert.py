"""Weights in from PyTorch's names and out again, and the file that any jax can run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from didicm_jax import models
from didicm_jax.cli import convert as entry_point
from didicm_jax.inference.predictor import Predictor
from didicm_jax.pytorch import interop, torch_files
from didicm_jax.run import RunFolder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def convert():
    """`launch/convert.py`'s `main` without the program's name."""
    return lambda *arguments: entry_point.main(["convert.py", *map(str, arguments)])


def state_dict(name, seed=0, **options):
    options = {"num_classes": 5, "image_size": 32, "width": 0.0625} | options
    model = nnx.eval_shape(lambda: models.create_model(name, rngs=nnx.Rngs(0), **options))
    random = np.random.default_rng(seed)
    return {
        key: (0.1 * random.standard_normal(entry.torch_shape) + key.endswith("var")).astype("f")
        for key, entry in interop.entries_of(model).items()
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A file as the original leaves it, in safetensors."""
    path = tmp_path_factory.mktemp("torch") / "original.safetensors"
    save_file({f"module.{key}": value for key, value in state_dict("didirn18").items()}, path)
    return path


@pytest.fixture(scope="module")
def made(convert, original, tmp_path_factory):
    """A run made of it, its network worked out from the tensors."""
    names = tmp_path_factory.mktemp("names") / "names.txt"
    names.write_text("ant\nbee\ncat\ndog\nemu\n")
    workdir = tmp_path_factory.mktemp("runs") / "original"
    given = [f"--torch={original}", f"--workdir={workdir}", f"--class_names={names}"]
    assert convert(*given) == 0
    return workdir


def images(count, side=224, channels=3):
    return np.random.RandomState(0).randint(0, 256, (count, side, side, channels)).astype(np.uint8)


def test_a_run_is_made_that_predicts_as_the_weights_say(made, original):
    config = json.loads((made / "config.json").read_text())
    assert config["model"]["name"] == "didirn18"
    assert (config["model"]["width"], config["model"]["stem"]) == (0.0625, "didirn")
    assert sorted(path.name for path in made.parent.iterdir()) == ["original"]
    answer = Predictor.from_workdir(made, sampler={"steps": 1})(images(2, 40))
    assert set(answer.classes) <= {"ant", "bee", "cat", "dog", "emu"}
    np.testing.assert_allclose(answer.probs.sum(axis=1), 1, rtol=1e-5)


def test_the_round_trip_is_bit_for_bit(convert, made, tmp_path):
    path = tmp_path / "out.safetensors"
    assert convert(f"--workdir={made}", f"--safetensors={path}") == 0
    found, expected = load_file(path), state_dict("didirn18")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], value)


def test_the_golden_network_survives(convert, golden, golden_weights, tmp_path):
    """All tensors of the original DiDiRN-18, by its own names, through a run and back."""
    names, shapes = (golden[f"didirn/resnet18/{key}"] for key in ("names", "shapes"))
    given = {k: np.asarray(v) for k, v in golden_weights(names, shapes).items()}
    save_file(given, tmp_path / "in.safetensors")
    workdir = tmp_path / "run"
    assert convert(f"--torch={tmp_path / 'in.safetensors'}", f"--workdir={workdir}") == 0
    out = tmp_path / "out.safetensors"
    assert convert(f"--workdir={workdir}", f"--safetensors={out}") == 0
    found = load_file(out)
    for key, value in given.items():
        if not key.endswith("num_batches_tracked"):
            assert found.pop(key).tobytes() == value.tobytes()
    assert found == {}


_ALONE = """
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] in ("didicm_jax", "flax", "optax", "orbax", "chex"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import jax, numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
assert exported.platforms == ("cpu", "cuda", "tpu")
images = np.load(sys.argv[2])
parts = [np.asarray(exported.call(images[:n])) for n in (1, 5)]
np.savez(sys.argv[3], *parts)
"""


@pytest.mark.parametrize(
    "sampler",
    [
        ["--steps=2"],
        pytest.param(["--sampler=cl", "--steps=2", "--chains=3"], marks=pytest.mark.slow),
    ],
)
def test_the_exported_file_runs_without_the_project(convert, made, tmp_path, sampler):
    path = tmp_path / "model.jaxexport"
    assert convert(f"--workdir={made}", f"--export={path}", *sampler) == 0
    described = json.loads((tmp_path / "model.jaxexport.json").read_text())
    assert described["class_names"] == ["ant", "bee", "cat", "dog", "emu"]
    assert (described["image_shape"], described["steps"]) == ([224, 224, 3], 2)
    config = json.loads((made / "config.json").read_text())
    assert described["eval_crop"] == config["data"]["eval_crop"]
    pixels = images(5)
    np.save(tmp_path / "in.npy", pixels)
    arguments = [path, tmp_path / "in.npy", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", _ALONE, *map(str, arguments)], cwd=tmp_path, check=True)
    settings = {"steps": 2} if len(sampler) == 1 else {"name": "cl", "steps": 2, "chains": 3}
    expected = Predictor.from_workdir(made, sampler=settings, buckets=(5,)).predict(pixels).probs
    with np.load(tmp_path / "out.npz") as parts:
        for found in parts.values():
            np.testing.assert_allclose(found, expected[: len(found)], atol=2e-3)


def test_names_of_classes_are_what_an_editor_shows(convert, original, tmp_path):
    """Not the mark with which some begin a file, and not its blank lines."""
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeffant\r\n\nbee\n  \ncat\ndog\n\temu \n\n".encode())
    given = [f"--torch={original}", f"--workdir={tmp_path / 'run'}", f"--class_names={names}"]
    assert convert(*given) == 0
    described = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert described["class_names"] == ["ant", "bee", "cat", "dog", "emu"]


def test_a_plain_resnet_becomes_a_classifier(convert, tmp_path):
    given = state_dict("resnet18", stem="imagenet")
    save_file(given, tmp_path / "resnet18.safetensors")
    workdir = tmp_path / "run"
    assert convert(f"--torch={tmp_path / 'resnet18.safetensors'}", f"--workdir={workdir}") == 0
    config = json.loads((workdir / "config.json").read_text())
    assert (config["method"], config["model"]["name"]) == ("cross_entropy", "resnet18")
    assert config["model"]["stem"] == "imagenet"
    out = tmp_path / "out.safetensors"
    assert convert(f"--workdir={workdir}", f"--safetensors={out}") == 0
    for key, value in load_file(out).items():
        np.testing.assert_array_equal(value, given[key])


def test_a_plain_trunk_initialises_a_diffusion_which_then_trains(convert, main, tmp_path, capsys):
    given = state_dict("resnet4", stem="small", in_channels=1, image_size=8)
    save_file(given, tmp_path / "trunk.safetensors")
    workdir = tmp_path / "run"
    config = [
        f"--config={ROOT / 'configs' / 'digits.py'}",
        "--config.model.name=didirn4",
        "--config.model.width=0.0625",
        "--config.data.train_examples=64",
        "--config.data.resolution=8",
        "--config.train.batch_size=16",
        "--config.train.duration=2 steps",
        "--config.optimizer.warmup=1 step",
        "--config.sampler.steps=1",
    ]
    names = tmp_path / "names.txt"
    names.write_text("\n".join("0123456789"))
    torch = [f"--torch={tmp_path / 'trunk.safetensors'}", f"--class_names={names}"]
    assert convert(*torch, f"--workdir={workdir}", *config) == 0
    said = capsys.readouterr().out
    assert "left as initialised: " in said
    assert "label_embedder.weight" in said
    assert "not used: fc." in said
    out = tmp_path / "out.safetensors"
    assert convert(f"--workdir={workdir}", f"--safetensors={out}") == 0
    found = load_file(out)
    trunk = [key for key in given if not key.startswith("fc.")]
    for key in trunk:
        ours = key.replace("downsample", "skip_connection")
        np.testing.assert_array_equal(found[ours], given[key])
    assert main(f"--workdir={workdir}", *config) == 0  # goes on from step 0
    assert json.loads((workdir / "evaluation.json").read_text())["step"] == 2


@pytest.mark.parametrize(
    ("flags", "source", "seed"),
    [([], "moving average", 1), (["--weights=raw"], "weights", 0)],
    ids=["auto", "raw"],
)
def test_the_trunk_of_an_average_is_loaded_as_is_said(
    convert, tmp_path, monkeypatch, capsys, flags, source, seed
):
    options = {"stem": "small", "in_channels": 1, "image_size": 8}
    raw, averaged = (state_dict("resnet4", seed, **options) for seed in (0, 1))
    monkeypatch.setattr(torch_files, "read", lambda path: torch_files.Weights(raw, averaged))
    workdir, out = tmp_path / "run", tmp_path / "out.safetensors"
    assert convert("--torch=both.pth", f"--workdir={workdir}", *DIGITS, *flags) == 0
    assert f"{source} to predict with" in capsys.readouterr().out
    assert convert(f"--workdir={workdir}", f"--safetensors={out}") == 0
    expected = (raw, averaged)[seed]
    np.testing.assert_array_equal(load_file(out)["conv1.weight"], expected["conv1.weight"])


DIGITS = [
    f"--config={ROOT / 'configs' / 'digits.py'}",
    "--config.model.name=didirn4",
    "--config.model.width=0.0625",
]


def saved(path, content):
    save_file(content, path)
    return f"--torch={path}"


def test_the_size_follows_the_data_set(convert, tmp_path):
    """Digits are of 8x8, whatever the default of photos is."""
    given = state_dict("didirn4", stem="small", in_channels=1, image_size=8, num_classes=10)
    torch = saved(tmp_path / "in.safetensors", given)
    assert convert(torch, f"--workdir={tmp_path / 'run'}", *DIGITS) == 0
    described = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert described["image_shape"] == [8, 8, 1]
    assert described["class_names"] == list("0123456789")


def test_a_trunk_becomes_a_run_of_the_classes_of_its_data(convert, tmp_path, capsys):
    """Not of those that the plain network had."""
    given = state_dict("resnet4", stem="small", in_channels=1, image_size=8, num_classes=5)
    torch = saved(tmp_path / "in.safetensors", given)
    assert convert(torch, f"--workdir={tmp_path / 'run'}", *DIGITS) == 0
    assert len(json.loads((tmp_path / "run" / "dataset.json").read_text())["class_names"]) == 10
    assert "didirn4, 10 classes, images of 8x8x1" in capsys.readouterr().out


def test_a_trunk_without_its_data_needs_the_names_of_the_classes(convert, tmp_path, capsys):
    given = state_dict("resnet4", stem="small", in_channels=1, image_size=8, num_classes=5)
    torch = saved(tmp_path / "in.safetensors", given)
    elsewhere = ["--config.data.name=idx", f"--config.data.data_dir={tmp_path}"]
    config = [*DIGITS, *elsewhere, "--config.data.resolution=8", f"--workdir={tmp_path / 'run'}"]
    assert convert(torch, *config) == 2
    assert "--class_names: expected the classes to train on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    assert convert(torch, *config, f"--class_names={tmp_path / 'names.txt'}") == 0
    described = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert described == {
        "class_names": ["ant", "bee"],
        "image_shape": [8, 8, 1],
        "trained_on": "",
        "judged_on": "",
    }


@pytest.mark.parametrize("kind", ["resnet4", "didirn4"])
def test_a_head_of_other_classes_is_left_fresh_and_said(convert, tmp_path, capsys, kind):
    given = state_dict(kind, stem="small", in_channels=1, image_size=8, num_classes=5)
    torch = saved(tmp_path / "in.safetensors", given)
    plain = ["--config.method=cross_entropy", "--config.model.name=resnet4"]
    config = [*DIGITS, *(plain if kind == "resnet4" else [])]
    assert convert(torch, f"--workdir={tmp_path / 'run'}", *config) == 0
    said = capsys.readouterr().out.splitlines()
    of_classes = ["fc.weight", "fc.bias"]
    of_classes += ["label_embedder.weight"] if kind == "didirn4" else []
    for words in ("left as initialised: ", "not used: "):
        line = next(line for line in said if line.startswith(words))
        assert sorted(line.removeprefix(words).split(", ")) == sorted(of_classes)
    out = tmp_path / "out.safetensors"
    assert convert(f"--workdir={tmp_path / 'run'}", f"--safetensors={out}") == 0
    found = load_file(out)
    assert len(found["fc.bias"]) == 10
    for key in given.keys() - set(of_classes):
        np.testing.assert_array_equal(found[key], given[key])


def test_weights_of_lightning_are_found(convert, tmp_path):
    given = {f"model.{key}": value for key, value in state_dict("resnet18").items()}
    torch = saved(tmp_path / "in.safetensors", given)
    assert convert(torch, f"--workdir={tmp_path / 'run'}") == 0


def test_names_that_are_not_those_of_the_weights_or_the_data_are_refused(
    convert, original, tmp_path, capsys
):
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    names = f"--class_names={tmp_path / 'names.txt'}"
    assert convert(f"--torch={original}", f"--workdir={tmp_path / 'run'}", names) == 2
    assert "--class_names: expected 5 names" in capsys.readouterr().err
    given = state_dict("resnet4", stem="small", in_channels=1, image_size=8, num_classes=5)
    torch = saved(tmp_path / "in.safetensors", given)
    assert convert(torch, f"--workdir={tmp_path / 'run'}", *DIGITS, names) == 2
    assert "--class_names: expected 10 classes, found 2, of digits" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_current_folder_is_no_new_one(convert, original, tmp_path, monkeypatch, capsys):
    """Its path has no name, and it cannot be replaced under the feet of the shell."""
    monkeypatch.chdir(tmp_path)
    for name in (".", str(tmp_path), "..", "/"):
        assert convert(f"--torch={original}", f"--workdir={name}") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: --workdir: expected a new folder, found")
        assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_line_and_leave_nothing(convert, made, original, tmp_path, capsys):
    whole = state_dict("didirn18")
    missing = {key: value for key, value in whole.items() if key != "bn1.bias"}
    surplus = whole | {"extra.weight": np.ones(3, np.float32)}
    other = {key: value for key, value in whole.items() if not key.startswith("layer4")}
    misshaped = whole | {"fc.bias": np.ones(9, np.float32)}
    scalar = whole | {"fc.weight": np.float32(1)}
    flat = whole | {"conv1.weight": np.ones(3, np.float32)}
    new = tmp_path / "new"
    cases = [
        ([f"--torch={tmp_path / 'no.pth'}", f"--workdir={new}"], "found no"),
        ([f"--torch={original}", f"--workdir={made}"], "expected a new folder"),
        ([f"--torch={original}"], "--workdir: expected"),
        (
            [f"--torch={original}", f"--workdir={new}", *DIGITS, "--config.model.init_from=x"],
            "config.model.init_from: expected none with --torch",
        ),
        ([f"--workdir={made}"], "expected either --torch"),
        ([f"--workdir={new}", f"--export={tmp_path / 'x'}"], "found no config.json"),
        ([f"--workdir={made}", f"--export={tmp_path / 'x'}", "--sampler=ddim"], "one of cp, cl"),
        ([f"--workdir={made}", f"--export={tmp_path / 'x'}", "--steps=1,2"], "one sampler, found"),
        ([f"--workdir={made}", f"--safetensors={tmp_path / 'x'}", "--steps=2"], "--steps: exp"),
        (
            [f"--torch={original}", f"--workdir={new}", "--steps=2"],
            "with --export or --hub, found without",
        ),
        (
            [f"--torch={original}", f"--workdir={new}", "--checkpoint=best"],
            "--checkpoint: expected with --export or --safetensors or --hub, found without",
        ),
        ([f"--workdir={made}", f"--export={tmp_path}", "--weights=raw"], "with --torch, found"),
    ]
    for name, content, message in (
        ("missing", missing, "missing: bn1.bias"),
        ("surplus", surplus, "not known: extra.weight"),
        ("misshaped", misshaped, "misshaped: fc.bias (9,) for (5,)"),
        ("other", other, "found stages of 2, 2, 2, 0 blocks"),
        ("scalar", scalar, "--torch: expected fc.weight to have 2 axes, found 0"),
        ("flat", flat, "--torch: expected conv1.weight to have 4 axes, found 1"),
    ):
        tensors = {key: np.asarray(value) for key, value in content.items()}
        save_file(tensors, tmp_path / f"{name}.safetensors")
        given = [f"--torch={tmp_path / f'{name}.safetensors'}", f"--workdir={new}"]
        cases.append((given, message))
    for given, message in cases:
        assert convert(*given) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    left = {path.suffix for path in tmp_path.iterdir()}
    assert left == {".safetensors"}


def test_files_that_could_not_be_written_are_refused_before_the_network_is_read(
    convert, made, tmp_path, capsys, monkeypatch
):
    def refuse(*arguments):
        raise AssertionError("the run was opened")

    monkeypatch.setattr(RunFolder, "open", refuse)
    (tmp_path / "a.json").mkdir()
    place, nowhere = tmp_path / "x", tmp_path / "no" / "x"
    cases = [
        ([f"--export={made}"], "--export: expected a file that can be written, found the f"),
        (
            [f"--export={nowhere}"],
            "--export: expected a file that can be written, found no folder",
        ),
        ([f"--export={tmp_path / 'a'}"], f"found the folder {tmp_path / 'a.json'}"),
        ([f"--safetensors={tmp_path}"], "--safetensors: expected a file that can be written"),
        ([f"--safetensors={nowhere}"], "--safetensors: expected a file that can be written"),
        (
            [f"--export={place}", f"--safetensors={tmp_path / '.' / 'a.json' / '..' / 'x'}"],
            f"--safetensors: expected a place of its own, found {place}, which --export writes",
        ),
        (
            [f"--export={place}", f"--safetensors={place}.json"],
            f"--safetensors: expected a place of its own, found {place}.json, which --ex",
        ),
        ([f"--export={made / 'config'}"], "--export: expected a place of its own, found"),
        (
            [f"--export={place}", f"--hub={place}"],
            f"--hub: expected a place of its own, found {place}, which --export writes",
        ),
    ]
    for given, message in cases:
        assert convert(f"--workdir={made}", *given) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.startswith("error: --")
        assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
