"""Your own environment: keep the water of a leaking tank at a level that changes.

In this folder: poise check tank:Tank, then poise train tank:Tank
"""

import gymnasium as gym
import numpy as np


class Tank(gym.Env):
    """Observation: the level (m), the level wanted (m). Action: how far the valve is open, 0 to 1."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(0.0, 2.0, (2,), np.float32)
        self.action_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # seeds self.np_random
        self.level, self.wanted = self.np_random.uniform(0.2, 1.8, size=2)
        self.steps = 0
        return self._obs(), {}

    def step(self, action):
        inflow, outflow = 0.2 * float(action[0]), 0.08 * np.sqrt(self.level)
        self.level = float(np.clip(self.level + inflow - outflow, 0.0, 2.0))
        self.steps += 1
        reward = -abs(self.level - self.wanted)
        spilled = self.level == 2.0  # an end: nothing comes after
        return self._obs(), reward - 10.0 * spilled, spilled, self.steps == 100, {}

    def _obs(self):
        return np.array([self.level, self.wanted], np.float32)
