"""The devices as one mesh, and several processes as one program."""

from didicm_jax.parallel.mesh import (
    AXIS,
    from_hosts,
    make_mesh,
    one_device,
    replicated,
    round_up,
    shard,
    spread,
    to_host,
)
from didicm_jax.parallel.processes import (
    agree,
    alone,
    any_process,
    barrier,
    gather,
    initialize,
    is_main,
    together,
)
from didicm_jax.parallel.watch import Watch, leave

__all__ = [
    "AXIS",
    "Watch",
    "agree",
    "alone",
    "any_process",
    "barrier",
    "from_hosts",
    "gather",
    "initialize",
    "is_main",
    "leave",
    "make_mesh",
    "one_device",
    "replicated",
    "round_up",
    "shard",
    "spread",
    "to_host",
    "together",
]
