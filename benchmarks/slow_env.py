"""An environment in Python whose step takes a millisecond, all of it on a core: for ``peers.py``."""

import time

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

SECONDS = 1e-3  # of a step


class Slow(gym.Env):
    """A point on a line that is pushed toward 0."""

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = Box(-10, 10, (4,), np.float32)
        self.action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return self._state.copy(), {}

    def step(self, action):
        until = time.perf_counter() + SECONDS
        self._state = np.clip(0.9 * self._state + 0.1 * np.float32(action[0]), -10, 10)
        while time.perf_counter() < until:
            pass
        return self._state.copy(), -float(np.abs(self._state).sum()), False, False, {}


gym.register("Slow-v0", Slow, max_episode_steps=100)
