"""Settings of the sampler, which makes posteriors with the network of a diffusion."""

from didicm_jax.config.checks import Choice, Number
from didicm_jax.config.setting import BELOW_ONE, SHARES, Change, Setting, among

_DIDICM = among("method", "didicm")
_CP = (_DIDICM, among("sampler.name", "cp"))
_CL = (_DIDICM, among("sampler.name", "cl"))
_DIFFUSING = (_DIDICM, among("sampler.name", "cp", "cl"))
_ONE_SHOT = (_DIDICM, among("sampler.name", "one_shot"))


def _integrators() -> tuple[str, ...]:
    from didicm_jax import diffusion  # it brings jax

    return tuple(diffusion.INTEGRATORS)


SETTINGS = (
    Setting(
        "sampler.name",
        "cp",
        "class probabilities, class labels, or a single call of the network",
        Choice(("cp", "cl", "one_shot")),
        read=(_DIDICM,),
        change=Change.ALWAYS,
    ),
    Setting(
        "sampler.steps",
        8,
        "calls of the network",
        Number(1, 100_000),
        read=_DIFFUSING,
        change=Change.ALWAYS,
    ),
    Setting(
        "sampler.query",
        "min",
        "label that the network is asked about: the least or most probable, or a draw",
        Choice(("min", "max", "random")),
        read=_CP,
        change=Change.ALWAYS,
    ),
    Setting(
        "sampler.integrator",
        "euler",
        "how a step is made",
        Choice(_integrators),
        read=_CP,
        change=Change.ALWAYS,
    ),
    Setting(
        "sampler.grid",
        "auto",
        "times of the steps; auto: the integrator's own, original for euler and cl, linear for "
        "exact and heun",
        Choice(("auto", "original", "linear")),
        read=_DIFFUSING,
        change=Change.ALWAYS,
    ),
    Setting(
        "sampler.tolerance",
        0.0,
        "total variation that a posterior may still have to go when it stops early; 0: all steps",
        Number(0, 1),
        read=_CP,
        change=Change.ALWAYS,
    ),
    Setting(
        "sampler.chains",
        10,
        "labels per image",
        Number(1, 2**24),  # float32 counts them one by one up to here
        read=_CL,
        change=Change.ALWAYS,
    ),
    Setting(
        "sampler.min_time",
        1e-5,
        "time at which the diffusion ends",
        BELOW_ONE,
        read=_DIFFUSING,
        change=Change.ALWAYS,
    ),
    Setting(
        "sampler.time",
        0.6,
        "time, and with it noise, at which the network is asked",
        SHARES,
        read=_ONE_SHOT,
        change=Change.ALWAYS,
    ),
)
