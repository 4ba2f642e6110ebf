"""A folder of a run: its config, its checkpoints, its journal."""

from didicm_jax.run.description import Description
from didicm_jax.run.folder import RunFolder, read_config
from didicm_jax.run.places import Places, check_savable

__all__ = ["Description", "Places", "RunFolder", "check_savable", "read_config"]
