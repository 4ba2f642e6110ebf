"""What a run takes of weights by PyTorch's names: trunk, head, classes, size."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from didicm_jax.pytorch import torch_files
from tests.cli.converting import TINY, of_digits, saved, state_dict
from tests.cli.looking import one_line
from tests.cli.running import DIGITS, SMALL


def test_the_golden_network_survives(convert, golden, golden_weights, tmp_path):
    """All tensors of the original DiDiRN-18, by its own names, through a run and back."""
    names, shapes = (golden[f"didirn/resnet18/{key}"] for key in ("names", "shapes"))
    given = {k: np.asarray(v) for k, v in golden_weights(names, shapes).items()}
    workdir = tmp_path / "run"
    assert convert(saved(tmp_path / "in.safetensors", given), f"--workdir={workdir}") == 0
    out = tmp_path / "out.safetensors"
    assert convert(f"--workdir={workdir}", f"--safetensors={out}") == 0
    found = load_file(out)
    for key, value in given.items():
        if not key.endswith("num_batches_tracked"):
            assert found.pop(key).tobytes() == value.tobytes()
    assert found == {}


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
    workdir = tmp_path / "run"
    assert convert(saved(tmp_path / "in.safetensors", given), f"--workdir={workdir}") == 0
    config = json.loads((workdir / "config.json").read_text())
    assert (config["method"], config["model"]["name"]) == ("cross_entropy", "resnet18")
    assert config["model"]["stem"] == "imagenet"
    out = tmp_path / "out.safetensors"
    assert convert(f"--workdir={workdir}", f"--safetensors={out}") == 0
    for key, value in load_file(out).items():
        np.testing.assert_array_equal(value, given[key])


def test_a_plain_trunk_initialises_a_diffusion_which_then_trains(convert, main, tmp_path, capsys):
    given = of_digits("resnet4")
    workdir = tmp_path / "run"
    names = tmp_path / "names.txt"
    names.write_text("\n".join("0123456789"))
    torch = saved(tmp_path / "in.safetensors", given)
    assert convert(torch, f"--class_names={names}", f"--workdir={workdir}", DIGITS, *SMALL) == 0
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
    assert main(f"--workdir={workdir}", DIGITS, *SMALL) == 0  # goes on from step 0
    assert json.loads((workdir / "evaluation.json").read_text())["step"] == 12


@pytest.mark.parametrize(
    ("flags", "source", "seed"),
    [([], "moving average", 1), (["--weights=raw"], "weights", 0)],
    ids=["auto", "raw"],
)
def test_the_trunk_of_an_average_is_loaded_as_is_said(
    convert, tmp_path, monkeypatch, capsys, flags, source, seed
):
    raw, averaged = (of_digits("resnet4", seed) for seed in (0, 1))
    monkeypatch.setattr(torch_files, "read", lambda path: torch_files.Weights(raw, averaged))
    workdir, out = tmp_path / "run", tmp_path / "out.safetensors"
    assert convert("--torch=both.pth", f"--workdir={workdir}", *TINY, *flags) == 0
    assert f"{source} to predict with" in capsys.readouterr().out
    assert convert(f"--workdir={workdir}", f"--safetensors={out}") == 0
    expected = (raw, averaged)[seed]
    np.testing.assert_array_equal(load_file(out)["conv1.weight"], expected["conv1.weight"])


def test_the_size_follows_the_data_set(convert, tmp_path):
    """Digits are of 8x8, whatever the default of photos is."""
    given = of_digits("didirn4", num_classes=10)
    torch = saved(tmp_path / "in.safetensors", given)
    assert convert(torch, f"--workdir={tmp_path / 'run'}", *TINY) == 0
    described = json.loads((tmp_path / "run" / "dataset.json").read_text())
    assert described["image_shape"] == [8, 8, 1]
    assert described["class_names"] == list("0123456789")


def test_a_trunk_becomes_a_run_of_the_classes_of_its_data(convert, tmp_path, capsys):
    """Not of those that the plain network had."""
    given = of_digits("resnet4")
    torch = saved(tmp_path / "in.safetensors", given)
    assert convert(torch, f"--workdir={tmp_path / 'run'}", *TINY) == 0
    assert len(json.loads((tmp_path / "run" / "dataset.json").read_text())["class_names"]) == 10
    assert "didirn4, 10 classes, images of 8x8x1" in capsys.readouterr().out


def test_a_trunk_without_its_data_needs_the_names_of_the_classes(convert, tmp_path, capsys):
    given = of_digits("resnet4")
    torch = saved(tmp_path / "in.safetensors", given)
    elsewhere = ["--config.data.name=idx", f"--config.data.data_dir={tmp_path}"]
    config = [*TINY, *elsewhere, "--config.data.resolution=8", f"--workdir={tmp_path / 'run'}"]
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
    given = of_digits(kind)
    torch = saved(tmp_path / "in.safetensors", given)
    plain = ["--config.method=cross_entropy", "--config.model.name=resnet4"]
    config = [*TINY, *(plain if kind == "resnet4" else [])]
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
    given = of_digits("resnet4")
    torch = saved(tmp_path / "in.safetensors", given)
    assert convert(torch, f"--workdir={tmp_path / 'run'}", *TINY, names) == 2
    assert "--class_names: expected 10 classes, found 2, of digits" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_current_folder_is_no_new_one(convert, original, tmp_path, monkeypatch, capsys):
    """Its path has no name, and it cannot be replaced under the feet of the shell."""
    monkeypatch.chdir(tmp_path)
    for name in (".", str(tmp_path), "..", "/"):
        assert convert(f"--torch={original}", f"--workdir={name}") == 2
        assert one_line(capsys).startswith("error: --workdir: expected a new folder, found")
    assert list(tmp_path.iterdir()) == []
