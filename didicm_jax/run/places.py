"""Where the files of a run are. Nothing else knows their names."""

import re
from dataclasses import dataclass
from pathlib import Path

from didicm_jax import bucket, files
from didicm_jax.errors import UserError

WEIGHTS_FILE = "model.safetensors"  # of a bundle, which `run.bundle` reads and writes


@dataclass(frozen=True)
class Places:
    """Where the files of a run are."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The settings; written after all that a run cannot be without."""
        return self.path / "config.json"

    @property
    def description_file(self) -> Path:
        """`class_names` and `image_shape`."""
        return self.path / "dataset.json"

    @property
    def is_bundle(self) -> bool:
        """Whether here is a network without a run; weights may be exported into a run's folder."""
        return (self.path / WEIGHTS_FILE).exists() and not self.description_file.exists()

    @property
    def lock(self) -> Path:
        """What whoever trains the run holds."""
        return self.path / ".lock"

    @property
    def metrics_file(self) -> Path:
        """What training reports, a record a line."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The same, as TensorBoard reads it."""
        return self.path / "tensorboard"

    @property
    def wandb_file(self) -> Path:
        """By which `id` Weights & Biases knows the run."""
        return self.path / "wandb.json"

    @property
    def profile(self) -> Path:
        """Traces of training steps, which TensorBoard reads."""
        return self.path / "profile"

    @property
    def checkpoints(self) -> Path:
        """A folder for each step that is kept."""
        return self.path / "checkpoints"

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any(
            each.name.isdigit() and (not bucket.holds(each) or (each / bucket.COMMITTED).exists())
            for each in self.checkpoints.glob("*")
        )

    @property
    def damaged(self) -> Path:
        """Where checkpoints are put that turned out to be damaged."""
        return self.path / "damaged"

    @property
    def evaluation_file(self) -> Path:
        """What the network is worth, written when training ends and by evaluations."""
        return self.path / "evaluation.json"

    @property
    def files(self) -> tuple[Path, ...]:
        """What no other file may be written over."""
        return (
            self.config_file,
            self.description_file,
            self.metrics_file,
            self.wandb_file,
            self.evaluation_file,
        )

    @property
    def compilation_cache(self) -> Path:
        """Compiled programs, so that a restart need not compile."""
        return self.path / "compilation_cache"


def check_savable(path: Path, about: str = "run folder") -> None:
    """Refuses a folder in which no checkpoint could be saved, be it there or not.

    Raises:
      UserError: its path has what orbax takes for a pattern, or is no UTF-8.
    """
    # Orbax finds the parts of a checkpoint by a pattern, takes the whole path for one, and says
    # nothing of parts that it does not find. Of bytes that are no UTF-8 its writer is not told.
    found = str(files.resolved(path))
    if re.search("[*?[\udc80-\udcff]", found):
        raise UserError(
            "expected a folder with a path in UTF-8 and without any of *?[, for no checkpoint "
            f"could be saved there, found {found}; choose another",
            about=about,
        )
