"""Random numbers that are a pure function of (seed, position): no generator, no state.

Row n of the endless training sequence has one 64-bit draw; everything random about that row comes
from it, so that neither threads, nor processes, nor the step a run started at change it.

Shapes: B rows, D numbers for each.
"""

import numpy as np

# SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): a counter
# that moves by _STEP, and a mixing function whose output passes the usual batteries of tests.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def row_draws(seed: int, positions: np.ndarray, stream: int = 0) -> np.ndarray:
    """One draw u64[B] for each of the `positions` i64[B] of the training sequence.

    Args:
      seed: of the run, 0 or more.
      positions: places in the sequence, 0 or more.
      stream: 0 or more; streams of one seed have nothing to do with each other.
    """
    # SeedSequence spreads small seeds over all bits, so that seeds 0 and 1 share nothing.
    seeds = np.random.SeedSequence(seed, spawn_key=(stream,) if stream else ())
    key = seeds.generate_state(1, np.uint64)
    return _mix(key + positions.astype(np.uint64) * _STEP)


def uniforms(draws: np.ndarray, count: int) -> np.ndarray:
    """Numbers f64[B,D], uniform in [0, 1), D = `count` for each of the `draws` u64[B]."""
    counters = draws[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _STEP
    return (_mix(counters) >> np.uint64(11)) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    # Unsigned arrays wrap around silently, as this arithmetic wants.
    bits = (bits ^ (bits >> np.uint64(30))) * _FACTORS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _FACTORS[1]
    return bits ^ (bits >> np.uint64(31))
