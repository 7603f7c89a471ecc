"""Generalized advantage estimation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from poise.algo.hyperparameters import Number


def gae(
    reward: Float[Array, "T N"],
    value: Float[Array, "T N"],
    next_value: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    truncated: Bool[Array, "T N"],
    *,
    gamma: Number,
    lam: Number,
) -> Float[Array, "T N"]:
    """Advantage of each step, truncated to the trajectories of the rollout.

        delta_t = R_{t+1} + gamma (1 - terminated_t) V(next_obs_t) - V(obs_t)
        A_t     = delta_t + gamma lam (1 - done_t) A_{t+1},   done = terminated or truncated

    A termination counts the successor's value as 0; a time limit and the end of the rollout keep it
    (bootstrap). ``next_value`` is the value of the state the action led to, so a reset never enters.

    Source: Schulman et al. 2015, arXiv:1506.02438, eq. 16; time limits: Pardo et al. 2018,
    arXiv:1712.00378.
    """
    alive = 1.0 - terminated.astype(reward.dtype)  # 0 where the task ended: no value is left
    goes_on = 1.0 - (terminated | truncated).astype(reward.dtype)  # 1 if the next row is of this episode
    delta = reward + gamma * alive * next_value - value

    def step(later, now):
        delta, goes_on = now
        advantage = delta + gamma * lam * goes_on * later
        return advantage, advantage

    # unrolled, since on a CPU each turn of a loop costs more than the sums within it
    _, advantage = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, goes_on), reverse=True, unroll=8)
    return advantage
