"""The weights of a trained network as those that a run starts from: which fit, which stay fresh."""

import contextlib
import copy
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from didicm_jax import bucket, files, parallel
from didicm_jax import config as configuration
from didicm_jax.config import build
from didicm_jax.config.table import BY_KEY
from didicm_jax.errors import UserError
from didicm_jax.inference import network
from didicm_jax.models.variables import Variables, split
from didicm_jax.run import Description, Places, RunFolder, arrays, bundle

_SETTING = "config.model.init_from"
# Settings of the network that leave its arrays, and what they stand for, as they are.
_FREE = (
    *("model.init_from", "model.dtype", "model.sync_batch_norm"),
    *("model.attention", "model.init"),
)
_GROUPS = "model.group_elements"
_NAMED = 8  # at most so many layers are named in a line


class Initial(NamedTuple):
    """The weights to start from.

    variables: f32 host arrays, None in place of those that are initialised afresh.
    words: where they are from and which stay fresh, for people.
    """

    variables: Variables
    words: str


def read(
    config: ml_collections.ConfigDict, described: Description, abstract: Variables, mesh: Mesh
) -> Initial:
    """Reads the network that `config.model.init_from` names, on all processes or none.

    Args:
      config: of the new network.
      described: its classes and images.
      abstract: its arrays, or their shapes.
      mesh: all devices.

    Raises:
      UserError: there is none, `match` refuses it, or processes find different ones.
    """
    source = config.model.init_from
    # First what no process waits for another in: one that finds nothing must not be waited for.
    with _together():
        place = _find(source)
    with _together():
        found = _load(place, mesh)
    with _together():
        matched = match(config, described, abstract, found)
    digest = hashlib.blake2b(digest_size=8)
    for array in jax.tree.leaves(matched.variables):
        digest.update(array.tobytes())
    if len(set(parallel.gather(np.frombuffer(digest.digest(), np.uint64)).tolist())) > 1:
        raise UserError(
            f"expected one network on all processes, found several of the name {source}; copy one "
            "of them to where all can read it",
            about=_SETTING,
        )
    return matched


def match(
    config: ml_collections.ConfigDict,
    described: Description,
    abstract: Variables,
    source: bundle.Bundle,
) -> Initial:
    """Takes of a trained network what agrees with a new one in name and shape: all, but for

      - what depends on the classes, where these are others, in number or in name;
      - what a score model has beside the trunk of a classifier, and the classifier's last layer.

    Args:
      config: of the new network.
      described: its classes and images.
      abstract: its arrays, or their shapes.
      source: the trained one.

    Raises:
      UserError: they differ in anything else.
    """
    into_scores = config.method == "didicm" != source.config.method
    _check_settings(config, described, source, into_scores)
    given = dict(
        zip(arrays.shapes(source.variables), jax.tree.leaves(source.variables), strict=True)
    )
    wanted = arrays.shapes(abstract)
    fresh: set[str] = set()
    if into_scores or described.class_names != source.description.class_names:
        fresh = _of_classes(config, described, wanted)
    if into_scores:
        # By kind: what a deeper network has more of is not what a score model has more of.
        kinds = set(map(_kind, given))
        fresh |= {name for name in wanted if _kind(name) not in kinds}
    arrays.compare(
        source.path,
        {name: x.shape for name, x in given.items() if name not in fresh},
        {name: shape for name, shape in wanted.items() if name not in fresh},
        advice="use one of the same trunk, of a ViT with config.model.conditioned_blocks=0"
        if into_scores
        else "use its own config",
    )
    words = f"{len(wanted) - len(fresh)} arrays of {config.model.init_from}, step {source.step}"
    if fresh:
        why = "which see label and noise" if into_scores else "because the classes differ"
        words += f"; fresh: {_layers(name for name in wanted if name in fresh)}, {why}"
    if not into_scores:
        words += _regrouped(config, described, source)
    taken = [None if name in fresh else given[name] for name in wanted]
    return Initial(jax.tree.unflatten(jax.tree.structure(abstract), taken), words)


def _find(source: str) -> RunFolder | bundle.Bundle:
    local = Path(os.path.expanduser(source))  # hf://user/name, too, which then is no folder
    path = files.place(source, _SETTING) if bucket.holds(source) else local
    if source in bundle.names() or not path.is_dir() or Places(path).is_bundle:
        return bundle.find(source)
    return RunFolder.open(path)


