"""The config file that a run began with, of which its model card tells what was changed."""

from typing import NamedTuple

import ml_collections
from absl import flags

from didicm_jax.cli.command_line import new_flags, parse


class Beginning(NamedTuple):
    """The config file that a run began with."""

    file: str  # with what stands behind its colon
    config: ml_collections.ConfigDict  # that it gives, with nothing changed

    @classmethod
    def of(cls, values: flags.FlagValues, argv: list[str]) -> "Beginning":
        """The config file of a command line, read again without what changes it."""
        file: str = values["config"].config_filename  # type: ignore[attr-defined]
        alone = [argv[0], f"--config={file}"]
        config = parse(new_flags(alone, "The same."), alone)
        assert config is not None
        return cls(file, config)
