"""Weights to and from PyTorch: the original DiDiRN, timm ResNets and ViTs, torchvision ResNets.

One mapping serves both directions. The path of a tensor, e.g. `layer2/0/skip/conv/kernel`, is
renamed module by module (`layer2.0.downsample.0`), and its leaf and layout by the kind of the layer
(`weight`, HWIO to OIHW). A new family adds a row to `_FAMILIES`; a layer of a kind not yet
used adds one to `_LEAVES`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from didicm_jax import models
from didicm_jax.errors import UserError


class Leaf(NamedTuple):
    """A tensor of a layer in PyTorch.

    axes: of ours, in PyTorch's order.
    lead: how many axes of length 1 it has there before ours.
    """

    name: str
    axes: tuple[int, ...] | None = None
    lead: int = 0


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
    models.ViT: {"cls_token": Leaf("cls_token", lead=2)},
}


def _no_constants(model: Any) -> dict[str, np.ndarray]:
    return {}


def _vit_positions(model: models.ViT) -> dict[str, np.ndarray]:
    return {"pos_embed": np.asarray(model.positions(*model.grid))[None]}


class Family(NamedTuple):
    """How a class of models names its modules in PyTorch.

    modules: parts of our module paths and what they are called there, applied in turn to whole
      path segments; what is not listed keeps its name.
    aliases: other names, part of a PyTorch name to what `modules` makes of it.
    constants: the tensors that are parameters there and are fixed here, by their PyTorch names.
    """

    model: type[nnx.Module]
    modules: Mapping[str, str]
    aliases: Mapping[str, str]
    constants: Callable[[Any], dict[str, np.ndarray]] = _no_constants


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
    # With average pooling: timm's with global_pool="avg", class_token=False and fc_norm=False.
    Family(models.ViT, modules={"fc": "head"}, aliases={}, constants=_vit_positions),
)

# PyTorch counts the batches that a BatchNorm has seen; nothing here or there computes with it.
IGNORED = "num_batches_tracked"


class Entry(NamedTuple):
    """A tensor of a model and what it is in PyTorch."""

    variable: nnx.Variable[Any]
    leaf: Leaf

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in PyTorch."""
        shape = self.variable.get_value().shape
        axes = range(len(shape)) if self.leaf.axes is None else self.leaf.axes
        return (1,) * self.leaf.lead + tuple(shape[axis] for axis in axes)


def load_torch_state_dict(model: nnx.Module, state_dict: Mapping[str, Any]) -> None:
    """Loads PyTorch weights into a model, in place.

    Args:
      model: a model of `didicm_jax.models`, or the abstract one of `nnx.eval_shape`.
      state_dict: PyTorch names to arrays (NumPy, or what `np.asarray` takes: a CPU tensor), in
        PyTorch's layout (convolutions OIHW, linear layers [out, in]). `num_batches_tracked` is
        ignored. Plain ResNets take `downsample` as well as `skip_connection`. The `pos_embed` of a
        ViT must hold the fixed positions of the grid that the model was made for.

    Raises:
      UserError: in one line all tensors that are missing, not known, misshaped or other than what
        is fixed here; the model is left as it was.
    """
    entries = entries_of(model)
    constants = family_of(model).constants(model)
    given = canonical_names(model, state_dict)
    refuse_faults(model, entries, constants, given)
    store(entries, given)


def refuse_faults(
    model: nnx.Module,
    entries: Mapping[str, Entry],
    constants: Mapping[str, np.ndarray],
    given: Mapping[str, Any],
) -> None:
    """Compares the tensors that are given with those that are wanted.

    Raises:
      UserError: they are others.
    """
    missing = [name for name in (*entries, *constants) if name not in given]
    surplus = [name for name in given if name not in entries and name not in constants]
    arrays = {name: np.asarray(given[name]) for name in entries if name in given}
    misshaped = [
        f"{name} {array.shape} for {entries[name].torch_shape}"
        for name, array in arrays.items()
        if array.shape != entries[name].torch_shape
    ]
    odd = [name for name, array in arrays.items() if not _holds_numbers(array)]
    # Weights that were trained with other values there would compute something else here. Half
    # precision, which some save in, is let through.
    other = [
        name
        for name, fixed in constants.items()
        if name in given and not _close(np.asarray(given[name]), fixed)
    ]
    kinds = {
        "missing": missing,
        "not known": surplus,
        "misshaped": misshaped,
        "not numbers": odd,
        "not the fixed values of this model": other,
    }
    faults = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise UserError(
            f"expected a state dict with the {len(entries) + len(constants)} tensors of this "
            f"{type(model).__name__}, found {'; '.join(faults)}: check the depth, stem, width and "
            "number of classes that it was saved from"
        )


