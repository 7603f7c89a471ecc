"""Environments whose state holds observation, reward and end, as Brax and MuJoCo Playground write them."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from poise.envs.native.jax_env import JaxEnv


class BraxStyle(JaxEnv):
    """An environment with ``reset(key)`` and ``step(state, action)``, which never reset by themselves.

    Actions are from -1 to 1. What such an environment draws in a step, it draws from a key in its state.
    """

    def __init__(self, env: Any, time_limit: int):
        self.env, self.time_limit, self.fps = env, time_limit, 1 / float(env.dt)
        self._reset = jax.jit(env.reset, inline=True)  # traced once
        with their_ways():  # its own observation_size may run a whole reset, without compiling it
            obs = jax.eval_shape(self._reset, jax.random.key(0)).obs
        self.observation_space = _space(obs)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (int(env.action_size),))

    def reset(self, *, key: PRNGKeyArray) -> PyTree:
        with their_ways():
            return self._reset(key)

    def observe(self, state: Any) -> PyTree:
        return state.obs

    def step(
        self, state: Any, action: Float[Array, " A"], *, key: PRNGKeyArray
    ) -> tuple[PyTree, Float[Array, ""], Bool[Array, ""], dict[str, Array]]:
        with their_ways():
            after = self.env.step(state, action)
        info = {name: value for name, value in after.metrics.items() if jnp.shape(value) == ()}
        return after, jnp.asarray(after.reward, jnp.float32), jnp.asarray(after.done, bool), info


@contextmanager
def their_ways() -> Iterator[None]:
    """JAX as other people's code needs it, whatever this process demands of its own; without warnings."""
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")
        yield


def _space(obs: Any) -> gym.Space:
    if isinstance(obs, Mapping):
        return gym.spaces.Dict({name: _space(inner) for name, inner in obs.items()})
    return gym.spaces.Box(-np.inf, np.inf, obs.shape)