def _load(place: RunFolder | bundle.Bundle, mesh: Mesh) -> bundle.Bundle:
    if isinstance(place, bundle.Bundle):
        return place
    run = network.load(place, "latest", mesh)
    weights = jax.tree.map(np.asarray, run.variables)
    return bundle.Bundle(run.config, run.description, weights, run.step, place.path)


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """What is refused within is refused on all processes, as said of a setting."""
    otherwise = UserError(
        "expected a network that all processes can read, found that another one cannot; see what "
        "it says",
        about=_SETTING,
    )
    with parallel.together(otherwise):
        try:
            yield
        except UserError as error:
            setting = error.about if error.about.startswith("config.") else _SETTING
            raise UserError(error.message, about=setting) from error


def _check_settings(
    config: ml_collections.ConfigDict,
    described: Description,
    source: bundle.Bundle,
    into_scores: bool,
) -> None:
    """Refuses what makes another network, even where the arrays agree."""
    where = config.model.init_from
    ours, theirs = configuration.flatten(config), configuration.flatten(source.config)
    free: tuple[str, ...] = (*_FREE, "model.name") if into_scores else _FREE
    if not _of_one_size(described, source):
        free += (_GROUPS,)  # another value may be what keeps the groups (`_regrouped`)
    for key, setting in BY_KEY.items():
        if setting.section != "model" or key in free or ours[key] == theirs[key]:
            continue
        if setting.unread(ours) is None and setting.unread(theirs) is None:
            raise UserError(
                f"expected {theirs[key]!r}, as {where} has it, found {ours[key]!r}; set it so, or "
                f"leave {_SETTING} out",
                about=f"config.{key}",
            )
    channels, found = described.image_shape[-1], source.description.image_shape[-1]
    if channels != found:
        raise UserError(
            f"expected a network for images of {channels} channels, as those of "
            f"{config.data.name}, found one for {found} in {where}; start from another",
            about=_SETTING,
        )


def _of_one_size(described: Description, source: bundle.Bundle) -> bool:
    return described.image_shape[:2] == source.description.image_shape[:2]


def _regrouped(
    config: ml_collections.ConfigDict, described: Description, source: bundle.Bundle
) -> str:
    """What to tell where images of another size have the norms of a network in other groups.

    It starts from other features then than the source ends with. Groups are of so many values at
    least, and what a map has of them goes with the pixels of the image.
    """
    ours, theirs = configuration.flatten(config), configuration.flatten(source.config)
    if _of_one_size(described, source) or BY_KEY[_GROUPS].unread(ours) is not None:
        return ""
    before = _groups(source.config, source.description)
    if _groups(config, described) == before:
        return ""
    pixels = [math.prod(each.image_shape[:2]) for each in (described, source.description)]
    keeps = copy.deepcopy(config)
    keeps.model.group_elements = max(1, round(theirs[_GROUPS] * pixels[0] / pixels[1]))
    told = "; on images of this size its GroupNorms have other groups"
    if _groups(keeps, described) == before:
        told += f", config.model.group_elements={keeps.model.group_elements} would keep them"
    return told


def _groups(config: ml_collections.ConfigDict, described: Description) -> dict[tuple, int]:
    """How many groups each GroupNorm has, by its place in the network."""
    model = nnx.eval_shape(lambda: build.model(config, described, nnx.Rngs(0)))
    return {
        path: part.num_groups
        for path, part in nnx.iter_graph(model)
        if isinstance(part, nnx.GroupNorm)
    }


def _of_classes(
    config: ml_collections.ConfigDict,
    described: Description,
    wanted: dict[str, tuple[int, ...]],
) -> set[str]:
    """The names of the arrays that would have another shape with one class more."""
    more = replace(described, class_names=(*described.class_names, ""))
    shapes = jax.eval_shape(lambda: split(build.model(config, more, nnx.Rngs(0)))[1])
    return {name for name, shape in arrays.shapes(shapes).items() if shape != wanted[name]}


def _kind(name: str) -> str:
    """A name without the numbers of blocks."""
    return re.sub(r"\.\d+(?=\.)", "", name)


def _layers(names: Iterable[str]) -> str:
    """The kinds of layers that arrays like `params.layer4.0.condition.kernel` belong to."""
    parts = (_kind(name).split(".")[1:] for name in names)
    layers = list(dict.fromkeys(".".join(each[:-1] or each) for each in parts))
    more = len(layers) - _NAMED
    return ", ".join(layers[:_NAMED]) + (f" and {more} more" if more > 0 else "")
