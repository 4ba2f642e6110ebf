"""Checkpoints as the tests of this folder open them, and what they ask of them."""

import contextlib

import jax

from didicm_jax import parallel
from didicm_jax.run.checkpoints import Checkpoints
from didicm_jax.run.saved import SavedCheckpoints


def opened(folder, **options):
    """Those of a run that is trained."""
    return contextlib.closing(Checkpoints(folder, **options))


def looked_at(folder, **options):
    """Those of a run that is only read."""
    return contextlib.closing(SavedCheckpoints(folder, **options))


def like(state):
    """The shapes of a state that is whole on every device."""
    sharding = parallel.replicated(parallel.make_mesh())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def kept(folder):
    """The steps whose checkpoints are there, in order."""
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
