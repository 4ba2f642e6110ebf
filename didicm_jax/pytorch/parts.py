"""Parts of PyTorch's weights: what a network can take of one that differs from it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx

from didicm_jax.pytorch import interop


class Part(NamedTuple):
    """What became of tensors of which a model takes a part, by their PyTorch names."""

    loaded: list[str]
    fresh: list[str]  # of the model, left as they were
    unused: list[str]  # of those given


def load_torch_trunk(model: nnx.Module, state_dict: Mapping[str, Any]) -> Part:
    """Loads the trunk of a DiDiRN from a plain ResNet of torchvision or timm, in place.

    Args:
      model: a DiDiRN, whose conditioning and head stay as they are.
      state_dict: as for `load_torch_state_dict`.

    Raises:
      UserError: tensors of the trunk are missing, surplus or misshaped; the model is left as it
        was.
    """
    given = {
        ".".join({"downsample": "skip_connection"}.get(part, part) for part in name.split(".")): x
        for name, x in state_dict.items()
        if name.rpartition(".")[2] != interop.IGNORED
    }
    return _load_part(model, given, _is_trunk, lambda name: name.startswith("fc."))


def load_torch_body(model: nnx.Module, state_dict: Mapping[str, Any]) -> Part:
    """Loads all but the layers of classes, in place: for a model of other classes.

    Args:
      model: as for `load_torch_state_dict`; its last layer, and its embedding of labels, stay as
        they are.
      state_dict: of a model that differs from it in the classes alone.

    Raises:
      UserError: other tensors are missing, surplus or misshaped; the model is left as it was.
    """
    given = interop.canonical_names(model, state_dict)
    return _load_part(model, given, lambda name: not _is_of_classes(name), _is_of_classes)


def _load_part(
    model: nnx.Module,
    given: Mapping[str, Any],
    wanted: Callable[[str], bool],
    unused: Callable[[str], bool],
) -> Part:
    """Loads the tensors of a model that are `wanted` from those given that are not `unused`."""
    entries = interop.entries_of(model)
    part = {name: entry for name, entry in entries.items() if wanted(name)}
    rest = {name: x for name, x in given.items() if not unused(name)}
    interop.refuse_faults(model, part, interop.family_of(model).constants(model), rest)
    interop.store(part, rest)
    return Part(
        list(part),
        [name for name in entries if name not in part],
        [name for name in given if name not in rest],
    )


def _is_of_classes(name: str) -> bool:
    """Whether a tensor has the number of classes among its sizes."""
    # The layers themselves: of a DiDiRN the modules in `head` know nothing of classes.
    return name.rpartition(".")[0] in ("fc", "head", "label_embedder")


def _is_trunk(name: str) -> bool:
    """Whether a tensor of a DiDiRN has its like in a plain ResNet."""
    parts = name.split(".")
    root = parts[0] in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    return root and not {"emb_layers", "out_layers"} & set(parts)
