"""What the page asks of a trained network, with one sampler or another.

Shapes: N images of `[H, W, C]`, K classes, S steps of the sampler.
"""

import functools
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from didicm_jax import config as configuration
from didicm_jax import diffusion
from didicm_jax.inference import sweep
from didicm_jax.inference.network import Network
from didicm_jax.inference.predictor import Prediction, Predictor

# One image, and as many as a corruption is shown at.
BUCKETS = (1, 8)
# Each is a program of its own, compiled when it is first asked for; more of them are forgotten.
_KEPT = 8
STEPS = (1, 2, 4, 8, 16, 32)
QUERIES = ("min", "max", "random")
ONE_SHOT = "one_shot"


class Sampler(NamedTuple):
    """A choice on the page."""

    name: str  # one of `Model.samplers`
    steps: int
    query: str


class Model:
    """A network and the programs that it is asked through, the last few of them."""

    def __init__(self, run: Network) -> None:
        """Takes a network from `inference.network.load`."""
        self._run = run
        self._predictor = functools.lru_cache(maxsize=_KEPT)(self._new_predictor)
        # Any will do: what an image is shown as does not depend on the sampler.
        self.load = self._predictor(None).load

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return self._run.description.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """H, W and C."""
        return self._run.description.image_shape

    @property
    def samplers(self) -> dict[str, dict[str, Any]]:
        """What may be chosen, as settings of `config.sampler`; nothing for a classifier.

        The integrators stand for the sampler of probabilities, `cp`.
        """
        if self._run.config.method != "didicm":
            return {}
        own = self._run.config.sampler
        return {
            # A grid that the run was told is for its own integrator.
            **{
                f"cp {name}": {"name": "cp", "integrator": name}
                | ({} if name == own.integrator else {"grid": "auto"})
                for name in diffusion.INTEGRATORS
            },
            "cl": {"name": "cl"},
            ONE_SHOT: {"name": ONE_SHOT},
        }

    @property
    def own_sampler(self) -> Sampler:
        """The run's own."""
        own = self._run.config.sampler
        name = f"cp {own.integrator}" if own.name == "cp" else own.name
        return Sampler(name, own.steps, own.query)

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of steps that may be chosen: few, as each is a program to compile."""
        return tuple(sorted({*STEPS, self._run.config.sampler.steps}))

    def reads(self, name: str, setting: str) -> bool:
        """Whether the sampler `name` reads a setting of `config.sampler`, such as `query`."""
        chosen = self.samplers.get(name)
        return chosen is not None and setting in configuration.sampler_reads(
            self._run.config.method, chosen["name"]
        )

    def ask(self, pixels: np.ndarray, sampler: Sampler | None) -> Prediction:
        """The posteriors of images as `load` gives them.

        Args:
          pixels: u8[N, H, W, C].
          sampler: None for a classifier, which has none, and else for the run's own.

        Raises:
          UserError: a setting is not valid, or the posteriors are not finite.
        """
        return self._predictor(self._settings(sampler)).predict(pixels)

    def warm(self) -> None:
        """Compiles what the first image needs, so that nobody waits for it.

        Raises:
          UserError: the posteriors are not finite.
        """
        black = np.zeros((1, *self.image_shape), np.uint8)
        for name in dict.fromkeys([self.own_sampler.name, ONE_SHOT]):
            self.ask(black, self.own_sampler._replace(name=name))

    def _settings(self, sampler: Sampler | None) -> tuple[tuple[str, Any], ...] | None:
        """The settings that the sampler reads, for one program whatever the others are."""
        if sampler is None or not self.samplers:
            return None
        chosen = self.samplers[sampler.name] | {
            key: getattr(sampler, key)
            for key in ("steps", "query")
            if self.reads(sampler.name, key)
        }
        return tuple(sorted(chosen.items()))

    def _new_predictor(self, settings: tuple[tuple[str, Any], ...] | None) -> Predictor:
        config: ml_collections.ConfigDict = self._run.config
        if settings is not None:
            config = sweep.changed(config, dict(settings))
        return Predictor(self._run._replace(config=config), buckets=BUCKETS)
