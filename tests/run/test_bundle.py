"""A trained network as a folder of three files."""

import dataclasses
import hashlib
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import setuptools
from safetensors.numpy import load_file, save_file

from didicm_jax import config as configuration
from didicm_jax import files
from didicm_jax.errors import UserError
from didicm_jax.models.variables import Variables
from didicm_jax.run import Description, RunFolder, bundle

ROOT = Path(__file__).parents[2]


SETS = ("a=test every 1 epoch", "b of gulls in /home/somebody", "c of gulls every 1 epoch")


def network():
    """A small one, with a list of modules as the networks have them."""
    random = np.random.default_rng(0)

    def some(*shape):
        return random.standard_normal(shape).astype(np.float32)

    blocks = {k: {"kernel": some(3, 4), "scale": some(4)} for k in (0, 1, 10)}
    params = {"layer1": blocks, "fc": {"kernel": some(4, 2), "bias": some(2)}}
    config = configuration.default().unlock()
    config.update_from_flattened_dict(
        {
            "data.name": "birds",
            "data.data_dir": "/home/somebody/birds",
            "evaluation.sets": SETS,
            "evaluation.every": "3 epochs",
            "model.init_from": "/home/somebody/run",
            "optimizer.warmup": "1 step",
        }
    )
    described = Description(("no", "yes"), (8, 8, 1), "a digest")
    variables = Variables(params, {"bn": {"mean": some(4), "var": np.abs(some(4))}})
    return bundle.Bundle(config, described, variables, 12)


@pytest.mark.parametrize("source", ["cifar10", "hf://somebody/net@v1", "/home/somebody/run"])
def test_what_a_training_began_with_is_told_where_others_have_it(source):
    config = network().config
    config.model.init_from = source
    assert bundle.given_away(config).model.init_from == (source if source[0] != "/" else "")


@pytest.fixture
def folder(tmp_path):
    bundle.write(tmp_path / "net", network(), "the card\n")
    return tmp_path / "net"


def arrays(found):
    return dict(bundle.flatten(found.variables))


def test_the_round_trip_is_bit_for_bit(folder):
    given, found = network(), bundle.find(folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert (folder / "README.md").read_text() == "the card\n"
    assert found.variables.params["layer1"].keys() == {0, 1, 10}  # numbers, as in the networks
    assert arrays(found).keys() == arrays(given).keys()
    for name, array in arrays(given).items():
        assert arrays(found)[name].dtype == np.float32
        assert arrays(found)[name].tobytes() == array.tobytes()
    assert (found.description, found.step, found.path) == (given.description, 12, folder)


def test_only_where_something_is_on_this_machine_is_left_out(tmp_path):
    given, folder = network(), tmp_path / "net"
    bundle.write(folder, given, "")
    changed = configuration.differences(given.config, bundle.find(folder).config)
    assert changed == {
        "data.data_dir": ("/home/somebody/birds", ""),
        "evaluation.every": ("3 epochs", "10 epochs"),  # which none of those left reads
        "evaluation.sets": (SETS, SETS[::2]),
        "model.init_from": ("/home/somebody/run", ""),
    }
    assert "somebody" not in (folder / "config.json").read_text()


def test_kernels_may_be_of_half_the_size(tmp_path):
    """bfloat16 has 8 bits of mantissa; what has one axis keeps all of them."""
    bundle.write(tmp_path / "net", network(), "", dtype="bfloat16")
    stored = load_file(tmp_path / "net" / "model.safetensors")
    found = arrays(bundle.read(tmp_path / "net"))
    for name, array in arrays(network()).items():
        assert stored[name].dtype.name == ("bfloat16" if array.ndim == 2 else "float32")
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], array, rtol=2**-8 if array.ndim == 2 else 0)
    assert any((found[name] != array).any() for name, array in arrays(network()).items())


