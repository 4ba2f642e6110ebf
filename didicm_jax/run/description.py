"""What a run must know of its data set when the data are not there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from didicm_jax import files
from didicm_jax.errors import UserError

if TYPE_CHECKING:
    from didicm_jax import data


@dataclass(frozen=True)
class Description:
    """The classes and the images of a data set, so that prediction does not need the data."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]  # height, width and channels that the network takes
    # `Source.digest` of the training examples, and of those that decide which checkpoint is best;
    # "": not known.
    trained_on: str = ""
    judged_on: str = ""

    @classmethod
    def of(cls, dataset: "data.Dataset") -> "Description":
        """The description of a data set."""
        return cls(dataset.class_names, dataset.image_shape)

    @classmethod
    def read(cls, path: Path) -> "Description":
        """The description that a file holds.

        Raises:
          UserError: it is not there, or damaged.
        """
        return cls.of_json(files.read_json(path), path)

    @classmethod
    def of_json(cls, values: Mapping[str, Any], path: Path) -> "Description":
        """The description among the values that the file at `path` holds.

        Raises:
          UserError: it is not there, or damaged.
        """
        try:
            height, width, channels = values["image_shape"]
            names = values["class_names"]
            digests = [values.get(key, "") for key in ("trained_on", "judged_on")]
            numbers = all(type(side) is int and side > 0 for side in (height, width, channels))
            texts = (
                names and isinstance(names, list) and all(isinstance(each, str) for each in names)
            )
            if not numbers or not texts or not all(isinstance(each, str) for each in digests):
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: expected class_names and an image_shape of three numbers above 0, found "
                f"{str(values)[:100]}; restore it from a copy"
            ) from error
        return cls(tuple(names), (height, width, channels), *digests)

    @property
    def num_classes(self) -> int:
        """The number of classes K."""
        return len(self.class_names)

    def mismatch(self, found: "Description") -> str:
        """What data should be like this, and are not, as "expected …, found …"; "" if they are."""
        if self.image_shape != found.image_shape:
            shapes = ["x".join(map(str, each.image_shape)) for each in (self, found)]
            return f"expected images of {shapes[0]}, found {shapes[1]}"
        if self.num_classes != found.num_classes:
            return f"expected {self.num_classes} classes, found {found.num_classes}"
        pairs = zip(self.class_names, found.class_names, strict=True)
        for place, (ours, theirs) in enumerate(pairs):
            if ours != theirs:
                return f"expected class {place} to be {ours!r}, found {theirs!r}"
        return ""
