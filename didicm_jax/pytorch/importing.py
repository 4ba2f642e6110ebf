"""From a PyTorch state dict to the network that it is of, and to a run that holds it."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import nnx

from didicm_jax import files
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.models.resnet import DEPTHS
from didicm_jax.models.resnet_options import BASE_CHANNELS
from didicm_jax.models.variables import Variables, split
from didicm_jax.pytorch import interop, parts
from didicm_jax.run import Description, RunFolder
from didicm_jax.run.checkpoints import Checkpoints
from didicm_jax.training import optimizers, state

# By the blocks of the four stages and whether they are bottlenecks, which is what tensors tell.
_NUMBERS: dict[tuple[tuple[int, ...], bool], str] = {
    depth: number for number, depth in DEPTHS.items()
}


class Architecture(NamedTuple):
    """What the tensors of a ResNet or DiDiRN say about it."""

    name: str  # of `models.create_model`
    num_classes: int
    in_channels: int
    settings: dict[str, Any]  # of `config.model`


def architecture(state_dict: Mapping[str, np.ndarray]) -> Architecture:
    """The network that a state dict is of.

    Raises:
      UserError: it is no ResNet or DiDiRN of a known depth.
    """
    blocks = [
        len({m[1] for name in state_dict if (m := re.match(rf"layer{stage}\.(\d+)\.", name))})
        for stage in (1, 2, 3, 4)
    ]
    bottleneck = any(".conv3." in name for name in state_dict)
    number = _NUMBERS.get((tuple(blocks), bottleneck))
    if number is None or "conv1.weight" not in state_dict or "fc.weight" not in state_dict:
        *others, deepest = DEPTHS
        raise UserError(
            f"expected the weights of a DiDiRN or ResNet of {', '.join(others)} or {deepest} "
            f"layers, found stages of {', '.join(map(str, blocks))} blocks and tensors such as "
            f"{', '.join(list(state_dict)[:4])}; name the network in a config",
            about="weights",
        )
    channels, _, size, _ = _shape(state_dict, "conv1.weight", 4)
    conditioned = [
        stage
        for stage in (1, 2, 3, 4)
        if any(n.startswith(f"layer{stage}.") and ".emb_layers." in n for n in state_dict)
    ]
    scores = any(name.startswith("label_embedder.") for name in state_dict)
    settings: dict[str, Any] = {
        "name": f"{'didirn' if scores else 'resnet'}{number}",
        "width": channels / BASE_CHANNELS,
        # A 3x3 stem pools in the original and does not in CIFAR's; the tensors do not tell.
        "stem": "imagenet" if size == 7 else "didirn",
    }
    if scores:
        settings["conditioned_stages"] = len(conditioned)
    return Architecture(
        settings["name"], num_classes(state_dict), in_channels(state_dict), settings
    )


def is_trunk(config: ml_collections.ConfigDict, state_dict: Mapping[str, np.ndarray]) -> bool:
    """Whether a plain ResNet's weights are for a diffusion, which takes their trunk alone."""
    scores = any(name.startswith("label_embedder.") for name in state_dict)
    return config.method == "didicm" and not scores


def num_classes(state_dict: Mapping[str, np.ndarray]) -> int:
    """The number of classes of the network that a state dict is of.

    Raises:
      UserError: it has no layer of classes.
    """
    return _shape(state_dict, _one_of(state_dict, "a layer of classes", "fc", "head"), 2)[0]


def in_channels(state_dict: Mapping[str, np.ndarray]) -> int:
    """The number of channels of the images that the network takes.

    Raises:
      UserError: it has no first convolution.
    """
    name = _one_of(state_dict, "a first convolution", "conv1", "patch_embed.proj")
    return _shape(state_dict, name, 4)[1]


def _one_of(state_dict: Mapping[str, np.ndarray], what: str, *layers: str) -> str:
    for layer in layers:
        if f"{layer}.weight" in state_dict:
            return f"{layer}.weight"
    raise UserError(
        f"expected {what}, {' or '.join(layers)}, found "
        f"{', '.join(list(state_dict)[:4])}, ...; use the weights of a whole ResNet, DiDiRN or ViT",
        about="weights",
    )


def _shape(state_dict: Mapping[str, np.ndarray], name: str, rank: int) -> tuple[int, ...]:
    shape = state_dict[name].shape
    if len(shape) != rank:
        raise UserError(
            f"expected {name} to have {rank} axes, found {len(shape)}; use the weights of "
            "a whole ResNet, DiDiRN or ViT",
            about="weights",
        )
    return shape


class Loaded(NamedTuple):
    """What became of the tensors of a file."""

    variables: Variables
    averaged: Variables | None
    loaded: list[str]
    fresh: list[str]  # of the network, left as they were initialised
    unused: list[str]  # of the file


def load(
    config: ml_collections.ConfigDict,
    described: Description,
    raw: Mapping[str, np.ndarray],
    averaged: Mapping[str, np.ndarray] | None,
) -> Loaded:
    """The network of a config with the weights of a file.

    Into a DiDiRN from a plain ResNet only the trunk is loaded, and into a network of other classes
    all but the layers of classes.

    Args:
      config: of the run.
      described: its classes and images.
      raw: the state dict.
      averaged: its moving average, if the run keeps one.

    Raises:
      UserError: tensors are missing, surplus or misshaped; all are named.
    """
    model = build.model(config, described, nnx.Rngs(config.seed))

    def put(weights: Mapping[str, np.ndarray]) -> tuple[Variables, parts.Part]:
        if is_trunk(config, weights):
            part = parts.load_torch_trunk(model, weights)
        elif num_classes(weights) != described.num_classes:
            part = parts.load_torch_body(model, weights)
        else:
            interop.load_torch_state_dict(model, weights)
            part = parts.Part(list(weights), [], [])
        return jax.tree.map(np.asarray, split(model)[1]), part

    variables, part = put(raw)
    mean = None if averaged is None or is_trunk(config, raw) else put(averaged)[0]
    return Loaded(variables, mean, *part)


def write(
    workdir: Path,
    config: ml_collections.ConfigDict,
    described: Description,
    variables: Variables,
    averaged: Variables | None = None,
) -> None:
    """Makes a run that stands at step 0 with these weights: evaluated, predicted with, or trained.

    The folder is there as a whole or not at all.

    Raises:
      UserError: there is something in the folder.
    """
    with files.new_folder(workdir, about="run folder") as partial:
        RunFolder.claim(partial, config, described)
        # The rate does not matter, only that it is a schedule, which counts its calls in the state.
        optimizer = optimizers.create(config.optimizer, lambda count: 0.0)
        new = state.create(variables, optimizer, ema=config.train.ema_decay > 0)
        if new.ema is not None and averaged is not None:
            new = new._replace(ema=averaged)
        # No training goes on, as it would say of a save that fails: `finish` says it.
        with contextlib.closing(Checkpoints(partial, say=lambda words: None)) as checkpoints:
            checkpoints.save(0, new)
            checkpoints.finish()
