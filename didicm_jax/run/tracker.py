"""Weights & Biases: the records of a run, sent there too."""

import contextlib
import importlib.util
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from didicm_jax import files
from didicm_jax.errors import UserError
from didicm_jax.run.places import Places


def check() -> None:
    """Refuses to track a run without the package.

    Raises:
      UserError: it is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "config.report.wandb: expected the package wandb, found none; pip install "
            "'didicm-jax[wandb]'"
        )


class Tracker:
    """One run of Weights & Biases, the same at every start of a run.

    Where it reports to is told by the variables of Weights & Biases: WANDB_PROJECT, WANDB_ENTITY,
    WANDB_MODE=offline and so on. Once it has begun, it may fail and the run goes on without.
    """

    def __init__(
        self, places: Places, config: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        """Begins, or goes on.

        Args:
          places: of the run, which knows its name there.
          config: to show beside the curves.
          say: told of the first failure.

        Raises:
          UserError: it could not begin, or its name there is damaged.
        """
        check()
        import wandb

        self._say = say
        known = places.wandb_file.exists()
        name = _name(places.wandb_file) if known else secrets.token_hex(6)
        try:
            self._run: Any = wandb.init(
                id=name,
                resume="allow",
                name=files.resolved(places.path).name,
                dir=files.spool(places.path),
                config=dict(config),
                settings=wandb.Settings(console="off", silent=True),
            )
            # Its own steps only rise, and it drops what comes at one that it has: an evaluation
            # that a killed run makes up for, or one of a finished run.
            self._run.define_metric("*", step_metric="step")
        except Exception as error:  # whatever its service, network and account may raise
            raise UserError(
                "config.report.wandb: expected Weights & Biases to begin, found "
                f"{' '.join(str(error).split())[:200]}; log in with wandb login, set WANDB_MODE="
                "offline, or leave it out"
            ) from error
        if not known:
            files.write_json(places.wandb_file, {"id": name})

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Sends the record of a step, unless that has failed before."""
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **record})
        except Exception as error:
            found = " ".join(str(error).split())[:200]
            self._say(f"Weights & Biases failed ({found}); the run goes on without it")
            self.close()

    def close(self) -> None:
        """Sends what is left."""
        run, self._run = self._run, None
        if run is not None:
            with contextlib.suppress(Exception):
                run.finish()


def _name(path: Path) -> str:
    """By what a run is known there."""
    name = files.read_json(path).get("id")
    if not name or not isinstance(name, str):
        raise UserError(
            f"{path}: expected the id of a run, found {str(name)[:100]!r}; restore it from a copy, "
            "or remove it to begin another run there"
        )
    return name
