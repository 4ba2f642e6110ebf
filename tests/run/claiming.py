"""What a run's folder is claimed with, and how the tests of this folder look at it."""

import pytest

from didicm_jax import config as configuration
from didicm_jax.errors import UserError
from didicm_jax.run import Description

DIGITS = Description(("zero", "one", "two"), (8, 8, 1))


def changed(**values):
    """The settings with other values: `section__key=value`."""
    config = configuration.default().unlock()
    config.update_from_flattened_dict({key.replace("__", "."): x for key, x in values.items()})
    return config.lock()


def contents(folder):
    """Of each file its bytes, and when it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def one_line(call, *parts):
    """A call ends in one line to the user that has these parts."""
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
