"""The records that everything else exchanges.

Letters in every annotation: ``T`` steps of a rollout, ``N`` environments, ``B = T * N`` rows,
``O`` observation size, ``A`` action size. A record holds arrays only, from JAX or NumPy.
"""

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Shaped

Tensor = jax.Array | np.ndarray


class PoiseError(Exception):
    """Something the user can mend; its message is shown without a traceback.

    ``exit_code`` is what the command exits with: 2 for arguments, 1 for a run that failed.
    """

    exit_code = 2


@dataclass(frozen=True)
class Spec:
    """What an agent must know of its environment: shapes, bounds and the time limit.

    ``obs_size`` counts the entries of one observation; higher ranks are flattened in C order.
    ``action_size`` is the number of dimensions of a continuous action, or the number of choices of
    a discrete one. ``action_low`` and ``action_high`` (continuous only) are the environment's
    bounds, one per dimension. ``time_limit`` is in steps; None where episodes have no limit.
    """

    id: str
    obs_size: int
    action_size: int
    discrete: bool
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    time_limit: int | None = None


class EnvStep(NamedTuple):
    """What one step of every environment returned. No reset happens inside a step."""

    next_obs: Float[np.ndarray, "N O"]
    reward: Float[np.ndarray, " N"]
    terminated: Bool[np.ndarray, " N"]
    truncated: Bool[np.ndarray, " N"]


class Rollout(eqx.Module):
    """Facts only. Values, log-probabilities and advantages are computed from it by ``prepare``."""

    obs: Float[Tensor, "T N O"]  # raw
    action: Shaped[Tensor, "T N ..."]  # as sampled, in the policy's units; an index where discrete
    reward: Float[Tensor, "T N"]  # raw
    next_obs: Float[Tensor, "T N O"]  # where the action led, never a reset observation
    terminated: Bool[Tensor, "T N"]  # the task ended: V(next_obs) counts as 0
    truncated: Bool[Tensor, "T N"]  # a time limit cut in: V(next_obs) is bootstrapped


class Batch(eqx.Module):
    """What learning reads: one row per step, ``[B, ...]``, indexed by minibatch.

    ``obs`` is normalized with the statistics that were frozen for this iteration.
    """

    obs: Float[Tensor, "B O"]
    action: Shaped[Tensor, "B ..."]
    log_prob: Float[Tensor, " B"]
    advantage: Float[Tensor, " B"]
    target: Float[Tensor, " B"]


@dataclass(frozen=True)
class Episode:
    """One finished episode: raw return, length in steps, and the run's step at which it ended."""

    env: int
    index: int
    step: int
    episodic_return: float
    length: int
    terminated: bool
