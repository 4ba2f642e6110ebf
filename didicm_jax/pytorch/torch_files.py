"""Files of PyTorch: which tensors they hold. Pickles may hold nothing but tensors and plain values.

`.pth`, `.pth.tar`, `.pt` and `.bin` are read by torch, weights only; safetensors without it.
"""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from didicm_jax.errors import UserError

# Where training scripts put the weights, and their moving average.
_RAW = ("state_dict", "model", "model_state_dict", "net", "params")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
# What wrappers around a network put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")  # the last is Lightning's
_COUNTER = "n_averaged"  # of torch's AveragedModel


class Weights(NamedTuple):
    """State dicts: PyTorch names to arrays in PyTorch's layout, floats as float32."""

    raw: dict[str, np.ndarray] | None
    averaged: dict[str, np.ndarray] | None  # the moving average, if the file has one

    @property
    def best(self) -> dict[str, np.ndarray]:
        """The average where there is one."""
        found = self.raw if self.averaged is None else self.averaged
        assert found is not None
        return found


def read(path: Path) -> Weights:
    """The weights in a file.

    Raises:
      UserError: it is not there, no checkpoint, or holds other objects than tensors and plain
        values; or it needs torch and that is not installed.
    """
    if not path.is_file():
        raise UserError(
            f"expected a file of weights, found no {path}; check the path", about="weights"
        )
    if _is_safetensors(path):
        return _weights(_read_safetensors(path), path)
    return _weights(_read_pickle(path), path)


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins as the format does: a length of 8 bytes, and that much JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{")


def _read_safetensors(path: Path) -> dict[str, Any]:
    import ml_dtypes  # noqa: F401  bfloat16 for NumPy
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise UserError(
            f"expected a checkpoint in {path}, found safetensors that cannot be read "
            f"({_line(error)}); copy or save it again",
            about="weights",
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"expected torch to read {path.name}, found none ({_line(error)}); install it "
            "with pip install torch, or save the weights as safetensors",
            about="weights",
        ) from error
    try:
        # timm's checkpoints hold the arguments of their training: names and plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"expected tensors and plain values in {path}, found {_others(path)}; save "
            "its state_dict alone",
            about="weights",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"expected a checkpoint in {path}, found what torch cannot read "
            f"({_line(error)}); copy or save it again",
            about="weights",
        ) from error


def _others(path: Path) -> str:
    """The objects in a pickle that are not read, by name; nothing of it is executed."""
    import torch

    try:
        return ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # whatever torch may raise of what it did not write
        return "no checkpoint"


def _weights(content: Any, path: Path) -> Weights:
    """Finds the state dicts in what a file holds."""
    if _is_state_dict(content):
        return Weights(_clean(content), None)
    if isinstance(content, Mapping):
        raw = _first(content, _RAW)
        averaged = _first(content, _AVERAGED)
        if raw is not None or averaged is not None:
            return Weights(raw, averaged)
    what = (
        f"a dictionary of {', '.join(map(str, list(content)[:8]))}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    raise UserError(
        f"expected weights in {path}, bare or under {', '.join((*_RAW, *_AVERAGED))}, "
        f"found {what or 'nothing'}; save model.state_dict()",
        about="weights",
    )


def _first(content: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    for key in keys:
        found = content.get(key)
        if _is_state_dict(found):
            return _clean(found)
    return None


def _is_state_dict(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return (
        isinstance(value, Mapping)
        and any(name != _COUNTER for name in value)
        and all(isinstance(name, str) and hasattr(x, "shape") for name, x in value.items())
    )


def _clean(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Without the prefixes of wrappers, as NumPy arrays."""
    found = {name: value for name, value in state_dict.items() if name != _COUNTER}
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return {name: _array(value) for name, value in found.items()}


def _array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        half = value.dtype.kind not in "fiub" or value.dtype == np.float16
        return value.astype(np.float32) if half else value
    if value.is_floating_point():
        value = value.float()  # NumPy knows no bfloat16
    return value.detach().numpy()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