def store(entries: Mapping[str, Entry], given: Mapping[str, Any]) -> None:
    """Puts tensors into their model; all are converted, or none is stored."""
    # Converted before the first is stored, so that a failure on the way changes nothing.
    values = {name: _from_torch(np.asarray(given[name]), entries[name]) for name in entries}
    for name, value in values.items():
        entries[name].variable.set_value(value)


def to_torch_state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    """The weights of a model under PyTorch's names and in its layout: the inverse of loading.

    Args:
      model: a model of `didicm_jax.models`.

    Returns:
      Writable NumPy arrays, ready for `torch.from_numpy`; plain ResNets have torchvision's names,
      and the fixed positions of a ViT are its `pos_embed`.
    """
    tensors = {name: _to_torch(entry) for name, entry in entries_of(model).items()}
    constants = family_of(model).constants(model)
    return tensors | {name: np.array(fixed) for name, fixed in constants.items()}


def _holds_numbers(array: np.ndarray) -> bool:
    kinds = jnp.floating, jnp.integer  # of these bfloat16 is one, which is none of NumPy's
    return any(jnp.issubdtype(array.dtype, kind) for kind in kinds)


def _close(array: np.ndarray, fixed: np.ndarray) -> bool:
    numbers = _holds_numbers(array) and array.shape == fixed.shape
    # bfloat16 is off by 2^-9 at most.
    return numbers and np.allclose(array.astype(np.float32), fixed, rtol=0, atol=2e-3)


def _from_torch(array: np.ndarray, entry: Entry) -> jnp.ndarray:
    dtype = entry.variable.get_value().dtype
    array = array.reshape(array.shape[entry.leaf.lead :])
    if entry.leaf.axes is not None:
        array = array.transpose(np.argsort(entry.leaf.axes))
    # A copy: on a CPU, jax could otherwise go on reading the caller's memory.
    return jnp.array(array, dtype, copy=True)


def _to_torch(entry: Entry) -> np.ndarray:
    array = np.asarray(entry.variable.get_value())
    array = array if entry.leaf.axes is None else array.transpose(entry.leaf.axes)
    return np.array(array, order="C").reshape(entry.torch_shape)


def family_of(model: nnx.Module) -> Family:
    """How the class of a model names its modules in PyTorch.

    Raises:
      UserError: it has no counterpart there.
    """
    for family in _FAMILIES:
        if isinstance(model, family.model):
            return family
    known = ", ".join(family.model.__name__ for family in _FAMILIES)
    raise UserError(
        f"expected a model with a PyTorch counterpart ({known}), found {type(model).__name__}: "
        "add its names to didicm_jax/pytorch/interop.py"
    )


def entries_of(model: nnx.Module) -> dict[str, Entry]:
    """Every tensor of the model, by its PyTorch name."""
    family = family_of(model)
    entries = {}
    for path, module in nnx.iter_modules(model):
        leaves = next((_LEAVES[kind] for kind in _LEAVES if isinstance(module, kind)), {})
        for own_name, variable in vars(module).items():
            if isinstance(variable, nnx.Variable):
                # A parameter that belongs to no layer keeps its name.
                leaf = leaves.get(own_name, Leaf(own_name))
                parts = [*_torch_module(path, family), leaf.name]
                entries[".".join(parts)] = Entry(variable, leaf)
    return entries


def _torch_module(path: tuple[Any, ...], family: Family) -> list[str]:
    """The PyTorch name of a module, as a list of parts."""
    # Slashes at both ends, so that only whole segments match.
    name = "".join(f"/{part}" for part in path) + "/"
    for ours, theirs in family.modules.items():
        name = name.replace(f"/{ours}/", f"/{theirs}/")
    return [part for part in name.split("/") if part]


def canonical_names(model: nnx.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict without counters, aliases resolved; an alias of a name also given stays."""
    aliases = family_of(model).aliases
    result = {}
    for name, value in state_dict.items():
        parts = name.split(".")
        if parts[-1] == IGNORED:
            continue
        canonical = ".".join(aliases.get(part, part) for part in parts)
        result[name if canonical in state_dict else canonical] = value
    return result
