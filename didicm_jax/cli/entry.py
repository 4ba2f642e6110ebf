"""How a command starts and ends."""

import sys
from collections.abc import Callable

from absl import logging


def run(main: Callable[[list[str]], int]) -> None:
    """Runs a command on the arguments of this process, and exits with its status."""
    # Orbax logs tracebacks of failed saves, which the run reports in one line.
    logging.set_verbosity(logging.FATAL)
    sys.exit(main(sys.argv))
