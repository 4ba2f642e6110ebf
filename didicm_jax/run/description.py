"""What a run's workdir says about its data set, so that prediction does not need the data.

`dataset.json`: `class_names`, and `image_shape`, the height, width and channels that the network
takes.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from didicm_jax import data, files, parallel
from didicm_jax.errors import UserError

_FILE = "dataset.json"


@dataclass(frozen=True)
class Description:
    """The classes and the images of a data set."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)


def of(dataset: data.Dataset) -> Description:
    """The description of a data set."""
    return Description(dataset.class_names, dataset.image_shape)


def write(workdir: Path, described: Description) -> None:
    """Writes `dataset.json`, on the first process.

    Raises:
      UserError: the folder cannot be written.
    """
    if not parallel.is_main():
        return
    try:
        files.write_json(workdir / _FILE, asdict(described))
    except OSError as error:
        raise UserError(
            f"--workdir: expected a folder that can be written, found {error}; choose another"
        ) from error


def read(workdir: Path) -> Description | None:
    """Reads `dataset.json`; None in the workdir of a run that was made before there was one.

    Raises:
      UserError: it is damaged.
    """
    path = workdir / _FILE
    if not path.exists():
        return None
    values = files.read_json(path)
    try:
        height, width, channels = (int(side) for side in values["image_shape"])
        names = tuple(str(name) for name in values["class_names"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: expected class_names and an image_shape of three numbers, found "
            f"{str(values)[:100]}; delete it, and it is made anew when the run is started again"
        ) from error
    return Description(names, (height, width, channels))
