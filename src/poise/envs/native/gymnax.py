"""gymnax's environments: ``gymnax:CartPole-v1``. The only file that imports gymnax."""

import dataclasses
from typing import Any, cast

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
from gymnax import make as make_gymnax
from gymnax import registered_envs
from gymnax.environments import spaces
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from poise.envs.native.brax_style import their_ways
from poise.envs.native.jax_env import JaxEnv

# the first downloads its pictures when it is made, the second cannot take a step (gymnax 0.0.9)
_LEFT_OUT = {"MNISTBandit-bsuite", "SimpleBandit-bsuite"}
_NEVER = 2**30  # steps


def names() -> list[str]:
    return [name for name in registered_envs if name not in _LEFT_OUT]


def make(name: str) -> JaxEnv:
    with their_ways():
        return _GymnaxEnv(*make_gymnax(name))


class _GymnaxEnv(JaxEnv):
    """One of gymnax's. Its time limit is taken out of its end of an episode, which does not distinguish them.

    The state is gymnax's with its observation, since gymnax returns both at once.
    """

    def __init__(self, env: Any, params: Any):
        self._env, self._params = env, params
        self.observation_space = _space(env.observation_space(params))
        self.action_space = _space(env.action_space(params))
        limit = params.max_steps_in_episode
        self.time_limit = int(limit)
        self._unlimited = dataclasses.replace(params, max_steps_in_episode=type(limit)(_NEVER))

    def reset(self, *, key: PRNGKeyArray) -> PyTree:
        with their_ways():
            obs, state = self._env.reset_env(key, self._params)
        return state, obs

    def observe(self, state: PyTree) -> PyTree:
        return state[1]

    def step(
        self, state: PyTree, action: PyTree, *, key: PRNGKeyArray
    ) -> tuple[PyTree, Float[Array, ""], Bool[Array, ""]]:
        with their_ways():
            obs, after, reward, _, _ = self._env.step_env(key, state[0], action, self._params)
            # once more for the end without the limit: XLA computes what is the same only once
            _, _, _, terminated, _ = self._env.step_env(key, state[0], action, self._unlimited)
        return (after, obs), jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)


def _space(space: Any) -> gym.Space:
    match space:
        case spaces.Discrete():
            return gym.spaces.Discrete(int(space.n))
        case spaces.Box():
            dtype: Any = np.dtype(space.dtype)
            low, high = (np.broadcast_to(np.asarray(b, dtype), space.shape) for b in (space.low, space.high))
            return gym.spaces.Box(low, high, dtype=dtype)
        case spaces.Dict():
            return gym.spaces.Dict({key: _space(inner) for key, inner in space.spaces.items()})
        case spaces.Tuple():
            return gym.spaces.Tuple([_space(inner) for inner in space.spaces])
    return cast(gym.Space, space)
