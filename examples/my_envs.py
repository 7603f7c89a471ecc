"""A wrapper, and a function that makes an environment.

In this folder: poise train Pendulum-v1 --env.g 1.62 --wrapper my_envs:Smooth, or poise train my_envs:moon
"""

import gymnasium as gym
import numpy as np


class Smooth(gym.Wrapper):
    """Subtracts from each reward how much the action changed."""

    def __init__(self, env: gym.Env, weight: float = 0.1):
        super().__init__(env)
        self.weight = weight

    def reset(self, *, seed=None, options=None):
        self.last = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        change = 0.0 if self.last is None else float(np.abs(action - self.last).sum())
        self.last = np.array(action)
        return obs, float(reward) - self.weight * change, terminated, truncated, info


def moon(gravity: float = 1.62, render_mode: str | None = None) -> gym.Env:
    """A pendulum on the Moon."""
    return Smooth(gym.make("Pendulum-v1", g=gravity, render_mode=render_mode))
