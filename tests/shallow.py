"""Shallow ResNets, for tests alone; as a program it is `launch/main.py` with them."""

import contextlib
import itertools
import runpy
import sys
from functools import partial
from pathlib import Path

from didicm_jax.models import registry, resnet

# Stages without a block compile in no time.
_DEPTHS = {"4": (0, 0, 0, 1), "10": (1, 1, 1, 1)}


@contextlib.contextmanager
def registered():
    """Makes `didirn4` and `resnet4`, of one block, and those of one block a stage known."""
    known = dict(registry.MODELS)  # by another file of tests too
    for kind, (number, blocks) in itertools.product(("didirn", "resnet"), _DEPTHS.items()):
        entry = registry.MODELS[f"{kind}18"]
        build = partial(entry.kind, resnet.Depth(blocks, False))
        registry.MODELS[kind + number] = entry._replace(build=build)
    yield
    registry.MODELS.clear()
    registry.MODELS.update(known)


if __name__ == "__main__":
    path = Path(__file__).parents[1] / "launch" / "main.py"
    sys.argv[0] = str(path)
    sys.path.insert(0, str(path.parent))
    with registered():
        runpy.run_path(str(path), run_name="__main__")
