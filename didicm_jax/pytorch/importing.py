"""From a PyTorch state dict to the network that it is of, and to a run that holds it."""

import contextlib
import json
import re
import shutil
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
from didicm_jax.inference import trained
from didicm_jax.pytorch import interop
from didicm_jax.run import description
from didicm_jax.run.checkpoints import Checkpoints
from didicm_jax.run.description import Description
from didicm_jax.training import state

# Blocks of the four stages, and whether they are bottlenecks.
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
_BASE_CHANNELS = 64


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
    depth = _DEPTHS.get((tuple(blocks), bottleneck))
    if depth is None or "conv1.weight" not in state_dict or "fc.weight" not in state_dict:
        raise UserError(
            "--torch: expected the weights of a DiDiRN or ResNet of 18, 34, 50, 101 or 152 layers, "
            f"found stages of {', '.join(map(str, blocks))} blocks and tensors such as "
            f"{', '.join(list(state_dict)[:4])}; name the network with --config"
        )
    channels, in_channels, size = state_dict["conv1.weight"].shape[:3]
    conditioned = [
        stage
        for stage in (1, 2, 3, 4)
        if any(n.startswith(f"layer{stage}.") and ".emb_layers." in n for n in state_dict)
    ]
    scores = any(name.startswith("label_embedder.") for name in state_dict)
    settings = {
        "name": f"{'didirn' if scores else 'resnet'}{depth}",
        "width": channels / _BASE_CHANNELS,
        # A 3x3 stem pools in the original and does not in CIFAR's; the tensors do not tell.
        "stem": "imagenet" if size == 7 else "didirn",
    }
    if scores:
        settings["conditioned_stages"] = len(conditioned)
    num_classes = len(state_dict["fc.weight"])
    return Architecture(settings["name"], num_classes, in_channels, settings)


class Loaded(NamedTuple):
    """What became of the tensors of a file."""

    variables: state.Variables
    averaged: state.Variables | None
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

    Into a DiDiRN from a plain ResNet only the trunk is loaded.

    Args:
      config: of the run.
      described: its classes and images.
      raw: the state dict.
      averaged: its moving average, if the run keeps one.

    Raises:
      UserError: tensors are missing, surplus or misshaped; all are named.
    """
    model = build.model(config, described, nnx.Rngs(config.seed))
    theirs = any(name.startswith("label_embedder.") for name in raw)
    if config.method == "didicm" and not theirs:
        loaded, fresh, unused = interop.load_torch_trunk(model, raw)
        _, variables = state.split(model)
        return Loaded(variables, None, loaded, fresh, unused)
    interop.load_torch_state_dict(model, raw)
    _, variables = state.split(model)
    variables = jax.tree.map(np.asarray, variables)
    mean = None
    if averaged is not None:
        interop.load_torch_state_dict(model, averaged)
        _, mean = state.split(model)
    return Loaded(variables, mean, list(raw), [], [])


def write(
    workdir: Path,
    config: ml_collections.ConfigDict,
    described: Description,
    loaded: Loaded,
) -> None:
    """Makes a run that stands at step 0 with these weights: evaluated, predicted with, or trained.

    The folder is there as a whole or not at all.

    Raises:
      UserError: there is something in the folder.
    """
    check_free(workdir)
    partial = workdir.with_name(workdir.name + ".partial")
    partial.mkdir(parents=True)
    try:
        files.write_json(partial / "config.json", json.loads(config.to_json()))
        description.write(partial, described)
        new = trained.create_state(config, loaded.variables)
        if new.ema is not None and loaded.averaged is not None:
            new = new._replace(ema=loaded.averaged)
        with contextlib.closing(Checkpoints(partial)) as checkpoints:
            checkpoints.save(0, new)
            checkpoints.finish()
    except BaseException:
        shutil.rmtree(partial)
        raise
    if workdir.exists():
        workdir.rmdir()  # empty, as was checked
    partial.rename(workdir)


def check_free(workdir: Path) -> None:
    """Refuses a folder that holds something.

    Raises:
      UserError: it does, or its unfinished twin is there.
    """
    partial = workdir.with_name(workdir.name + ".partial")
    for path in (workdir, partial):
        if path.exists() and (not path.is_dir() or any(path.iterdir()) or path == partial):
            raise UserError(
                f"--workdir: expected a new folder, found something in {path}; name another or "
                "remove it"
            )
