"""The commands in `launch/` and their flags, as their own help tells them."""

import contextlib
import functools
import importlib
import io
import re

NAMES = ("main", "study", "prepare", "convert", "demo", "bench", "chaos")


@functools.cache
def flags(name):
    """The names of the flags of `launch/NAME.py`, without dashes."""
    if name in ("bench", "chaos"):
        main, arguments = importlib.import_module(name).main, ["--help"]
    else:
        main = importlib.import_module(f"didicm_jax.cli.{name}").main
        arguments = [f"launch/{name}.py", "--help"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(arguments)
    found = set(re.findall(r"(?:^|[\s\[,])--(?:\[no\])?([a-z]\w*)", said.getvalue()))
    # What chaos does not know it hands on.
    return found | flags("main") if name == "chaos" else found
