"""A trained network as a folder of three files, the way the Hugging Face Hub keeps networks.

`model.safetensors` has the arrays by the paths of their variables, such as
`params.layer1.0.conv1.kernel`; `config.json` has what is needed to predict with them; `README.md`,
the model card, says to people what it is. Nothing else knows these files, but that `Places` tells a
bundle from a run by the first.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_collections
import ml_dtypes
import numpy as np

from didicm_jax import config as configuration
from didicm_jax import files
from didicm_jax.config import sets
from didicm_jax.errors import UserError, first_line
from didicm_jax.models.variables import Variables
from didicm_jax.run.description import Description
from didicm_jax.run.folder import stored_config
from didicm_jax.run.places import WEIGHTS_FILE, Places

LIBRARY = "didicm-jax"
# The networks that come with the package, a folder each.
PRETRAINED = Path(__file__).parents[1] / "pretrained"
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
CONFIG_FILE, CARD_FILE = "config.json", "README.md"

_HUB = "hf://"
_DIGEST = "weights_sha256"  # a bit that flips in the data of an array is not noticed otherwise


@dataclass(frozen=True)
class Bundle:
    """What a folder holds: all that predicting takes."""

    config: ml_collections.ConfigDict  # valid
    description: Description  # of the data set
    variables: Variables  # nested dicts of f32 NumPy arrays, the averages where the run kept them
    step: int  # of the training, at which these were
    path: Path = Path()  # of the folder that was read


def names() -> tuple[str, ...]:
    """The networks that come with the package."""
    return tuple(sorted(path.parent.name for path in PRETRAINED.glob(f"*/{CONFIG_FILE}")))


def find(source: str | os.PathLike) -> Bundle:
    """The network that a user names.

    Args:
      source: one of `names()`; or else a folder; or `hf://user/name`, with `@revision` if not the
        newest, which the Hugging Face Hub has or its cache on this machine.

    Raises:
      UserError: there is none, or its files are damaged or do not belong together.
    """
    source = os.fspath(source)
    if source.startswith(_HUB):
        return read(_download(source))
    if source in names():
        return read(PRETRAINED / source)
    folder = files.local(source, "pretrained")
    if folder.is_dir():
        return read(folder)
    raise UserError(
        f"expected a network of this package ({', '.join(names()) or 'which has none'}), a folder "
        f"or hf://user/name, found {source!r}; choose one of these",
        about="pretrained",
    )


def read(folder: Path) -> Bundle:
    """The network in a folder; whether its arrays are those of its config is not yet known.

    Raises:
      UserError: a file is missing or damaged.
    """
    if Places(folder).description_file.exists():
        raise UserError(
            f"expected a network without a run in {folder}, found a run; name it as workdir, or "
            "make such a folder of it with launch/convert.py",
            about="pretrained",
        )
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"expected {CONFIG_FILE} and {WEIGHTS_FILE} in {folder}, found no "
            f"{' and no '.join(missing)}; write the folder anew or copy it again",
            about="pretrained",
        )
    path = folder / CONFIG_FILE
    values = files.read_json(path)
    step, digest = values.get("step"), values.get(_DIGEST)
    if values.get("library_name") != LIBRARY or type(step) is not int or step < 0:
        found = {key: values.get(key) for key in ("library_name", "step")}
        raise UserError(
            f"{path}: expected a network of {LIBRARY} and the step that it is of, found "
            f"{str(found)[:100]}; use a folder that this project wrote"
        )
    config = stored_config(values.get("config"), path)
    description = Description.of_json(values, path)
    return Bundle(config, description, _read_weights(folder / WEIGHTS_FILE, digest), step, folder)


def write(folder: Path, bundle: Bundle, card: str, *, dtype: str = "float32") -> None:
    """Writes a folder, as a whole or not at all.

    Args:
      folder: not there yet, or empty.
      bundle: the network.
      card: the text of `README.md`.
      dtype: of the kernels, embeddings and whatever else has two axes or more, one of `DTYPES`.
        Scales, biases and statistics, which are few, always are float32.

    Raises:
      UserError: the folder holds something, or cannot be written.
    """
    from safetensors.numpy import save

    tensors = {name: _stored(array, dtype) for name, array in flatten(bundle.variables)}
    data = save(tensors, metadata={"format": LIBRARY})
    values = {
        "library_name": LIBRARY,
        "step": bundle.step,
        **asdict(bundle.description),
        _DIGEST: hashlib.sha256(data).hexdigest(),
        "config": json.loads(given_away(bundle.config).to_json()),
    }
    with files.new_folder(folder, about="hub") as partial:
        files.write_bytes(partial / WEIGHTS_FILE, data)
        files.write_json(partial / CONFIG_FILE, values)
        files.write_bytes(partial / CARD_FILE, card.encode())


def given_away(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A valid config without what is said of folders of one machine, which others do not have.

    Such are the folder of the data, evaluation sets that name one, and the run or bundle that a
    training began with.
    """
    values = json.loads(config.to_json())
    values["data"]["data_dir"] = ""
    named = values["evaluation"]["sets"]
    values["evaluation"]["sets"] = [text for text in named if not sets.says(text, "data_dir")]
    source = config.model.init_from
    if source not in names() and not source.startswith(_HUB):
        values["model"]["init_from"] = ""
    return configuration.from_json(values)  # what only those read goes, too


def flatten(variables: Variables) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays and their names, like `params.fc.kernel`."""

    def walk(name: str, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
        if isinstance(tree, Mapping):
            for key, value in tree.items():
                yield from walk(f"{name}.{key}", value)
        else:
            yield name, np.asarray(tree)

    for field, tree in variables._asdict().items():
        yield from walk(field, tree)


def _stored(array: np.ndarray, dtype: str) -> np.ndarray:
    return np.ascontiguousarray(array, DTYPES[dtype] if array.ndim > 1 else np.float32)


def _read_weights(path: Path, digest: str | None) -> Variables:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(f"it has not the {_DIGEST} of {CONFIG_FILE}")
        tensors = load_file(path)  # `load` knows no bfloat16
        found: dict[Any, Any] = {field: {} for field in Variables._fields}
        for name, tensor in tensors.items():
            # Of a list of modules the keys are numbers.
            keys = [int(key) if key.isdecimal() else key for key in name.split(".")]
            place = found
            for key in keys[:-1]:
                place = place.setdefault(key, {})
            place[keys[-1]] = tensor.astype(np.float32)
        return Variables(**found)
    # The last four are of odd names.
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(
            f"{path}: expected the arrays of a network, found what cannot be read "
            f"({type(error).__name__}: {first_line(error)[:120]}); write the folder anew or copy "
            "it again"
        ) from error


def _download(source: str) -> Path:
    """The folder of the Hub's cache, filled if need be."""
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@(\S+))?", source)
    if match is None:
        raise UserError(
            f"expected hf://user/name or hf://user/name@revision, found {source!r}; mend it",
            about="pretrained",
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f"expected huggingface_hub to read {source}, found none ({first_line(error)}); install "
            f"it with pip install '{LIBRARY}[hub]'",
            about="pretrained",
        ) from error
    wanted = [WEIGHTS_FILE, CONFIG_FILE, CARD_FILE]
    try:
        return Path(snapshot_download(match[1], revision=match[2], allow_patterns=wanted))
    except Exception as error:  # whatever a name, a network or a disk may raise
        raise UserError(
            f"expected a network of the Hugging Face Hub, found no {source} "
            f"({type(error).__name__}: {first_line(error)[:160]}); check the name or connect",
            about="pretrained",
        ) from error
