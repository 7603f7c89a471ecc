"""Random numbers of an observation: a function of the episode's seed and the step, for each simulation.

So an episode has the same noise in a training that resumes, beside any number of other simulations, and
wherever it is observed twice.
"""

import numpy as np
from jaxtyping import Float, Int, UInt64
from numpy.typing import ArrayLike

GOLDEN = 0x9E3779B97F4A7C15


class Noise:
    """Draws for the current state of N simulations. Each call gives new numbers, one row for each."""

    def __init__(self, seeds: Int[np.ndarray, " N"], steps: Int[np.ndarray, " N"]):
        places = (steps.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)
        self._rows = _mixed(_mixed(seeds.astype(np.uint64)) + places)
        self._calls = 0

    def uniform(
        self, low: ArrayLike = 0.0, high: ArrayLike = 1.0, size: int = 1
    ) -> Float[np.ndarray, "N size"]:
        """Numbers of [low, high), ``[N, size]``. ``low``, ``high``: numbers, or one for each column."""
        low, high = np.asarray(low), np.asarray(high)
        return low + (high - low) * self._unit(size)

    def normal(self, scale: ArrayLike = 1.0, size: int = 1) -> Float[np.ndarray, "N size"]:
        """Normal numbers with mean 0, ``[N, size]``. ``scale``: one deviation, or one for each column."""
        radius = np.sqrt(-2 * np.log1p(-self._unit(size)))  # Box and Muller 1958
        return np.asarray(scale) * radius * np.cos(2 * np.pi * self._unit(size))

    def _unit(self, size: int) -> Float[np.ndarray, "N size"]:
        """Numbers of [0, 1) with 53 random bits."""
        self._calls += 1
        rows = _mixed(self._rows + np.uint64(GOLDEN * self._calls % 2**64))
        columns = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(GOLDEN)
        return (_mixed(rows[:, None] + columns) >> np.uint64(11)) * 2.0**-53


def _mixed(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """64 bits that depend on all bits of ``x``: SplitMix64 (Steele et al. 2014), modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
