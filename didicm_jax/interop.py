"""Weights to and from PyTorch: the original's DiDiRN, and timm's and torchvision's ResNets.

One mapping serves both directions. The path of a tensor, e.g. `layer2/0/skip/conv/kernel`, is
renamed module by module (`layer2.0.downsample.0`), and its leaf and layout by the kind of the layer
(`weight`, HWIO to OIHW). A new family adds a row to `_FAMILIES`; a layer of a kind not yet
used adds one to `_LEAVES`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from didicm_jax import models
from didicm_jax.errors import UserError


class Leaf(NamedTuple):
    """A tensor of a layer in PyTorch: its name, and the axes that bring ours into its order."""

    name: str
    axes: tuple[int, ...] | None = None


_NORM = {
    "scale": Leaf("weight"),
    "bias": Leaf("bias"),
    "mean": Leaf("running_mean"),
    "var": Leaf("running_var"),
}

# By kind of layer: our leaves, and theirs.
_LEAVES: dict[type[nnx.Module], dict[str, Leaf]] = {
    nnx.Conv: {"kernel": Leaf("weight", (3, 2, 0, 1)), "bias": Leaf("bias")},
    nnx.Linear: {"kernel": Leaf("weight", (1, 0)), "bias": Leaf("bias")},
    nnx.Embed: {"embedding": Leaf("weight")},
    nnx.BatchNorm: _NORM,
    nnx.GroupNorm: _NORM,
    nnx.LayerNorm: _NORM,
}


class Family(NamedTuple):
    """How a class of models names its modules in PyTorch.

    modules: parts of our module paths and what they are called there, applied in turn to whole
      path segments; what is not listed keeps its name.
    aliases: other names, part of a PyTorch name to what `modules` makes of it.
    """

    model: type[nnx.Module]
    modules: Mapping[str, str]
    aliases: Mapping[str, str]


_FAMILIES = (
    Family(
        models.DiDiRN,
        modules={
            "skip/conv": "skip_connection.0",
            "skip/norm": "skip_connection.1",
            "condition": "emb_layers.1",
            "group_norm": "out_layers.0",
            "embedding/time_in": "ff_emb.mlp.0",
            "embedding/time_out": "ff_emb.mlp.2",
            "embedding/label": "label_embedder",
        },
        aliases={},
    ),
    Family(
        models.ResNet,
        modules={"skip/conv": "downsample.0", "skip/norm": "downsample.1"},
        aliases={"skip_connection": "downsample"},
    ),
)

# PyTorch counts the batches that a BatchNorm has seen; nothing here or there computes with it.
_IGNORED = "num_batches_tracked"


class Entry(NamedTuple):
    """A tensor of a model and its PyTorch layout."""

    variable: nnx.Variable[Any]
    axes: tuple[int, ...] | None

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in PyTorch."""
        shape = self.variable.get_value().shape
        return shape if self.axes is None else tuple(shape[axis] for axis in self.axes)


def load_torch_state_dict(model: nnx.Module, state_dict: Mapping[str, Any]) -> None:
    """Loads PyTorch weights into a model, in place.

    Args:
      model: a model of `didicm_jax.models`, or the abstract one of `nnx.eval_shape`.
      state_dict: PyTorch names to arrays (NumPy, or what `np.asarray` takes: a CPU tensor), in
        PyTorch's layout (convolutions OIHW, linear layers [out, in]). `num_batches_tracked` is
        ignored. Plain ResNets take `downsample` as well as `skip_connection`.

    Raises:
      UserError: in one line all tensors that are missing, not known or misshaped; the model is
        left as it was.
    """
    entries = _entries(model)
    given = _canonical_names(model, state_dict)
    missing = [name for name in entries if name not in given]
    surplus = [name for name in given if name not in entries]
    arrays = {name: np.asarray(given[name]) for name in entries if name in given}
    misshaped = [
        f"{name} {array.shape} for {entries[name].torch_shape}"
        for name, array in arrays.items()
        if array.shape != entries[name].torch_shape
    ]
    odd = [name for name, array in arrays.items() if array.dtype.kind not in "fiu"]
    kinds = {
        "missing": missing,
        "not known": surplus,
        "misshaped": misshaped,
        "not numbers": odd,
    }
    faults = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise UserError(
            f"expected a state dict with the {len(entries)} tensors of this "
            f"{type(model).__name__}, found {'; '.join(faults)}: check the depth, stem, width and "
            "number of classes that it was saved from"
        )
    # Converted before the first is stored, so that a failure on the way changes nothing.
    values = {name: _from_torch(array, entries[name]) for name, array in arrays.items()}
    for name, value in values.items():
        entries[name].variable.set_value(value)


def to_torch_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """The weights of a model under PyTorch's names and in its layout: the inverse of loading.

    Args:
      model: a model of `didicm_jax.models`.

    Returns:
      Writable NumPy arrays, ready for `torch.from_numpy`; plain ResNets have torchvision's names.
    """
    return {name: _to_torch(entry) for name, entry in _entries(model).items()}


def _from_torch(array: np.ndarray, entry: Entry) -> jnp.ndarray:
    dtype = entry.variable.get_value().dtype
    if entry.axes is not None:
        array = array.transpose(np.argsort(entry.axes))
    # A copy: on a CPU, jax could otherwise go on reading the caller's memory.
    return jnp.array(array, dtype, copy=True)


def _to_torch(entry: Entry) -> np.ndarray:
    array = np.asarray(entry.variable.get_value())
    return np.array(array if entry.axes is None else array.transpose(entry.axes), order="C")


def _family(model: nnx.Module) -> Family:
    for family in _FAMILIES:
        if isinstance(model, family.model):
            return family
    known = ", ".join(family.model.__name__ for family in _FAMILIES)
    raise UserError(
        f"expected a model with a PyTorch counterpart ({known}), found {type(model).__name__}: "
        "add its names to didicm_jax/interop.py"
    )


def _entries(model: nnx.Module) -> dict[str, Entry]:
    """Every tensor of the model, by its PyTorch name."""
    family = _family(model)
    entries = {}
    for path, module in nnx.iter_modules(model):
        leaves = next((_LEAVES[kind] for kind in _LEAVES if isinstance(module, kind)), {})
        for own_name, variable in vars(module).items():
            if isinstance(variable, nnx.Variable):
                # A parameter that belongs to no layer, such as a class token, keeps its name.
                leaf = leaves.get(own_name, Leaf(own_name))
                parts = [*_torch_module(path, family), leaf.name]
                entries[".".join(parts)] = Entry(variable, leaf.axes)
    return entries


def _torch_module(path: tuple[Any, ...], family: Family) -> list[str]:
    """The PyTorch name of a module, as a list of parts."""
    # Slashes at both ends, so that only whole segments match.
    name = "".join(f"/{part}" for part in path) + "/"
    for ours, theirs in family.modules.items():
        name = name.replace(f"/{ours}/", f"/{theirs}/")
    return [part for part in name.split("/") if part]


def _canonical_names(model: nnx.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict without counters, aliases resolved; an alias of a name also given stays."""
    aliases = _family(model).aliases
    result = {}
    for name, value in state_dict.items():
        parts = name.split(".")
        if parts[-1] == _IGNORED:
            continue
        canonical = ".".join(aliases.get(part, part) for part in parts)
        result[name if canonical in state_dict else canonical] = value
    return result
