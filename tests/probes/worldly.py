"""A tiny environment in each form: a class with arguments, functions, wrappers, one in JAX, a task."""

from typing import Literal

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
from gymnasium.utils import RecordConstructorArgs

import poise

FRAME = np.zeros((8, 8, 3), np.uint8)


class Walk(gym.Env):
    """Observes its arguments and the step; the reward is the gain."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        *,
        gain: float = 1.0,
        length: int = 5,
        fast: bool = False,
        mode: Literal["easy", "hard"] = "easy",
        bounds: tuple[float, float] = (0.0, 1.0),
        label: str | None = None,
        render_mode: str | None = None,
    ):
        self.observation_space = gym.spaces.Box(-99, 99, (5,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.gain, self.length, self.render_mode = gain, length, render_mode
        self.facts = [gain, float(fast), float(mode == "hard"), min(float(sum(bounds)), 9.0)]
        self.label = label

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._obs(), {}

    def step(self, action):
        self.count += 1
        return self._obs(), self.gain - abs(float(action[0])), self.count == self.length, False, {}

    def render(self):
        return FRAME

    def _obs(self):
        return np.array([*self.facts, self.count], np.float32)


def make_walk(gain: float = 1.0, render_mode: str | None = None):
    return Walk(gain=gain, render_mode=render_mode)


def make_two():
    return gym.vector.SyncVectorEnv([Walk, Walk])


def make_nothing():
    return None


def make_none(env):
    return None


NUMBER = 3


class Double(gym.RewardWrapper):
    """Rewards of twice the size."""

    def reward(self, reward):
        return 2 * reward


class Times(gym.RewardWrapper, RecordConstructorArgs):
    """Rewards times a factor. Its arguments are recorded."""

    def __init__(self, env, factor: float = 3.0):
        RecordConstructorArgs.__init__(self, factor=factor)
        gym.RewardWrapper.__init__(self, env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


class Unrecorded(gym.RewardWrapper):
    """As Times, without a record of its arguments."""

    def __init__(self, env, factor: float):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


def shifted(env):
    return gym.wrappers.TransformReward(env, lambda reward: reward + 10)


class JaxWalk(poise.JaxEnv):
    """Rewards its gain."""

    observation_space = gym.spaces.Box(-9, 9, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    time_limit = 5

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def reset(self, *, key):
        return jnp.float32(0)

    def observe(self, state):
        return state[None]

    def step(self, state, action, *, key):
        return state + 1, jnp.float32(self.gain), state > 99


class Reach(poise.Task):
    """A pole that rewards its gain."""

    model = "inverted_pendulum.xml"
    frame_skip, time_limit = 2, 5

    def __init__(self, gain: float = 1.0):
        import gymnasium.envs.mujoco

        self.model = f"{gymnasium.envs.mujoco.__path__[0]}/assets/inverted_pendulum.xml"
        self.gain = gain

    def draw(self, rng, qpos, qvel):
        return qpos, qvel

    def observe(self, batch):
        return np.concatenate([batch.qpos, batch.qvel], axis=1)

    def outcome(self, batch, before, action):
        return np.full(len(action), self.gain), np.zeros(len(action), bool)