def edited(folder, **values):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | values))


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def flipped(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def replaced(folder, tensors):
    save_file(tensors, folder / "model.safetensors")
    data = (folder / "model.safetensors").read_bytes()
    edited(folder, weights_sha256=hashlib.sha256(data).hexdigest())


ONE = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "found no config.json; write"),
        (lambda f: (f / "model.safetensors").unlink(), "found no model.safetensors; write"),
        (lambda f: shutil.rmtree(f) or f.mkdir(), "found no config.json and no model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "expected a JSON file"),
        (cut, "model.safetensors: expected the arrays of a network, found what cannot be read"),
        (flipped, "it has not the weights_sha256 of config.json"),
        (lambda f: edited(f, library_name="timm"), "'library_name': 'timm'"),
        (lambda f: edited(f, step=-1), "'step': -1"),
        (lambda f: edited(f, step="12"), "'step': '12'"),
        (lambda f: edited(f, class_names=[]), "expected class_names and an image_shape"),
        (lambda f: edited(f, config=None), "config.json: config: expected sections of settings"),
        (lambda f: edited(f, config={"sed": 1}), "unknown keys sed"),
        (lambda f: replaced(f, {"weight": ONE}), "unexpected keyword argument 'weight'"),
        (lambda f: replaced(f, {"params.a": ONE, "params.a.b": ONE}), "cannot be read"),
    ],
)
def test_what_is_missing_or_damaged_is_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError) as error:
        bundle.find(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_is_left_of_half_a_folder(tmp_path, monkeypatch):
    (tmp_path / "net").mkdir()  # empty: it may be used
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", lambda path, values: (_ for _ in ()).throw(OSError(28)))
        with pytest.raises(UserError, match="hub: expected a folder that can be written"):
            bundle.write(tmp_path / "net", network(), "")
        assert [*tmp_path.rglob("*")] == [tmp_path / "net"]
    bundle.write(tmp_path / "net", network(), "")
    with pytest.raises(UserError, match="expected a new folder, found something in"):
        bundle.write(tmp_path / "net", network(), "another")
    assert (tmp_path / "net" / "README.md").read_text() == ""


def test_what_comes_with_the_package_is_found_by_its_name(folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "PRETRAINED", tmp_path / "none")
        assert bundle.names() == ()
    monkeypatch.setattr(bundle, "PRETRAINED", folder.parent)
    (tmp_path / "notes").mkdir()
    assert bundle.names() == ("net",)
    monkeypatch.chdir(tmp_path / "notes")
    assert bundle.find("net").path == folder
    for unknown in ("nett", str(tmp_path / "no")):
        with pytest.raises(UserError, match=r"^pretrained: expected .* package \(net\), a folder"):
            bundle.find(unknown)


def test_the_home_folder_may_be_written_as_a_tilde(folder, monkeypatch):
    """A shell does not expand it behind `--pretrained=`."""
    monkeypatch.setenv("HOME", str(folder.parent))
    assert bundle.find("~/net").path == folder


def test_a_bundle_is_no_run_and_a_run_no_bundle(folder, tmp_path):
    # Whoever trains or compares may name none as pretrained.
    words = r"^run folder: .* without a run; name it as pretrained to evaluate it or predict"
    with pytest.raises(UserError, match=words):
        RunFolder.open(folder)
    given = network()
    config = configuration.default()
    run = RunFolder.claim(tmp_path / "run", config, given.description)
    for _ in range(2):
        with pytest.raises(UserError, match=r"^pretrained: .* found a run; name it as workdir"):
            bundle.find(run.path)
        # Weights that were exported into it make no bundle of it.
        shutil.copy(folder / "model.safetensors", run.path)
        assert RunFolder.open(run.path).config == config


def test_all_that_comes_with_the_package_is_installed(monkeypatch):
    """And can be read."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    patterns = given["package_data"]["didicm_jax"]
    installed = {path for pattern in patterns for path in (ROOT / "didicm_jax").glob(pattern)}
    assert {path for path in bundle.PRETRAINED.rglob("*") if path.is_file()} <= installed
    for name in bundle.names():
        assert bundle.find(name).path.parent == bundle.PRETRAINED
        assert (bundle.PRETRAINED / name / "README.md").is_file()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub's cache on this machine, and no connection."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(hub, folder, revision, commit):
    place = hub / "models--somebody--net"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / revision).write_text(commit)
    shutil.copytree(folder, place / "snapshots" / commit)


def test_networks_of_the_hub_are_read_from_its_cache(hub, folder, tmp_path):
    cached(hub, folder, "main", "a" * 40)
    bundle.write(tmp_path / "old", dataclasses.replace(network(), step=3), "")
    cached(hub, tmp_path / "old", "v1", "b" * 40)
    assert bundle.find("hf://somebody/net").step == 12
    assert bundle.find("hf://somebody/net@v1").step == 3
    for source in ("hf://somebody/other", "hf://somebody/net@v2"):
        with pytest.raises(
            UserError, match=f"^pretrained: expected .* found no {source} "
        ) as error:
            bundle.find(source)
        assert "\n" not in str(error.value)
    (hub / "models--somebody--net" / "snapshots" / ("a" * 40) / "config.json").unlink()
    with pytest.raises(UserError, match=r"found no config\.json"):
        bundle.find("hf://somebody/net")


@pytest.mark.parametrize("source", ["hf://net", "hf://a/b/c", "hf://", "hf://a/b@", "hf://a/b c"])
def test_no_name_of_the_hub(source):
    with pytest.raises(UserError, match=r"^pretrained: expected hf://user/name or"):
        bundle.find(source)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"install it with pip install 'didicm-jax\[hub\]'"):
        bundle.find("hf://somebody/net")
