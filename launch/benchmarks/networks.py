"""The networks that the benchmarks compare: score models, and the plain ones on the same trunks."""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax import models
from didicm_jax.models.variables import Variables, split


class Late(NamedTuple):
    """A score model that sees the label late, and what it may cost."""

    conditioned: str
    options: dict[str, Any]
    sampling: float | None  # 8 steps of it, in passes of the plain network
    training: float | None  # a step with 8 draws per image, in steps of the plain network


class Family(NamedTuple):
    """A trunk."""

    score_model: str
    plain: str
    variants: tuple[Late, ...]


# The targets are those that the project set itself; None: no target, for comparison.
FAMILIES = (
    Family(
        "didivit_s16",
        "vit_s16",
        (
            Late("head", {"conditioned_blocks": 0}, 1.1, 1.6),
            Late("1 block", {"conditioned_blocks": 1}, None, None),
            Late("2 blocks", {"conditioned_blocks": 2}, 2.2, 1.6),
        ),
    ),
    Family(
        "didirn50",
        "resnet50",
        (
            Late("head", {"conditioned_stages": 0}, 1.1, 1.6),
            Late("1 stage", {"conditioned_stages": 1}, 2.5, None),
        ),
    ),
)


class Setting(NamedTuple):
    """How large the measured programs are."""

    batch: int
    resolution: int
    num_classes: int
    dtype: Any

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C]."""
        return (self.resolution, self.resolution, 3)


def setting(*, on_cpu: int) -> Setting:
    """ImageNet's for this machine: so many images in float32 on a CPU, 64 in bfloat16 elsewhere."""
    cpu = jax.default_backend() == "cpu"
    return Setting(on_cpu if cpu else 64, 224, 1000, jnp.float32 if cpu else jnp.bfloat16)


class Program(NamedTuple):
    """A compiled program and its floating-point operations per image."""

    call: Callable[[], Any]
    flops: float


def milliseconds(rounds: list[float], setting: Setting) -> float:
    """The median of rounds in seconds, per image."""
    return 1000 * statistics.median(rounds) / setting.batch


def create(
    name: str, setting: Setting, options: dict[str, Any] | None = None
) -> tuple[nnx.GraphDef, Variables]:
    """A new network, its structure and its arrays."""
    make = _maker(name, setting, options)
    return jax.eval_shape(make)[0], jax.jit(lambda: make()[1])()


def abstract(
    name: str, setting: Setting, options: dict[str, Any] | None = None
) -> tuple[nnx.GraphDef, Variables]:
    """Its structure and the shapes of its arrays."""
    structure, shapes = jax.eval_shape(_maker(name, setting, options))
    return structure, shapes


def _maker(
    name: str, setting: Setting, options: dict[str, Any] | None
) -> Callable[[], tuple[nnx.GraphDef, Variables]]:
    def make() -> tuple[nnx.GraphDef, Variables]:
        return split(
            models.create_model(
                name,
                num_classes=setting.num_classes,
                image_size=setting.resolution,
                # rbg: the draws of an initialisation compile in a third of the time of threefry's.
                rngs=nnx.Rngs(jax.random.key(0, impl="rbg")),
                dtype=setting.dtype,
                **(options or {}),
            )
        )

    return make
