"""The recipe without gathers: what it asks of a chip, and which devices it is for.

Its pictures are compared with PIL's in the tests of each operation.
"""

import dataclasses

import jax
import numpy as np
import pytest

from didicm_jax import config as configuration
from didicm_jax.config import build
from tests.augment.test_policy import STRONG

B, SIZE, K = 64, 24, 5
TPU = dataclasses.replace(STRONG, gathers=False)
IMAGES = np.random.RandomState(0).randint(0, 256, (B, SIZE, SIZE, 3)).astype(np.uint8)
LABELS = np.random.RandomState(1).randint(0, K, B).astype(np.int32)


def equations(jaxpr):
    """All operations of a program, those of its loops and branches too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (list, tuple)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def small_reads(policy):
    """Names of the operations that read or write less than an image of what holds images, and of
    the loops over images whose length is not known."""
    keys = jax.random.split(jax.random.key(0), B)
    traced = jax.make_jaxpr(lambda k, i, j: policy.train(k, i, j, K))(keys, IMAGES, LABELS)
    pixels, found = SIZE * SIZE, []
    for equation in equations(traced.jaxpr):
        name, shapes = equation.primitive.name, [v.aval.shape for v in equation.outvars]
        operand = equation.invars[0].aval.size if equation.invars else 0
        largest = max([operand, *(np.prod(shape, dtype=int) for shape in shapes)])
        if name == "while" or largest < pixels:
            read = 0
        elif name in ("gather", "dynamic_slice"):
            read = np.prod(equation.params["slice_sizes"])
        elif name.startswith("scatter"):
            numbers, updates = equation.params["dimension_numbers"], equation.invars[2].aval.shape
            read = np.prod([updates[axis] for axis in numbers.update_window_dims], dtype=int)
        elif name == "dynamic_update_slice":
            read = equation.invars[1].aval.size
        else:
            continue
        if largest >= pixels and read < pixels:
            found.append(name)
    return found


def test_no_pixel_is_read_by_an_index_and_loops_over_images_have_a_known_length():
    assert small_reads(TPU) == []
    # So that the count above could find something.
    assert {"gather", "scatter-add", "while"} <= set(small_reads(STRONG))


@pytest.mark.parametrize(("platform", "gathers"), [("tpu", False), ("cpu", True), ("gpu", True)])
def test_the_platform_of_the_devices_decides(platform, gathers):
    policy = build.policy(configuration.default(), platform)
    assert policy.gathers is gathers
    assert dataclasses.replace(policy, gathers=True) == build.policy(configuration.default(), "cpu")
