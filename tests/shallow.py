"""ResNets of one block a stage, for tests alone; as a program it is `launch/main.py` with them."""

import contextlib
import runpy
import sys
from functools import partial
from pathlib import Path

from didicm_jax.models import registry, resnet


@contextlib.contextmanager
def registered():
    """Makes `didirn10` and `resnet10` known."""
    depth = resnet.Depth((1, 1, 1, 1), False)
    rows = {"didirn10": "didirn18", "resnet10": "resnet18"}
    known = dict(registry.MODELS)  # by another file of tests too
    for name, like in rows.items():
        entry = registry.MODELS[like]
        registry.MODELS[name] = entry._replace(build=partial(entry.kind, depth))
    yield
    registry.MODELS.clear()
    registry.MODELS.update(known)


if __name__ == "__main__":
    path = Path(__file__).parents[1] / "launch" / "main.py"
    sys.argv[0] = str(path)
    sys.path.insert(0, str(path.parent))
    with registered():
        runpy.run_path(str(path), run_name="__main__")
