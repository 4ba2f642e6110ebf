"""A run of PyTorch's weights, the files that are made of it, and the mistakes of both."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from didicm_jax.inference.predictor import Predictor
from didicm_jax.run import RunFolder
from tests.cli.converting import TINY, saved, state_dict
from tests.cli.looking import one_line
from tests.cli.running import ROOT, SMALL


@pytest.fixture(scope="module")
def made(convert, original, tmp_path_factory):
    """A run made of it, its network worked out from the tensors."""
    names = tmp_path_factory.mktemp("names") / "names.txt"
    names.write_text("ant\nbee\ncat\ndog\nemu\n")
    workdir = tmp_path_factory.mktemp("runs") / "original"
    given = [f"--torch={original}", f"--workdir={workdir}", f"--class_names={names}"]
    assert convert(*given) == 0
    return workdir


@pytest.fixture(scope="module")
def small(convert, tmp_path_factory):
    """One of photos of 32x32 and of one block: a program of it is compiled soon."""
    folder = tmp_path_factory.mktemp("small")
    names = folder / "names.txt"
    names.write_text("ant\nbee\ncat\ndog\nemu\n")
    torch = saved(folder / "in.safetensors", state_dict("didirn4", stem="small"))
    config = [f"--config={ROOT / 'configs' / 'cifar.py'}", *SMALL[:2]]
    given = [torch, f"--workdir={folder / 'run'}", f"--class_names={names}"]
    assert convert(*given, *config, f"--config.data.data_dir={folder}") == 0
    return folder / "run"


def images(count, side):
    return np.random.RandomState(0).randint(0, 256, (count, side, side, 3)).astype(np.uint8)


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
def test_the_exported_file_runs_without_the_project(convert, small, tmp_path, sampler):
    path = tmp_path / "model.jaxexport"
    assert convert(f"--workdir={small}", f"--export={path}", *sampler) == 0
    described = json.loads((tmp_path / "model.jaxexport.json").read_text())
    assert described["class_names"] == ["ant", "bee", "cat", "dog", "emu"]
    assert (described["image_shape"], described["steps"]) == ([32, 32, 3], 2)
    config = json.loads((small / "config.json").read_text())
    assert described["eval_crop"] == config["data"]["eval_crop"]
    pixels = images(5, 32)
    np.save(tmp_path / "in.npy", pixels)
    arguments = [path, tmp_path / "in.npy", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", _ALONE, *map(str, arguments)], cwd=tmp_path, check=True)
    settings = {"steps": 2} if len(sampler) == 1 else {"name": "cl", "steps": 2, "chains": 3}
    expected = Predictor.from_workdir(small, sampler=settings, buckets=(5,)).predict(pixels).probs
    with np.load(tmp_path / "out.npz") as parts:
        for found in parts.values():
            np.testing.assert_allclose(found, expected[: len(found)], atol=2e-3)


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
            [f"--torch={original}", f"--workdir={new}", *TINY, "--config.model.init_from=x"],
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
        torch = saved(tmp_path / f"{name}.safetensors", tensors)
        cases.append(([torch, f"--workdir={new}"], message))
    for given, message in cases:
        assert convert(*given) == 2
        assert message in one_line(capsys)
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
        said = one_line(capsys)
        assert message in said
        assert said.startswith("error: --")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
