"""Keeps the digits of observations that are far from 0: Unix time, map coordinates, prices in the millions.

A float32 has 24 bits. At 1.7e9 its neighbors are 128 apart, so it cannot tell 1.7e9 from 1.7e9 + 10. Most
environments compute in float64, which can. Therefore an origin, one float32 for each entry, is subtracted in
float64 before the observation becomes float32. It is part of the learner's state, saved and exported with
the policy. Most tasks need no origin: then nothing is subtracted, and no bit changes.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from poise.algo.normalize import Normalizer, RunningStats, numbers_of, with_numbers
from poise.algo.state import TrainState
from poise.config import Normalize
from poise.spec import NUMBERS
from poise.types import Rollout, Tensor

FAR = 2.0**17  # standard deviations from 0 at which float32's steps are 1/128 of a standard deviation
LEAST_SPREAD = 1e-4  # smaller deviations do not count: normalization adds 1e-8 to every variance


def with_origin(before: Normalizer, obs: Any, config: Normalize) -> Normalizer:
    """The normalizer with an origin that suits the observations of a rollout, ``[T, N, ...]``: ``before``
    itself if its origin does.

    An entry gets a new origin, their mean, where that mean is more than ``FAR`` deviations away from
    the old one. The statistics, which are relative to the origin, move with it.
    """
    numbers = _numbers(obs)
    if not config.obs or numbers is None:
        return before
    rows = numbers.reshape(-1, numbers.shape[-1])
    old = np.zeros(rows.shape[1]) if before.origin is None else np.asarray(before.origin, np.float64)
    mean, spread = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    far = np.abs(mean - old) > FAR * np.maximum(spread, LEAST_SPREAD)
    if not far.any():
        return before
    new = np.where(far, mean, old).astype(np.float32)
    stats = before.obs
    if stats.count > 0:  # the same observations, written relative to another point
        moved = np.asarray(stats.mean, np.float64) + old - new
        stats = RunningStats(stats.count, jnp.asarray(moved, jnp.float32), stats.m2)
    return dataclasses.replace(before, obs=stats, origin=new)


def relative_to_origin(state: TrainState, rollout: Rollout, config: Normalize) -> tuple[TrainState, Rollout]:
    """The state with an origin that suits ``rollout``, and the rollout relative to it."""
    normalizer = with_origin(state.normalizer, rollout.obs, config)
    return dataclasses.replace(state, normalizer=normalizer), relative(rollout, normalizer)


def from_origin(
    obs: Float[np.ndarray, "*B O"], origin: Float[Tensor, " O"] | None
) -> Float[np.ndarray, "*B O"]:
    """float32(obs - origin), the difference in float64."""
    if origin is not None:
        obs = obs - np.asarray(origin, np.float64)
    return obs.astype(np.float32, copy=False)


def obs_from_origin(obs: Any, origin: Float[Tensor, " O"] | None) -> Any:
    """The observation with its numbers, if it has any, as ``from_origin`` gives them."""
    if isinstance(obs, dict) and NUMBERS not in obs:
        return obs
    return with_numbers(obs, from_origin(numbers_of(obs), origin))


def relative(rollout: Rollout, normalizer: Normalizer) -> Rollout:
    """The rollout with observations as float32, relative to the origin."""
    if _numbers(rollout.obs) is None:
        return rollout
    obs, next_obs = (
        with_numbers(x, from_origin(numbers_of(x), normalizer.origin))
        for x in (rollout.obs, rollout.next_obs)
    )
    return dataclasses.replace(rollout, obs=obs, next_obs=next_obs)


def _numbers(obs: Any) -> Float[np.ndarray, "T N O"] | None:
    """The numbers of observations from the host; None if there are none.

    Tasks in JAX compute in float32 themselves: there are no digits to keep.
    """
    numbers = obs.get(NUMBERS) if isinstance(obs, dict) else obs
    return numbers if isinstance(numbers, np.ndarray) else None
