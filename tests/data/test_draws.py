"""Random numbers as a pure function of (seed, position)."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from didicm_jax.data.draws import row_draws, uniforms


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**63), st.lists(st.integers(0, 2**50), min_size=1, max_size=20))
def test_a_row_does_not_depend_on_its_neighbours(seed, positions):
    together = uniforms(row_draws(seed, np.array(positions)), 22)
    for row, position in zip(together, positions, strict=True):
        alone = uniforms(row_draws(seed, np.array([position])), 22)
        np.testing.assert_array_equal(row, alone[0])
    assert together.min() >= 0
    assert together.max() < 1


def test_the_numbers_are_uniform_and_uncorrelated():
    numbers = uniforms(row_draws(3, np.arange(20_000)), 4)
    # The standard error of a mean of 20,000 is 0.002, of a correlation 0.007.
    np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(numbers.var(0), 1 / 12, atol=0.003)
    shifted = np.concatenate([numbers[:-1], numbers[1:]], axis=1)
    np.testing.assert_allclose(np.corrcoef(shifted.T), np.eye(8), atol=0.035)


def test_seeds_give_other_numbers():
    one, other = (row_draws(seed, np.arange(1000)) for seed in (0, 1))
    assert not np.intersect1d(one, other).size


def test_the_stream_never_changes():
    # SplitMix64 as published: from state 0 its first output is this one.
    first = uniforms(np.array([0], np.uint64), 1)[0, 0]
    assert first == (0xE220A8397B1DCDAF >> 11) * 2.0**-53
