"""Files of PyTorch, with torch where it is installed; safetensors always."""

import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from didicm_jax.errors import UserError
from didicm_jax.pytorch import torch_files


def weights(offset=0.0):
    return {
        "conv1.weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3) + offset,
        "bn1.num_batches_tracked": np.array(7),
    }


def test_safetensors_come_back(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(weights(), path)
    found = torch_files.read(path)
    assert found.averaged is None
    for name, value in weights().items():
        np.testing.assert_array_equal(found.best[name], value)


def test_half_precision_becomes_float32(tmp_path):
    for dtype in (np.float16, ml_dtypes.bfloat16):
        save_file({"w": np.array([1.5, -2], dtype)}, tmp_path / "a.safetensors")
        found = torch_files.read(tmp_path / "a.safetensors").best["w"]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, [1.5, -2])


@pytest.mark.parametrize(
    ("content", "raw", "averaged"),
    [
        (weights(), 0.0, None),
        ({"state_dict": weights(), "epoch": 3}, 0.0, None),
        ({"model": weights(), "model_ema": weights(1.0)}, 0.0, 1.0),
        ({"state_dict_ema": weights(1.0)}, None, 1.0),
        ({f"module.{k}": v for k, v in weights().items()}, 0.0, None),
        (
            {"ema": {"n_averaged": np.array(2)} | {f"module.{k}": v for k, v in weights().items()}},
            None,
            0.0,
        ),
        ({f"_orig_mod.module.{k}": v for k, v in weights().items()}, 0.0, None),
    ],
    ids=[
        "bare",
        "wrapped",
        "with average",
        "average alone",
        "module",
        "averaged model",
        "compiled",
    ],
)
def test_weights_are_found_wherever_scripts_put_them(content, raw, averaged, tmp_path):
    found = torch_files._weights(content, tmp_path)
    for offset, got in ((raw, found.raw), (averaged, found.averaged)):
        if offset is None:
            assert got is None
        else:
            assert got.keys() == weights().keys()
            np.testing.assert_array_equal(got["conv1.weight"], weights(offset)["conv1.weight"])
    best = averaged if averaged is not None else raw
    np.testing.assert_array_equal(found.best["conv1.weight"], weights(best)["conv1.weight"])


@pytest.mark.parametrize(
    "content", [{}, [], {"state_dict": {"a": 3}}, {"epoch": 1}, {"n_averaged": np.array(2)}]
)
def test_what_holds_no_weights_is_refused(content, tmp_path):
    with pytest.raises(UserError, match=r"expected weights in .* found .*; save") as error:
        torch_files._weights(content, tmp_path / "x.pth")
    assert "\n" not in str(error.value)


def test_broken_files_are_one_line(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"found no .*a\.safetensors"):
        torch_files.read(path)
    save_file(weights(), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="safetensors that cannot be read") as error:
        torch_files.read(path)
    assert "\n" not in str(error.value)


def test_without_torch_a_pickle_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04 and more")
    with pytest.raises(UserError, match=r"expected torch .* pip install torch, or .* safetensors"):
        torch_files.read(tmp_path / "a.pth")


class _Evil:
    def __reduce__(self):
        return print, ("this is run",)


def test_pickles_with_torch(tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensors = {k: torch.tensor(v) for k, v in weights().items()}
    torch.save({"state_dict": tensors}, tmp_path / "a.pth.tar")
    found = torch_files.read(tmp_path / "a.pth.tar")
    np.testing.assert_array_equal(found.best["conv1.weight"], weights()["conv1.weight"])
    torch.save({"state_dict": tensors, "x": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"found builtins\.print"):
        torch_files.read(tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match=r"expected a checkpoint|found no checkpoint"):
        torch_files.read(tmp_path / "text.pth")
